"""An adapter that calls by name and keeps what it is told to: Snakepit.Python's old form."""

from __future__ import annotations

import importlib
from typing import Any, Optional

from snakepit_bridge import BaseAdapter, tool


class Stores(BaseAdapter):
    lifetime = "process"

    def __init__(self) -> None:
        self.stored: dict[str, Any] = {}

    def _find(self, target: str) -> Any:
        first, *rest = target.split(".")
        if first == "stored":
            found, rest = self.stored[rest[0]], rest[1:]
        else:
            found = importlib.import_module(first)
        for part in rest:
            found = getattr(found, part)
        return found

    @tool
    def call(
        self,
        target: str,
        args: list[Any],
        kwargs: dict[str, Any],
        store_as: Optional[str] = None,
    ) -> Any:
        result = self._find(target)(*args, **kwargs)
        if store_as is None:
            return result
        self.stored[store_as] = result
        return {"stored": store_as}

    @tool
    def store(self, id: str, value: Any) -> None:
        self.stored[id] = value

    @tool
    def retrieve(self, id: str) -> Any:
        return self.stored[id]
