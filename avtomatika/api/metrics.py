"""Prometheus metrics: requests are counted as they are answered, the rest is asked of the store and the broker on request."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry, Counter, Histogram, Info, Metric, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily

from avtomatika import __version__
from avtomatika.jobs import JobStatus, WorkerRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class RequestMetrics:
    """How many requests this facade has answered, and how fast. By route, not by path, so that ids make no series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        Info("avtomatika_facade", "This facade.", registry=self.registry).info({"version": __version__})
        self._requests = Counter(
            "avtomatika_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "avtomatika_http_request_seconds",
            "From the request's head to its whole answer.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        # As many as there are series; finding one's own costs a lock and a tuple of texts each time.
        self._counted = cache(self._requests.labels)
        self._timed = cache(self._seconds.labels)

    def observe(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Counts one request. Anybody can invent a method, which is to make no series either.

        Args:
            seconds: None for an answer that waits or streams: its length says nothing about the facade.
        """
        method = method if method in _METHODS else "other"
        self._counted(method, route, status).inc()
        if seconds is not None:
            self._timed(method, route).observe(seconds)


def measuring(metrics: RequestMetrics) -> Middleware:
    """Observes every request; the outermost, so that it sees the answers of the others."""

    @web.middleware
    async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
        began, status = time.perf_counter(), 499  # 499: the client hung up before there was an answer
        try:
            response = await handler(request)
            status = response.status
            return response
        except web.HTTPException as exc:
            status = exc.status
            raise
        finally:
            resource = request.match_info.route.resource
            route = resource.canonical if resource is not None else "unknown"
            unbounded = getattr(request.match_info.handler, "unbounded", False)
            metrics.observe(request.method, route, status, None if unbounded else time.perf_counter() - began)

    return measure


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the store and the broker say at one moment; a collector for one page."""

    requests: RequestMetrics
    jobs: Mapping[JobStatus, int]
    workers: Iterable[WorkerRecord]
    queues: Mapping[str, int]

    def collect(self) -> Iterator[Metric]:
        yield from self.requests.registry.collect()
        jobs = GaugeMetricFamily("avtomatika_jobs", "Jobs by status.", labels=("status",))
        for status in JobStatus:
            jobs.add_metric((status.value,), self.jobs.get(status, 0))
        yield jobs
        workers = GaugeMetricFamily("avtomatika_workers", "Live workers by status.", labels=("status",))
        counts = {"idle": 0, "busy": 0}
        for worker in self.workers:
            counts[worker.status] = counts.get(worker.status, 0) + 1
        for name, count in counts.items():
            workers.add_metric((name,), count)
        yield workers
        queues = GaugeMetricFamily("avtomatika_queue_messages", "Messages that wait in a queue.", labels=("queue",))
        for name, count in self.queues.items():
            queues.add_metric((name,), count)
        yield queues

    def page(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self)
