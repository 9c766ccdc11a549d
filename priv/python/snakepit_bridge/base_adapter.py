"""The base class of adapters and the decorator for their tools."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Optional, TypeVar, overload

if TYPE_CHECKING:
    from .session_context import SessionContext

_F = TypeVar("_F", bound=Callable[..., Any])
_WRAPPERS = (staticmethod, classmethod)

LIFETIMES = ("request", "session", "process")
_KEPT = LIFETIMES[1:]

# Of the call that runs here, for adapters that serve several at a time.
_shared_context: ContextVar[Optional[SessionContext]] = ContextVar(
    "snakepit_session_context", default=None
)


@dataclass
class ToolMetadata:
    """What ``@tool`` knows about a function."""

    description: str = ""
    supports_streaming: bool = False
    parameters: list[Any] = field(default_factory=list)
    required_variables: list[str] = field(default_factory=list)
    inputs: bool = False


@overload
def tool(description: _F) -> _F: ...


@overload
def tool(
    description: str = "",
    supports_streaming: bool = False,
    required_variables: Optional[Iterable[str]] = None,
    inputs: bool = False,
) -> Callable[[_F], _F]: ...


def tool(
    description: Any = "",
    supports_streaming: bool = False,
    required_variables: Optional[Iterable[str]] = None,
    inputs: bool = False,
) -> Any:
    """Makes a method or function callable from Elixir.

    ``@tool``, ``@tool("what it does")`` and ``@tool(supports_streaming=True)``
    all work. Generator functions stream without being declared so.

    ``inputs=True`` says that the tool reads what the caller gives with
    ``inputs:``, by its parameter ``inputs`` or as ``ctx.inputs``.
    """

    def mark(function: _F) -> _F:
        text = description if isinstance(description, str) else ""
        metadata = ToolMetadata(
            description=text or (function.__doc__ or "").strip(),
            supports_streaming=supports_streaming,
            required_variables=list(required_variables or ()),
            inputs=inputs,
        )
        inner: Any = function.__func__ if isinstance(function, _WRAPPERS) else function
        inner._tool_metadata = metadata
        return function

    direct = callable(description) or isinstance(description, _WRAPPERS)
    return mark(description) if direct else mark


class BaseAdapter:
    """Tools are methods marked with ``@tool``, methods named ``execute_<command>``,
    and methods whose first parameter is ``ctx``.

    ``lifetime`` says how long an instance lives: for one ``"request"``, for the
    requests of a ``"session"``, or as long as the ``"process"``. Optional hooks:
    ``initialize()`` when it begins, ``cleanup()`` when it ends; both may be
    coroutines. Instances of sessions end when ``session_ttl`` seconds have
    passed without a request, and the least recently used ones when there are
    more than ``max_sessions`` in the process.
    """

    lifetime: ClassVar[str] = "request"
    session_ttl: ClassVar[float] = 3600
    max_sessions: ClassVar[int] = 1000

    _own_context: Optional[SessionContext] = None

    @property
    def session_context(self) -> Optional[SessionContext]:
        """That of the call that runs; of one instance several may run at a time."""
        return _shared_context.get() if self.lifetime in _KEPT else self._own_context

    @session_context.setter
    def session_context(self, context: Optional[SessionContext]) -> None:
        # Not of a subclass, whose own may come here.
        BaseAdapter.set_session_context(self, context)

    @property
    def session_id(self) -> Optional[str]:
        context = self.session_context
        return None if context is None else context.session_id

    def set_session_context(self, session_context: Optional[SessionContext]) -> None:
        if self.lifetime in _KEPT:
            _shared_context.set(session_context)
        else:
            self._own_context = session_context

    def execute_tool(self, tool_name: str, arguments: dict[str, Any], context: Any) -> Any:
        """Finds the tool and calls it; override it to dispatch in another way."""
        from .dispatch import find_tool

        stream = getattr(context, "stream", None)
        inputs = getattr(context, "inputs", None)
        return find_tool(self, tool_name).call(arguments, context, stream, inputs=inputs)

    def call_tool(self, tool_name: str, **arguments: Any) -> Any:
        """Calls a tool of this adapter by name."""
        method = getattr(self, tool_name)
        if not callable(method):
            raise TypeError(f"{tool_name!r} of {type(self).__name__} is not callable")
        return method(**arguments)

    def get_tools(self) -> list[Any]:
        """ToolRegistration messages of all tools."""
        from .registration import registrations

        return registrations(self)

    def register_with_session(self, session_id: str, stub: Any) -> list[str]:
        """Registers the tools with the BEAM; the names that it knows now."""
        from .registration import register

        return register(self, session_id, stub)

    async def register_with_session_async(self, session_id: str, stub: Any) -> list[str]:
        from .registration import register_async

        return await register_async(self, session_id, stub)
