"""An instance is given back."""

from __future__ import annotations

import httpx
from pydantic import Field

from avtomatika.operations.base import Params
from avtomatika.operations.codes import TaskErrorCode
from avtomatika.operations.context import OperationContext
from avtomatika.operations.errors import OperationError
from avtomatika.operations.vast.base import Api, base_url_of, family, opened
from avtomatika.results import JSON


class Destroy(Params):
    """Destroys an instance, with everything on its disk."""

    instance_id: int = Field(ge=1)
    credential: str = "vast"


@family.operation(
    "vast_destroy", timeout_seconds=120, privileged=True, guard=lambda params, permit: base_url_of(permit, params.credential)
)
async def vast_destroy(params: Destroy, op: OperationContext) -> JSON:
    """Destroys an instance."""
    async with opened(op, params.credential) as api:
        gone = not await destroy(api, params.instance_id)
    if gone and op.attempt == 1:
        raise OperationError(
            TaskErrorCode.VAST_INSTANCE_NOT_FOUND,
            f"there is no instance {params.instance_id}",
            details={"instance_id": params.instance_id},
        )
    op.log(f"instance {params.instance_id} is gone")
    return {"instance_id": params.instance_id, "destroyed": True}


async def destroy(api: Api, instance_id: int) -> bool:
    """Whether there was such an instance; in the end there is none. Raises OperationError, also where that is not sure."""
    try:
        answer = await api.call("DELETE", f"/api/v0/instances/{instance_id}/", body={})
    except OperationError as exc:
        if exc.details.get("status") == 404:
            return False
        raise
    except httpx.TransportError:
        if await api.has(instance_id):
            raise
        return True
    if answer.get("success") is not True:
        raise OperationError(
            TaskErrorCode.VAST_INSTANCE_DESTRUCTION_FAILED,
            f"Vast.ai does not destroy instance {instance_id}",
            details={"instance_id": instance_id, "message": str(answer.get("msg") or "")[:500]},
        )
    return True
