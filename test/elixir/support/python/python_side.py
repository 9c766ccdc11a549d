"""Adapters of many kinds, and what their tools find out about their session."""

from __future__ import annotations

import builtins
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any, Optional

from snakepit_bridge import (
    BaseAdapter,
    BaseCommandHandler,
    StreamChunk,
    VariableAwareMixin,
    tool,
)


class Insufficient(ValueError):
    """An exception with attributes of its own."""

    def __init__(self, text: str, needed: int, lock: Any = None) -> None:
        super().__init__(text)
        self.needed = needed
        self.lock = lock


class Unknown(Exception):
    pass


class Plain:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Plain({self.text!r})"


class Tools(VariableAwareMixin, BaseAdapter):
    # ---- the session --------------------------------------------------------

    @tool
    def register(
        self,
        ctx: Any,
        name: str,
        type: str,
        value: Any,
        constraints: Optional[dict[str, Any]] = None,
    ) -> Any:
        made = ctx.register_variable(name, type, value, constraints)
        return [made.name, made.type, made.value, made.constraints]

    async def execute_old_register(self, args: dict[str, Any]) -> Any:
        assert self.session_context is not None
        made = await self.session_context.register_variable(
            args["name"], args["type"], args["value"]
        )
        return made.value

    @tool
    def read(self, ctx: Any, name: str) -> Any:
        assert ctx[name] == ctx.variables[name] == self.get_variable(name)
        return ctx[name]

    @tool
    def write(self, ctx: Any, name: str, value: Any) -> Any:
        ctx[name] = value
        return ctx.variables.variable(name).type

    @tool
    def update(self, ctx: Any, name: str, value: Any) -> None:
        ctx.variables.update_value(name, value)

    @tool
    def remove(self, ctx: Any, name: str) -> None:
        del ctx.variables[name]

    @tool
    def listed(self, ctx: Any) -> dict[str, Any]:
        variables = ctx.variables
        assert len(variables) == len(self.list_variables())
        return {
            "values": dict(variables),
            "types": {name: made.type for name, made in variables.all().items()},
            "holds_a": "a" in ctx,
            "holds_zzz": "zzz" in ctx,
            "get": variables.get("zzz", "default"),
        }

    @tool
    def about(self, ctx: Any) -> dict[str, Any]:
        try:
            iter(ctx)
            iterates = True
        except TypeError:
            iterates = False
        return {
            "session": ctx.session_id,
            "own": self.session_id,
            "correlation": ctx.metadata["correlation_id"],
            "logger": isinstance(ctx.logger, logging.Logger) and ctx.logger.name,
            "iterates": iterates,
        }

    # ---- exceptions ---------------------------------------------------------

    @tool
    def fail(self, kind: str) -> None:
        raise getattr(builtins, kind)(f"a {kind}")

    @tool
    def fail_richly(self) -> None:
        _fail_richly()

    @tool(supports_streaming=True)
    def fail_in_stream(self) -> Iterator[int]:
        yield 1
        _fail_richly()

    @tool
    def fail_as_os_error(self) -> Any:
        return open("/none/of/this")

    @tool
    def fail_unknown(self) -> None:
        raise Unknown("not known")

    # ---- values -------------------------------------------------------------

    @tool
    def secret(self) -> Any:
        return {"inner": [Plain("api_key='abcdefgh'")]}

    @tool
    def long(self) -> Any:
        return Plain("x" * 5000)

    @tool
    def lock(self) -> Any:
        return threading.Lock()

    @tool(supports_streaming=True)
    def locks(self) -> Iterator[Any]:
        yield {"lock": threading.Lock()}
        yield StreamChunk(threading.Lock())

    @tool
    def large_array(self) -> Any:
        return Array(int(os.environ["SNAKEPIT_TOLIST_MAX_ELEMENTS"]) + 1)

    @tool
    def array(self) -> Any:
        return Array(int(os.environ["SNAKEPIT_TOLIST_MAX_ELEMENTS"]))

    # ---- results ------------------------------------------------------------

    @tool
    def text(self) -> str:
        return "abc"

    @tool
    def items(self) -> list[str]:
        return ["a", "b"]

    @tool
    def mapping(self) -> dict[str, int]:
        return {"a": 1}


class Array:
    """As those of NumPy are seen from outside."""

    def __init__(self, size: int) -> None:
        self.shape = (size,)

    def tolist(self) -> list[int]:
        return [0] * self.shape[0]


def _fail_richly() -> None:
    try:
        {}["inner"]
    except KeyError as error:
        outer = Insufficient("too little", 7, threading.Lock())
        outer.__notes__ = ["look here"]  # type: ignore[attr-defined]
        raise outer from error


class _Counting:
    def __init__(self) -> None:
        self.calls = 0

    @tool
    def count(self) -> list[int]:
        self.calls += 1
        return [os.getpid(), self.calls]


class PerRequest(_Counting, BaseAdapter):
    pass


class PerSession(_Counting, BaseAdapter):
    lifetime = "session"


class PerProcess(_Counting, BaseAdapter):
    lifetime = "process"


class Words(BaseCommandHandler):
    def _register_commands(self) -> None:
        self.register_command("uppercase", self.uppercase)
        self.register_command("letters", self.letters)

    def uppercase(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"result": args["text"].upper()}

    def letters(self, text: str) -> Iterator[str]:
        yield from text


class Alone:
    """Derives from nothing and marks nothing."""

    def greet(self, name: str) -> str:
        return f"hello {name}"


class Published:
    """As downstream libraries have it."""

    def __init__(self) -> None:
        self.context: Any = None

    def set_session_context(self, context: Any) -> None:
        self.context = context

    def execute_tool(self, tool_name: str, arguments: dict[str, Any], context: Any) -> Any:
        assert context is self.context
        return [tool_name, arguments, context.session_id]


def _with_parameters(count: int) -> Any:
    names = [f"p{n}" for n in range(count)]
    source = f"def many(self, {', '.join(names)}):\n    return p0 + p{count - 1}\n"
    made: dict[str, Any] = {}
    exec(source, made)
    return tool(made["many"])


class Registers(BaseAdapter):
    @tool
    def register(self, ctx: Any) -> list[str]:
        return sorted(self.register_with_session(ctx.session_id, ctx.stub))

    @tool
    def both(self) -> str:
        return "marked"

    async def execute_both(self, args: dict[str, Any]) -> str:
        return "command"


class ManyParameters(Registers):
    many = _with_parameters(10_000)


class BadName(Registers):
    @tool
    def zählen(self) -> int:
        return 1


class LongName(Registers):
    @tool
    def aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa(self) -> int:
        return 65


# The suite runs them in threads as well.
for _kind in list(vars().values()):
    if isinstance(_kind, type) and _kind.__module__ == __name__:
        _kind.__thread_safe__ = True  # type: ignore[attr-defined]
