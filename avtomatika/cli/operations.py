"""`avtomatika queue operations`: what operations there are, what they take, and what this machine lacks for them."""

from __future__ import annotations

import inspect
from typing import Any

import click

from avtomatika.cli.output import json_option, show_json, show_table


@click.command()
@click.argument("task_type", metavar="[TYPE]", required=False)
@json_option
def operations(task_type: str | None, as_json: bool) -> None:
    """List the operations, and whether this machine can run them; of one TYPE, what it takes."""
    from avtomatika.operations.config import operations_config
    from avtomatika.operations.policy import allows_somewhere
    from avtomatika.operations.registry import registry
    from avtomatika.settings import get_settings

    known, config = registry(), operations_config(get_settings())
    if task_type is not None:
        _show_one(task_type, as_json)
        return
    lacks = {family.name: family.lacks() for family in known.families.values()}
    rows = [
        {
            "type": operation.name,
            "family": operation.family.name,
            "queue": operation.capability,
            "allowed": allows_somewhere(config, operation),
            "pausable": operation.pausable,
            "timeout_seconds": operation.timeout_seconds,
            "max_retries": operation.max_retries,
            "lacks": lacks[operation.family.name],
            "summary": operation.summary,
        }
        for operation in known
    ]
    if as_json:
        show_json({"operations": rows, "broken": known.broken, "lacks": {name: why for name, why in lacks.items() if why}})
        return
    show_table(
        ["operation", "queue", "here", "allowed", "pausable", "does"],
        [
            (
                row["type"],
                row["queue"],
                "no" if row["lacks"] else "yes",
                _yes(row["allowed"]),
                _yes(row["pausable"]),
                row["summary"],
            )
            for row in rows
        ],
    )
    for name, why in {**{name: why for name, why in lacks.items() if why}, **known.broken}.items():
        click.echo(f"{name}: {why}", err=True)
    if not any(row["allowed"] for row in rows):
        click.echo("no policy allows any of them: name them in operations of a [policy.…] of OPERATIONS_CONFIG_PATH", err=True)


def _yes(value: Any) -> str:
    return "yes" if value else "no"


def _show_one(task_type: str, as_json: bool) -> None:
    from avtomatika.operations.registry import registry

    operation = registry().get(task_type)
    if as_json:
        show_json({"type": operation.name, "summary": operation.summary, "params": operation.params.model_json_schema()})
        return
    click.echo(f"{operation.name}: {operation.summary}\n")
    rows = []
    for name, field in operation.params.model_fields.items():
        default = "" if field.is_required() else repr(field.get_default(call_default_factory=True))
        kind = inspect.formatannotation(field.annotation)
        rows.append((name, "yes" if field.is_required() else "no", default, kind, field.description or ""))
    show_table(["param", "required", "default", "kind", "is"], rows)
