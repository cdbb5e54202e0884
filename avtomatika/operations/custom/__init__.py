"""Commands, scripts and web hooks of one's own: off until a policy names them."""

from avtomatika.operations.custom import commands, webhook
from avtomatika.operations.custom.family import family

__all__ = ["commands", "family", "webhook"]
