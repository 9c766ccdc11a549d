"""Tools are found once per adapter class, and again when something changed."""

from __future__ import annotations

from typing import Any

import pytest

from snakepit_bridge import BaseAdapter, tool
from snakepit_bridge.dispatch import ToolCache
from snakepit_bridge.errors import ToolArgumentError, UnknownToolError


class Adapter(BaseAdapter):
    def __init__(self, name: str = "one") -> None:
        self.name = name

    @tool
    def whose(self, extra: int = 0) -> Any:
        return (self.name, extra)

    @tool
    def needs(self, ctx: Any, a: int, b: int = 2) -> Any:
        return (ctx, a, b)

    def execute_old(self, args: dict[str, Any]) -> Any:
        return (self.name, args)


def call(cache: ToolCache, adapter: Any, name: str, arguments: dict[str, Any]) -> Any:
    found, function = cache.find(adapter, name)
    return found.call(arguments, "context", None, function)


def test_each_instance_is_called_itself() -> None:
    cache = ToolCache()
    for name in ("one", "two", "three"):
        assert call(cache, Adapter(name), "whose", {"extra": 4}) == (name, 4)
        assert call(cache, Adapter(name), "old", {"x": 1}) == (name, {"x": 1})
        assert call(cache, Adapter(name), "needs", {"a": 1}) == ("context", 1, 2)
    assert cache.find(Adapter(), "whose")[0] is cache.find(Adapter(), "whose")[0]


def test_arguments_are_checked_every_time() -> None:
    cache = ToolCache()
    for _ in range(2):
        with pytest.raises(ToolArgumentError, match="needs the argument 'a'"):
            call(cache, Adapter(), "needs", {"b": 1})
        with pytest.raises(ToolArgumentError, match="does not take the argument 'c'"):
            call(cache, Adapter(), "needs", {"a": 1, "c": 1})
        with pytest.raises(UnknownToolError):
            cache.find(Adapter(), "nothing")


def test_what_was_replaced_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ToolCache()
    assert call(cache, Adapter(), "whose", {}) == ("one", 0)

    @tool
    def whose(self: Any, other: int) -> Any:
        return ("replaced", other)

    monkeypatch.setattr(Adapter, "whose", whose)
    assert call(cache, Adapter(), "whose", {"other": 3}) == ("replaced", 3)

    own = Adapter()
    own.whose = tool(lambda: "own")  # type: ignore[method-assign]
    assert call(cache, own, "whose", {}) == "own"
    assert call(cache, Adapter(), "whose", {"other": 3}) == ("replaced", 3)
