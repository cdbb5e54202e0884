"""An offer is rented: within the policy's ceiling of costs, and once, whatever becomes of the answer."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import httpx
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

from avtomatika.errors import ErrorCode
from avtomatika.operations.base import Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError, StopReason
from avtomatika.operations.names import is_secret_name
from avtomatika.operations.policy import Permit
from avtomatika.operations.vast.base import Api, base_url_of, family, opened
from avtomatika.operations.vast.destroy import destroy
from avtomatika.operations.vast.listing import RENTABLE
from avtomatika.results import JSON

#: Seconds between the looks for an instance whose rental was not answered.
_LOOKS = (0.0, 1.0, 3.0)


class Secret(BaseModel):
    """A value that is the secret of a credential."""

    model_config = ConfigDict(extra="forbid")
    credential: str


class Create(Params):
    """Rents an offer.

    Args:
        bundle_id: the offer's id, as `vast_search` tells it; also called `offer_id`.
        disk: in GB.
        label: what the instance is called; a key of the task is put behind it.
        onstart: commands that the instance runs when it starts.
        env_vars: a value is a text, or ``{"credential": "name"}`` for a secret.
        max_price_per_hour: in US dollars, below the policy's own ceiling.
    """

    bundle_id: int = Field(ge=1, validation_alias=AliasChoices("bundle_id", "offer_id"))
    image: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._/:@-]{0,254}$")
    disk: float = Field(10, ge=1, le=100_000)
    label: str | None = Field(None, pattern=r"^[A-Za-z0-9 ._-]{1,60}$")
    onstart: str | None = Field(None, min_length=1, max_length=16_000)
    env_vars: dict[str, str | Secret] = Field(default_factory=dict, max_length=100)
    max_price_per_hour: float | None = Field(None, gt=0)
    credential: str = "vast"

    @field_validator("env_vars")
    @classmethod
    def _names(cls, value: dict[str, str | Secret]) -> dict[str, str | Secret]:
        for name, text in value.items():
            if not name.isidentifier() or not name.isascii():
                raise ValueError(f"{name!r} is no name of a variable")
            if isinstance(text, str) and is_secret_name(name):
                raise ValueError(f'{name} holds a secret by its name: give it as {{"credential": "name"}}')
        return value


def _guard(params: Create, permit: Permit) -> None:
    base_url_of(permit, params.credential)
    permit.matches("images", params.image)
    _ceiling(params, permit)
    if params.onstart is not None:
        permit.command(params.onstart)
    for value in params.env_vars.values():
        if isinstance(value, Secret):
            permit.credential(value.credential)


def _ceiling(params: Create, permit: Permit) -> float:
    """US dollars in an hour. Without a ceiling nothing is rented."""
    own = permit.option("max_price_per_hour")
    if not isinstance(own, int | float) or own <= 0:
        raise permit.refusal(
            "a rental without a ceiling of costs",
            f"set max_price_per_hour in [policy.{permit.entry.name}.options], in US dollars",
        )
    return float(own) if params.max_price_per_hour is None else min(float(own), params.max_price_per_hour)


# Privileged: it costs money. A policy names it in full.
@family.operation("vast_create", timeout_seconds=300, privileged=True, guard=_guard)
async def vast_create(params: Create, op: OperationContext) -> JSON:
    """Rents an offer, as an instance that starts at once."""
    label = f"{params.label or 'avtomatika'}-{op.key}"
    async with opened(op, params.credential) as api:
        found = await api.labelled(label)  # of an earlier attempt, whose answer never came
        if found is not None:
            op.log(f"instance {found['id']} is rented already")
            return _shown(int(found["id"]), label, found.get("dph_total"), params)
        price = await _check(api, params, op)
        op.progress(0.4, f"renting offer {params.bundle_id} for {price:.3f} US dollars in an hour")
        instance_id = await _rent(api, params, op, label)
    op.log(f"instance {instance_id} is rented: {label}")
    return _shown(instance_id, label, price, params)


def _shown(instance_id: int, label: str, price: float | None, params: Create) -> JSON:
    return {
        "instance_id": instance_id,
        "offer_id": params.bundle_id,
        "label": label,
        "image": params.image,
        "price_per_hour": price,
    }


async def _check(api: Api, params: Create, op: OperationContext) -> float:
    """The price of the offer, which can be rented and costs no more than it may."""
    most, ceiling = op.permit.option("max_instances"), _ceiling(params, op.permit)
    if most is not None and len(await api.instances()) >= int(most):
        raise OperationError(
            TaskErrorCode.VAST_QUOTA_EXCEEDED,
            f"the policy allows {most} instances, and so many there are",
            details={"max_instances": most},
        )
    query = {**RENTABLE, "id": {"eq": params.bundle_id}, "type": "on-demand", "limit": 1, "allocated_storage": params.disk}
    offer = next((offer for offer in await api.offers(query) if offer.get("id") == params.bundle_id), None)
    if offer is None:
        raise _taken(params)
    price = offer.get("dph_total")
    if not isinstance(price, int | float) or not 0 <= price <= ceiling:
        raise OperationError(
            TaskErrorCode.VALIDATION_CONSTRAINT_VIOLATION,
            f"offer {params.bundle_id} costs {price} US dollars in an hour, and the ceiling is {ceiling}",
            details={"offer_id": params.bundle_id, "price_per_hour": price, "max_price_per_hour": ceiling},
        )
    return float(price)


def _taken(params: Create) -> OperationError:
    return OperationError(
        TaskErrorCode.VAST_INSTANCE_CREATION_FAILED,
        f"offer {params.bundle_id} cannot be rented any more: look for another one",
        details={"offer_id": params.bundle_id},
    )


async def _rent(api: Api, params: Create, op: OperationContext, label: str) -> int:
    """Sends the one request that costs money. Who stops it in between is told what came of it, and pays for nothing."""
    renting = asyncio.ensure_future(_put(api, params, op, label))
    try:
        return await asyncio.shield(renting)
    except asyncio.CancelledError:
        with suppress(OperationError, httpx.TransportError):
            instance_id = await renting
            # A worker that only stops leaves it to the next attempt, which finds it by its label.
            if op.stop_reason is not StopReason.SHUTDOWN:
                await destroy(api, instance_id)
                op.log(f"instance {instance_id} was rented when the stop came, and is given back")
        raise


async def _put(api: Api, params: Create, op: OperationContext, label: str) -> int:
    body: JSON = {
        "client_id": "me",
        "image": params.image,
        "disk": params.disk,
        "label": label,
        "env": {name: await _value(value, op) for name, value in params.env_vars.items()},
        "onstart": params.onstart,
        "runtype": "ssh",
        "cancel_unavail": True,  # no instance at all instead of one that waits, and costs
    }
    try:
        answer = await api.call("PUT", f"/api/v0/asks/{params.bundle_id}/", body=body)
    except OperationError as exc:
        if exc.details.get("status") in (404, 410) or exc.details.get("error") == "no_such_ask":
            raise _taken(params) from exc
        if exc.kind is not ErrorCode.TRANSIENT or exc.details.get("status") == 429:
            raise
        return await _found_again(api, label, exc)
    except httpx.TransportError as exc:
        return await _found_again(api, label, exc)
    instance_id = answer.get("new_contract")
    if answer.get("success") is not True or not isinstance(instance_id, int):
        raise OperationError(
            TaskErrorCode.VAST_INSTANCE_CREATION_FAILED,
            f"Vast.ai does not rent offer {params.bundle_id}",
            details={"offer_id": params.bundle_id, "error": answer.get("error"), "message": str(answer.get("msg") or "")[:500]},
        )
    return instance_id


async def _value(value: str | Secret, op: OperationContext) -> str:
    if isinstance(value, str):
        return value
    found = await asyncio.to_thread(op.credential, value.credential)
    secret = found.token or found.password
    if secret is None:
        raise OperationError(TaskErrorCode.CONFIGURATION_ERROR, f"credential {value.credential!r} has no token and no password")
    return secret


async def _found_again(api: Api, label: str, exc: Exception) -> int:
    """The instance that was rented although the answer was lost; else the failure, and the next attempt looks once more."""
    for seconds in _LOOKS:
        await asyncio.sleep(seconds)
        with suppress(OperationError, httpx.TransportError):
            found = await api.labelled(label)
            if found is not None:
                return int(found["id"])
    raise exc
