"""The names of the keys in Redis, all under one namespace."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Keys:
    namespace: str

    def _(self, *parts: str) -> str:
        return ":".join((self.namespace, *parts))

    def job(self, job_id: str) -> str:
        """HASH: v version, s status, d record, c claiming boot, cn and n nonces."""
        return self._("job", job_id)

    def job_events(self, job_id: str) -> str:
        """LIST of events, oldest first."""
        return self._("job", job_id, "events")

    def job_log(self, job_id: str) -> str:
        """LIST of `LogLine`s, oldest first: the latest that what runs for the job has said."""
        return self._("job", job_id, "log")

    def branches(self, job_id: str) -> str:
        """HASH: task id -> `<index>|<result or nothing>`, #fanout, #left."""
        return self._("job", job_id, "branches")

    def task(self, task_id: str) -> str:
        """HASH: one attempt; see redis_tasks.py for its fields."""
        return self._("task", task_id)

    def queued(self, task_type: str) -> str:
        """SET of unclaimed attempts in the plain queue of their type."""
        return self._("queued", task_type)

    @property
    def parked(self) -> str:
        """HASH: `<type>\\n<lane>` -> the limit that the lane waits for, and its size. More about lanes: scripts/lib_lanes.lua."""
        return self._("parked")

    @property
    def picking(self) -> str:
        """SET of task types of which tasks wait for a pick."""
        return self._("picking")

    def lane(self, task_type: str, lane: str) -> str:
        """ZSET of tasks that wait, in their order."""
        return self._("lane", task_type, lane)

    def stops(self, boot_id: str) -> str:
        """HASH: task that a process should stop -> its job."""
        return self._("stops", boot_id)

    def handing(self, boot_id: str) -> str:
        """ZSET of claimed attempts that are being handed to an HTTP worker, by the time of their claim."""
        return self._("handing", boot_id)

    @property
    def news(self) -> str:
        """Channel of `News`."""
        return self._("news")

    def outcomes(self, worker_id: str) -> str:
        """LIST of `<time> <outcome>`, oldest first."""
        return self._("outcomes", worker_id)

    def reputation(self, worker_id: str) -> str:
        """STRING: a worker's reputation."""
        return self._("reputation", worker_id)

    def unrouted(self, task_type: str) -> str:
        """SET of attempts that wait for a worker that names their task."""
        return self._("unrouted", task_type)

    @property
    def unrouted_types(self) -> str:
        """SET of the tasks that attempts wait for so."""
        return self._("unrouted")

    def claims(self, boot_id: str) -> str:
        """HASH: `j:<job>` -> key of its control message; `t:<task>` (claimed), `d:<task>` (assigned) -> capability."""
        return self._("claims", boot_id)

    def worker(self, worker_id: str) -> str:
        """HASH: b boot, d record, e expires at, at last heartbeat; the others are told in scripts/lib_fleet.lua."""
        return self._("worker", worker_id)

    def lock(self, name: str) -> str:
        return self._("lock", name)

    def requests(self, key: str) -> str:
        """STRING: until when the requests of a token so far are paid for, in microseconds since the epoch."""
        return self._("requests", key)

    def attempts(self, client: str, period: str) -> str:
        """STRING: how many jobs a client has asked for in a month."""
        return self._("attempts", client, period)

    def call(self, nonce: str) -> str:
        """STRING: there for a minute after a call that must not count twice."""
        return self._("call", nonce)

    def jobs_by_status(self, status: str) -> str:
        """ZSET of job ids by the time of their last change."""
        return self._("jobs", "status", status)

    def jobs_by_client(self, client: str) -> str:
        """ZSET of job ids by creation."""
        return self._("jobs", "client", client)

    def listed(self, blueprint: str, client: str | None = None, *, live: bool = False) -> str:
        """ZSET of ids of a listed blueprint's jobs by creation; of those that have not ended by `listed.place_of`."""
        name = self._("jobs", "live" if live else "of", blueprint)
        return name if client is None else f"{name}:client:{client}"

    @property
    def held(self) -> str:
        """HASH: blueprint -> since when its new jobs are held back, and by whom."""
        return self._("held")

    def idempotency(self, client: str, key: str) -> str:
        """STRING: `<hash of the request> <job id>`."""
        return self._("idempotency", quote(client, safe=""), key)

    @property
    def jobs(self) -> str:
        """ZSET of job ids by creation."""
        return self._("jobs")

    @property
    def expiring(self) -> str:
        """ZSET of `<job> <status> <client>` of ended jobs by the time at which they are forgotten."""
        return self._("expiring")

    @property
    def events(self) -> str:
        """STREAM of every event of every job: e event, n its place in its job's list, j the job where it begins or ends."""
        return self._("events")

    @property
    def unclaimed(self) -> str:
        """ZSET of dispatched attempts by the time of their dispatch."""
        return self._("unclaimed")

    @property
    def timers(self) -> str:
        """ZSET of `Timer.member` by due time."""
        return self._("timers")

    @property
    def boots(self) -> str:
        """ZSET of boot ids by the time at which they count as dead; 0 for those that have ended."""
        return self._("boots")

    @property
    def workers(self) -> str:
        """SET of registered worker ids."""
        return self._("workers")

    @property
    def sockets(self) -> str:
        """ZSET of workers (`*`: all HTTP workers) whose WebSocket a facade holds, by the time until which it says so."""
        return self._("sockets")

    @property
    def pins(self) -> str:
        """HASH: task -> capability."""
        return self._("pins")

    @property
    def ledger(self) -> str:
        """HASH: control messages without an answer, by their key."""
        return self._("ledger")

    @property
    def ledger_at(self) -> str:
        """ZSET of those keys by the time of their last publish."""
        return self._("ledger", "at")

    def delivery(self, delivery_id: str) -> str:
        """HASH: v version, d record."""
        return self._("delivery", delivery_id)

    @property
    def receivers(self) -> str:
        """ZSET of receivers by the time at which the first of their deliveries is due; see guarded.lua."""
        return self._("deliveries")

    def deliveries_to(self, receiver: str) -> str:
        """ZSET of a receiver's delivery ids by due time, of those that are not over."""
        return self._("deliveries", receiver)

    def schedule(self, name: str) -> str:
        """HASH: d record, a anchor, at next due time, p pause, l last firing, n nonce."""
        return self._("schedule", name)

    @property
    def schedules(self) -> str:
        """HASH: schedule -> digest of its record, of all that there are."""
        return self._("schedules")

    @property
    def schedules_due(self) -> str:
        """ZSET of those that are not paused by their next due time."""
        return self._("schedules", "due")

    def secret(self, name: str) -> str:
        """STRING: a secret of this installation."""
        return self._("secret", name)

    @property
    def outbox(self) -> str:
        """HASH of messages that still have to reach the broker."""
        return self._("outbox")

    @property
    def outbox_at(self) -> str:
        """ZSET of their ids by the time of their commit."""
        return self._("outbox", "at")
