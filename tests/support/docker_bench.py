"""What the tests of Docker images share: a registry's password, and what reached the daemon of it."""

from __future__ import annotations

import base64
import json
from typing import Any

SECRET = "s3cret-of-the-registry"


def account(call: Any) -> Any:
    """The account that a call to the daemon carried."""
    return json.loads(base64.urlsafe_b64decode(call.headers["X-Registry-Auth"]))
