"""The data stores of a blueprint: objects that its handlers share within one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class AsyncDictStore:
    """The async face of a plain dict, so that a handler need not know whether a store is a dict or a client.

    It wraps the dict that it is given, it does not copy it. It lives in one process: what must be shared by several
    orchestrators belongs into a real store.
    """

    def __init__(self, data: dict[Any, Any] | None = None) -> None:
        self._data = {} if data is None else data

    async def get(self, key: Any, default: Any = None) -> Any:
        """The value of a key, or the default."""
        return self._data.get(key, default)

    async def set(self, key: Any, value: Any) -> None:
        """Sets the value of a key."""
        self._data[key] = value

    async def delete(self, key: Any) -> bool:
        """Removes a key; says whether it was there."""
        found = key in self._data
        self._data.pop(key, None)
        return found

    async def exists(self, key: Any) -> bool:
        """Whether a key is there."""
        return key in self._data

    async def keys(self) -> list[Any]:
        """All keys."""
        return list(self._data)

    async def items(self) -> list[tuple[Any, Any]]:
        """All keys with their values."""
        return list(self._data.items())

    def __repr__(self) -> str:
        return f"AsyncDictStore({len(self._data)} keys)"


class DataStores(Mapping[str, Any]):
    """The stores by name: `data_stores.cache` and `data_stores["cache"]` are the same object."""

    def __init__(self, stores: Mapping[str, Any] | None = None) -> None:
        self._stores: dict[str, Any] = {}
        for name, store in (stores or {}).items():
            self.add(name, store)

    def add(self, name: str, store: Any) -> None:
        """Adds a store: a plain dict gets an async face, anything else stays as it is. ValueError for a bad name."""
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            raise ValueError(f"data store name {name!r} is no Python name for `data_stores.<name>`")
        if hasattr(type(self), name):
            raise ValueError(f"data store name {name!r} is a method of the collection")
        if name in self._stores:
            raise ValueError(f"data store {name!r} is there already")
        self._stores[name] = AsyncDictStore(store) if type(store) is dict else store

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            try:
                return self._stores[name]
            except KeyError:
                pass
        known = ", ".join(sorted(self._stores)) if not name.startswith("_") else ""
        raise AttributeError(f"no data store {name!r}; this blueprint has: {known or 'none'}")

    def __getitem__(self, name: str) -> Any:
        return self._stores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stores)

    def __len__(self) -> int:
        return len(self._stores)

    def __repr__(self) -> str:
        return f"DataStores({', '.join(self._stores)})"
