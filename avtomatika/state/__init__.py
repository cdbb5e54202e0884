"""The state store's face."""

from avtomatika.state.base import Store

__all__ = ["Store"]
