"""The names of the original Avtomatika 1.0 API: `from avtomatika.context import ActionFactory`."""

from avtomatika.blueprint.actions import ActionFactory
from avtomatika.blueprint.context import JobContext

__all__ = ["ActionFactory", "JobContext"]
