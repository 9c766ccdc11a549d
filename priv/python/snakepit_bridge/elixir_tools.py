"""Elixir tools, as Python sees them: answers, errors, and tools as attributes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from .errors import ElixirToolError, RemoteTraceback, UnknownElixirToolError

if TYPE_CHECKING:
    from .session_context import SessionContext

# What the BEAM says when it runs no tool of that name for us.
_UNKNOWN = frozenset(("tool_not_found", "tool_not_exposed", "tool_not_local", "not_found"))


class ToolAnswer(NamedTuple):
    """``value`` and ``binary`` of a tool that succeeded, else ``message`` and ``details``."""

    success: bool
    value: Any = None
    binary: Optional[bytes] = None
    message: str = ""
    details: str = ""

    def result(self) -> Any:
        if self.binary is None:
            return self.value
        return self.binary if self.value in (None, {}) else (self.binary, self.value)


def is_unknown(answer: ToolAnswer) -> bool:
    """Whether the BEAM refused because there is no such tool for us."""
    report = _report(answer)
    return report.get("kind") == "refused" and report.get("type") in _UNKNOWN


def failed(name: str, answer: ToolAnswer) -> ElixirToolError:
    """The error of a tool that failed, with the stack traces of both sides as its cause."""
    report = _report(answer)
    python = report.get("python") if isinstance(report.get("python"), dict) else None
    lines = report.get("stacktrace")
    error = ElixirToolError(
        f"Elixir tool {name!r} failed: {_summary(report, answer.message)}",
        tool=name,
        type=str(report.get("type", "")),
        kind=str(report.get("kind", "")),
        stacktrace=[str(line) for line in lines] if isinstance(lines, list) else [],
        python_type=str(python.get("type", "")) if python else "",
        python_traceback=str(python.get("traceback", "")) if python else "",
    )
    text = _traces(error)
    if text:
        error.__cause__ = RemoteTraceback(text)
    return error


def unknown(name: str, context: SessionContext) -> UnknownElixirToolError:
    exposed = ", ".join(sorted(context.elixir_tools)) or "none"
    return UnknownElixirToolError(
        f"Elixir exposes no tool {name!r} to session {context.session_id!r}; "
        f"it exposes: {exposed}"
    )


def unreachable(name: str, text: str) -> ElixirToolError:
    return ElixirToolError(f"Elixir tool {name!r}: {text}", tool=name, kind="transport")


def _report(answer: ToolAnswer) -> dict[str, Any]:
    try:
        report = json.loads(answer.details) if answer.details else {}
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}


def _summary(report: dict[str, Any], message: str) -> str:
    """With the name of an exception, which its message does not say."""
    if report.get("kind") == "error" and report.get("type"):
        return f"{report['type']}: {message}"
    return message


def _traces(error: ElixirToolError) -> str:
    parts = []
    if error.python_traceback:
        parts.append(error.python_traceback.rstrip())
    if error.stacktrace:
        frames = "\n".join(f"    {line}" for line in error.stacktrace)
        parts.append(f"Elixir stacktrace (innermost first):\n{frames}")
    return "\n\n".join(parts)


class ElixirTool:
    """One tool: ``tool(a=1)``, ``tool({"a": 1})``, ``await tool.call_async(a=1)``."""

    __slots__ = ("_context", "name")

    def __init__(self, context: SessionContext, name: str) -> None:
        self._context = context
        self.name = name

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._context.call_elixir_tool(self.name, *arguments, **named)

    async def call_async(self, *arguments: Any, **named: Any) -> Any:
        return await self._context.call_elixir_tool_async(self.name, *arguments, **named)

    def __repr__(self) -> str:
        return f"<Elixir tool {self.name!r}>"


class ElixirTools:
    """All of them: ``ctx.elixir.add(a=1, b=2)``, ``ctx.elixir["math.add"](a=1, b=2)``."""

    __slots__ = ("_context",)

    def __init__(self, context: SessionContext) -> None:
        self._context = context

    def __getattr__(self, name: str) -> ElixirTool:
        if name.startswith("__"):  # what copy, pickle and the like ask for
            raise AttributeError(name)
        return ElixirTool(self._context, name)

    def __getitem__(self, name: str) -> ElixirTool:
        return ElixirTool(self._context, name)

    def __dir__(self) -> list[str]:
        return sorted(self._context.elixir_tools)
