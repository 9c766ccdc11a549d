"""From a tool's name to the call of a function."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any, Callable, Optional
from weakref import WeakKeyDictionary

from .base_adapter import BaseAdapter, ToolMetadata
from .errors import ToolArgumentError, ToolStreamsError, UnknownToolError

_CONTEXT_NAMES = ("ctx", "context", "session_context")
_DICT_NAMES = ("params", "args", "arguments")
_HOOKS = frozenset(
    ("execute_tool", "set_session_context", "initialize", "cleanup", "register_with_session")
)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Tool:
    """A function that can be called by name, and how it wants its arguments."""

    __slots__ = ("_parameters", "function", "metadata", "name", "takes_dict")

    def __init__(self, name: str, function: Callable[..., Any], takes_dict: bool = False) -> None:
        self.name = name
        self.function = function
        self.takes_dict = takes_dict
        self.metadata: Optional[ToolMetadata] = getattr(function, "_tool_metadata", None)
        self._parameters = _parameters(function)

    @property
    def streaming(self) -> bool:
        """By declaration: what a tool returns does not change it."""
        if self.metadata is not None and self.metadata.supports_streaming:
            return True
        return inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(
            self.function
        )

    def arguments(self) -> list[inspect.Parameter]:
        """The parameters that the caller fills."""
        parameters = list(self._parameters)
        if parameters and _wants_context(parameters[0], {}):
            del parameters[0]
        streams = self.metadata is not None and self.metadata.supports_streaming
        return [
            p
            for p in parameters
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            and not (streams and p.name == "stream")
        ]

    def call(self, arguments: Mapping[str, Any], context: Any, stream: Any = None) -> Any:
        """Starts the tool: a value, an awaitable, or an iterator of chunks."""
        given = dict(arguments)
        positional: list[Any] = []
        named: dict[str, Any] = {}
        parameters = list(self._parameters)
        if parameters and _wants_context(parameters[0], given):
            positional.append(context)
            del parameters[0]
        if self.metadata is not None and self.metadata.supports_streaming:
            parameters = self._bind_stream(parameters, named, stream)
        if self._wants_dict(parameters, given):
            positional.append(given)
        else:
            self._bind_names(parameters, given, named)
        return self.function(*positional, **named)

    def _bind_stream(
        self, parameters: list[inspect.Parameter], named: dict[str, Any], stream: Any
    ) -> list[inspect.Parameter]:
        if not any(p.name == "stream" for p in parameters):
            return parameters
        if stream is None:
            raise streams_error(self.name)
        named["stream"] = stream
        return [p for p in parameters if p.name != "stream"]

    def _wants_dict(self, parameters: list[inspect.Parameter], given: dict[str, Any]) -> bool:
        if len(parameters) != 1 or parameters[0].kind not in _POSITIONAL:
            return False
        parameter = parameters[0]
        if self.takes_dict:
            return True
        if parameter.name in given:
            return False
        if parameter.name in _DICT_NAMES:
            return True
        return parameter.default is parameter.empty and _is_dict(parameter.annotation)

    def _bind_names(
        self,
        parameters: list[inspect.Parameter],
        given: dict[str, Any],
        named: dict[str, Any],
    ) -> None:
        known = {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        missing = [
            p.name
            for p in parameters
            if p.name in known and p.default is p.empty and p.name not in given
        ]
        if missing:
            raise ToolArgumentError(
                f"tool {self.name!r} needs {_listed('argument', missing)}; "
                f"given: {', '.join(sorted(map(str, given))) or 'none'}"
            )
        extra = [key for key in given if key not in known]
        if extra and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise ToolArgumentError(
                f"tool {self.name!r} does not take {_listed('argument', extra)}; "
                f"it takes: {', '.join(sorted(known)) or 'none'}"
            )
        named.update(given)


def find_tool(adapter: Any, name: str) -> Tool:
    """The tool of that name. Raises UnknownToolError, with what comes close."""
    tool = _lookup(adapter, name)
    if tool is not None:
        return tool
    names = tool_names(adapter)
    close = difflib.get_close_matches(name, names, n=3)
    owner = adapter.__name__ if isinstance(adapter, ModuleType) else type(adapter).__name__
    if close:
        hint = "did you mean " + " or ".join(repr(match) for match in close) + "?"
    elif names:
        hint = f"it has: {', '.join(names[:40])}"
    else:
        hint = "it has none: mark its methods with @tool"
    raise UnknownToolError(f"{owner} has no tool {name!r}; {hint}")


def tool_names(adapter: Any) -> list[str]:
    """Names of all tools, sorted."""
    found = set()
    for name in dir(adapter):
        for candidate in (name, name[len("execute_") :]):
            if candidate and not name.startswith("_") and _lookup(adapter, candidate):
                found.add(candidate)
    return sorted(found)


def streams_error(name: str) -> ToolStreamsError:
    return ToolStreamsError(f"tool {name!r} streams: call it with execute_stream")


def is_stream(value: Any) -> bool:
    """Whether what a tool returned is a stream: an iterator, never a container."""
    if hasattr(type(value), "__anext__"):
        return True
    return isinstance(value, Iterator) and not hasattr(value, "fileno")


def _lookup(adapter: Any, name: str) -> Optional[Tool]:
    if not name or name.startswith("_"):
        return None
    function = _member(adapter, name)
    if function is not None and _is_offered(adapter, name, function):
        return Tool(name, function)
    command = _member(adapter, f"execute_{name}")
    if command is not None and _is_command(f"execute_{name}", command):
        return Tool(name, command, takes_dict=True)
    return None


def _member(adapter: Any, name: str) -> Optional[Callable[..., Any]]:
    # Asked of the class, so that no property of an instance runs.
    owner = adapter if isinstance(adapter, ModuleType) else type(adapter)
    if not callable(getattr(owner, name, None)):
        return None
    bound = getattr(adapter, name, None)
    return bound if callable(bound) and not isinstance(bound, type) else None


def _is_offered(adapter: Any, name: str, function: Callable[..., Any]) -> bool:
    if hasattr(function, "_tool_metadata"):
        return True
    if name in _HOOKS:
        return False
    if isinstance(adapter, ModuleType):
        return _module_offers(adapter, function)
    if isinstance(adapter, BaseAdapter):
        parameters = _parameters(function)
        return bool(parameters) and parameters[0].name == "ctx"
    return _declares_none(type(adapter))


def _module_offers(module: ModuleType, function: Callable[..., Any]) -> bool:
    own = getattr(function, "__module__", None) == module.__name__
    return own and not any(hasattr(value, "_tool_metadata") for value in vars(module).values())


def _is_command(name: str, function: Callable[..., Any]) -> bool:
    return name not in _HOOKS and not hasattr(function, "_tool_metadata")


def _declares_none(kind: type) -> bool:
    """A class of no family that marks no tools offers its public methods."""
    return not any(
        hasattr(value, "_tool_metadata") for base in kind.__mro__ for value in vars(base).values()
    )


def _parameters(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    method = isinstance(function, MethodType)
    plain = function.__func__ if isinstance(function, MethodType) else function
    if not isinstance(plain, FunctionType):
        return _read_signature(function)
    cached = _SIGNATURES.get(plain)
    if cached is None:
        cached = _read_signature(plain)
        _SIGNATURES[plain] = cached
    return cached[1:] if method else cached


def _read_signature(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    try:
        return tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # builtins may have none
        return (inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD),)


_SIGNATURES: WeakKeyDictionary[Any, tuple[inspect.Parameter, ...]] = WeakKeyDictionary()


def _wants_context(parameter: inspect.Parameter, given: Mapping[str, Any]) -> bool:
    if parameter.kind not in _POSITIONAL or parameter.name not in _CONTEXT_NAMES:
        return False
    return parameter.name == "ctx" or parameter.name not in given


def _is_dict(annotation: Any) -> bool:
    if annotation is dict or getattr(annotation, "__origin__", None) is dict:
        return True
    return isinstance(annotation, str) and annotation.partition("[")[0].lower() in (
        "dict",
        "typing.dict",
    )


def _listed(noun: str, names: list[str]) -> str:
    quoted = ", ".join(repr(name) for name in names)
    return f"the {noun}{'s' if len(names) > 1 else ''} {quoted}"
