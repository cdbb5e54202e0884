"""schedules.toml: a table a schedule, and errors that say which line to mend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from avtomatika.blueprint.registry import BlueprintRegistry
from avtomatika.book import Book
from avtomatika.schedules.definition import MisfitError, make_schedule
from avtomatika.schedules.records import Schedule
from avtomatika.settings import Settings
from avtomatika.tomlfile import TomlFile

Schedules = Mapping[str, Schedule]


class ScheduleBook(Book[Schedules]):
    """The schedules of the blueprints, and those of the file as it is now, by name.

    Raises:
        ConfigurationError: the file is wrong.
    """

    def __init__(self, settings: Settings, blueprints: BlueprintRegistry) -> None:
        super().__init__(settings.schedules_path, partial(read_schedules, settings, blueprints))


def read_schedules(settings: Settings, blueprints: BlueprintRegistry) -> Schedules:
    """All schedules by name; raises ConfigurationError.

    The file that SCHEDULES_CONFIG_PATH names must be there; one that is only looked for beside clients.toml need not.
    """
    found = {schedule.name: schedule for blueprint in blueprints for schedule in blueprint.schedules}
    path = settings.schedules_path
    if path is not None and (settings.schedules_config_path is not None or path.exists()):
        for schedule in _of_file(TomlFile(path, "SCHEDULES_CONFIG_PATH"), blueprints, found):
            found[schedule.name] = schedule
    return found


def _of_file(file: TomlFile, blueprints: BlueprintRegistry, others: Schedules) -> Iterable[Schedule]:
    for name, table in file.values.items():
        if not isinstance(table, dict):
            raise file.error(f"{name!r} stands outside of a table; put it under the [name] of a schedule", None, name)
        if name in others:
            raise file.error(
                f"there is a schedule {name!r} already, of blueprint {others[name].blueprint!r} ({others[name].origin}); "
                "give one of them another name",
                name,
            )
        yield _schedule(file, name, table, blueprints)


def _schedule(file: TomlFile, name: str, table: dict[str, Any], blueprints: BlueprintRegistry) -> Schedule:
    options = dict(table)
    blueprint = options.pop("blueprint", None)
    if blueprint is None and all(isinstance(inner, dict) for inner in table.values()) and table:
        raise file.error(f'[{name}] says nothing itself; a name with dots needs quotes, ["{name}.…"]', name)
    if not isinstance(blueprint, str):
        raise file.error(f'[{name}] names no blueprint; write blueprint = "…"', name, "blueprint")
    if blueprint not in blueprints:
        raise file.error(f"there is no blueprint {blueprint!r}; there are {_names(blueprints)}", name, "blueprint")
    try:
        return make_schedule(name, blueprint, options, f"{file.path}:{file.line_of(name)}")
    except MisfitError as exc:
        raise file.error(str(exc), name, exc.key if exc.key != "name" else None) from None


def _names(blueprints: BlueprintRegistry) -> str:
    return ", ".join(blueprints.names) or "none: check BLUEPRINTS_DIR"
