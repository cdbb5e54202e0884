"""What a task does, as one line for people."""

from __future__ import annotations

import json
import shlex
from typing import Any

from avtomatika.jobs import JSON
from avtomatika.operations.secrets import redacted

_LONGEST = 500


def command_of(task_type: str, params: JSON) -> str:
    """Such as ``ssh deploy@gpu-box -- nvidia-smi``; ``network_test host=gpu-box port=22`` where there is no such program."""
    params = redacted(params, _LONGEST)
    words = _words(task_type, params) or [task_type, *(f"{name}={_value(value)}" for name, value in params.items())]
    line = shlex.join(words)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _words(task_type: str, params: JSON) -> list[str] | None:
    family, _, action = task_type.partition("_")
    source, destination = str(params.get("source_path", "")), str(params.get("destination_path", ""))
    match task_type:
        case "ssh_execute" if params.get("command"):
            command = params["command"]
            return ["ssh", _place(params), "--", *([command] if isinstance(command, str) else map(str, command))]
        case "scp_upload" if source:
            return ["scp", source, f"{_place(params)}:{destination}"]
        case "scp_download" if source:
            return ["scp", f"{_place(params)}:{source}", destination]
        case "docker_push" | "docker_pull" if params.get("image_name"):
            return [family, action, f"{params['image_name']}:{params.get('tag') or 'latest'}"]
        case "ollama_pull" if params.get("model_name"):
            return [family, action, str(params["model_name"])]
    return None


def _place(params: JSON) -> str:
    hosts = params.get("hosts")
    host = (
        f"{len(hosts)} hosts" if isinstance(hosts, list) else f"@{params['group']}" if params.get("group") else params.get("host")
    )
    return f"{params['username']}@{host}" if params.get("username") else str(host)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
