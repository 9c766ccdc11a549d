"""From a tool's name to the call of a function."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any, Callable, Optional, Union, get_args, get_origin
from weakref import WeakKeyDictionary

from .base_adapter import BaseAdapter, ToolMetadata
from .errors import ToolArgumentError, ToolStreamsError, UnknownToolError
from .inputs import Inputs

_CONTEXT_NAMES = ("ctx", "context", "session_context")
_DICT_NAMES = ("params", "args", "arguments")
_HOOKS = frozenset(
    ("execute_tool", "set_session_context", "initialize", "cleanup", "register_with_session")
)
_MAX_LISTED = 40
_UNIONS = (Union, getattr(types, "UnionType", Union))
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class _Binding:
    """How the parameters that are left for the caller take the arguments."""

    __slots__ = ("_dict_unless_named", "_known", "_open", "_required", "_single", "stream")

    def __init__(
        self,
        parameters: tuple[inspect.Parameter, ...],
        streams: bool,
        inputs: Optional[str] = None,
    ) -> None:
        """``inputs`` is the parameter that is filled from elsewhere."""
        if inputs is not None:
            parameters = tuple(p for p in parameters if p.name != inputs)
        self.stream = streams and any(p.name == "stream" for p in parameters)
        if self.stream:
            parameters = tuple(p for p in parameters if p.name != "stream")
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        self._known = frozenset(p.name for p in named)
        self._required = tuple(p.name for p in named if p.default is p.empty)
        self._open = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._single: Optional[str] = None
        self._dict_unless_named = False
        if len(parameters) == 1 and parameters[0].kind in _POSITIONAL:
            only = parameters[0]
            self._single = only.name
            self._dict_unless_named = only.name in _DICT_NAMES or (
                only.default is only.empty and _is_dict(only.annotation)
            )

    def wants_dict(self, given: Mapping[str, Any], takes_dict: bool) -> bool:
        """Whether the one parameter is for all arguments together."""
        if self._single is None:
            return False
        return takes_dict or (self._dict_unless_named and self._single not in given)

    def check(self, tool: str, given: Mapping[str, Any]) -> None:
        for name in self._required:
            if name not in given:
                raise self._missing(tool, given)
        if not self._open and given and not self._known.issuperset(given):
            raise self._extra(tool, given)

    @property
    def takes_names(self) -> bool:
        """Whether it takes arguments by their names, and nothing else."""
        return not self.stream and not self._dict_unless_named

    def _missing(self, tool: str, given: Mapping[str, Any]) -> ToolArgumentError:
        missing = [name for name in self._required if name not in given]
        return ToolArgumentError(
            f"tool {tool!r} needs {_listed('argument', missing)}; "
            f"given: {_names(map(str, given))}"
        )

    def _extra(self, tool: str, given: Mapping[str, Any]) -> ToolArgumentError:
        extra = [name for name in given if name not in self._known]
        return ToolArgumentError(
            f"tool {tool!r} does not take {_listed('argument', extra)}; "
            f"it takes: {_names(self._known)}"
        )


class Tool:
    """A function that can be called by name, and how it wants its arguments."""

    __slots__ = (
        "_context_name",
        "_declares_inputs",
        "_inputs_name",
        "_parameters",
        "_plain",
        "_simple",
        "_streams",
        "_with_context",
        "attribute",
        "function",
        "metadata",
        "name",
        "streaming",
        "takes_dict",
    )

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        takes_dict: bool = False,
        attribute: str = "",
    ) -> None:
        self.name = name
        self.function = function
        self.attribute = attribute or name
        self.takes_dict = takes_dict
        self.metadata: Optional[ToolMetadata] = getattr(function, "_tool_metadata", None)
        self._parameters = parameters = _parameters(function)
        streams = self.metadata is not None and self.metadata.supports_streaming
        # By declaration: what a tool returns does not change it.
        self.streaming = (
            streams
            or inspect.isgeneratorfunction(function)
            or inspect.isasyncgenfunction(function)
        )
        self._streams = streams
        self._context_name: Optional[str] = None
        self._plain = self._with_context = _Binding(parameters, streams)
        if parameters and _wants_context(parameters[0], {}):
            self._context_name = parameters[0].name
            self._with_context = _Binding(parameters[1:], streams)
        self._declares_inputs = self.metadata is not None and self.metadata.inputs
        # A parameter that is only named so is an ordinary one where a call has no inputs.
        self._inputs_name = _inputs_parameter(parameters)
        if any(_is_inputs(p.annotation) for p in parameters):
            self._declares_inputs = True
        # Most tools; see call.
        self._simple = (
            self._context_name is None
            and not self._declares_inputs
            and not takes_dict
            and self._plain.takes_names
        )

    def arguments(self) -> list[inspect.Parameter]:
        """The parameters that the caller fills."""
        parameters = list(self._parameters)
        if self._context_name is not None:
            del parameters[0]
        elsewhere = {"stream"} if self._streams else set()
        if self._declares_inputs and self._inputs_name is not None:
            elsewhere.add(self._inputs_name)
        return [
            p
            for p in parameters
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in elsewhere
        ]

    def call(
        self,
        arguments: Mapping[str, Any],
        context: Any,
        stream: Any = None,
        function: Optional[Callable[..., Any]] = None,
        inputs: Optional[Inputs] = None,
    ) -> Any:
        """Starts the tool: a value, an awaitable, or an iterator of chunks.

        ``function`` is the same one, bound to another adapter of its class.
        """
        if function is None:
            function = self.function
        if self._simple and inputs is None:
            self._plain.check(self.name, arguments)
            return function(**arguments)
        first: tuple[Any, ...] = ()
        binding = self._plain
        name = self._context_name
        if name is not None and (name == "ctx" or name not in arguments):
            first, binding = (context,), self._with_context
        named: dict[str, Any] = {}
        if binding.stream:
            if stream is None:
                raise streams_error(self.name)
            named["stream"] = stream
        if inputs is not None or self._declares_inputs:
            self._give(inputs, arguments, named)
            parameters = self._parameters[1:] if first else self._parameters
            binding = _Binding(parameters, self._streams, self._inputs_name)
        if binding.wants_dict(arguments, self.takes_dict):
            return function(*first, dict(arguments), **named)
        binding.check(self.name, arguments)
        if not named:
            return function(*first, **arguments)
        named.update(arguments)
        return function(*first, **named)

    def _give(
        self, inputs: Optional[Inputs], arguments: Mapping[str, Any], named: dict[str, Any]
    ) -> None:
        """The inputs to their parameter, if the tool reads any."""
        name = self._inputs_name
        if inputs is not None and name is None and not self._declares_inputs:
            raise ToolArgumentError(
                f"tool {self.name!r} reads no inputs; give it a parameter named inputs, "
                "or mark it with @tool(inputs=True) and read ctx.inputs"
            )
        if name is None:
            return
        if name in arguments:
            raise ToolArgumentError(
                f"tool {self.name!r} reads {name!r} as inputs: it cannot be an argument as well"
            )
        if inputs is not None:
            named[name] = inputs
        elif any(p.name == name and p.default is p.empty for p in self._parameters):
            raise ToolArgumentError(
                f"tool {self.name!r} reads inputs: call it with the option inputs:"
            )


class ToolCache:
    """The tools of one adapter, found by name once and for all its instances."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[str, tuple[Tool, Any]] = {}

    def find(self, adapter: Any, name: str) -> tuple[Tool, Callable[..., Any]]:
        """The tool, and its function bound to this instance. Raises UnknownToolError."""
        found = self._found.get(name)
        if found is not None:
            function = getattr(adapter, found[0].attribute, None)
            # Neither replaced in the class nor an instance's own.
            if getattr(function, "__func__", None) is found[1]:
                return found[0], function  # type: ignore[return-value]
        tool = find_tool(adapter, name)
        if isinstance(tool.function, MethodType):
            self._found[name] = (tool, tool.function.__func__)
        return tool, tool.function


def find_tool(adapter: Any, name: str) -> Tool:
    """The tool of that name. Raises UnknownToolError, with what comes close."""
    tool = _lookup(adapter, name)
    if tool is not None:
        return tool
    import difflib  # for this mistake only

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
        return Tool(name, command, takes_dict=True, attribute=f"execute_{name}")
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
    return marks_none(type(adapter))


def _module_offers(module: ModuleType, function: Callable[..., Any]) -> bool:
    own = getattr(function, "__module__", None) == module.__name__
    return own and not any(hasattr(value, "_tool_metadata") for value in vars(module).values())


def _is_command(name: str, function: Callable[..., Any]) -> bool:
    return name not in _HOOKS and not hasattr(function, "_tool_metadata")


def marks_none(kind: type) -> bool:
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


def _inputs_parameter(parameters: tuple[inspect.Parameter, ...]) -> Optional[str]:
    """The one that is annotated with Inputs, or else named so."""
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for parameter in named:
        if _is_inputs(parameter.annotation):
            return parameter.name
    return "inputs" if any(p.name == "inputs" for p in named) else None


def _is_inputs(annotation: Any) -> bool:
    """Also where it is optional."""
    if isinstance(annotation, str):
        text = annotation.strip("\"' ").rpartition("Optional[")[2].rstrip("]")
        return any(part.strip().rpartition(".")[2] == "Inputs" for part in text.split("|"))
    union = get_origin(annotation) in _UNIONS
    return annotation is Inputs or (union and Inputs in get_args(annotation))


def _is_dict(annotation: Any) -> bool:
    if annotation is dict or getattr(annotation, "__origin__", None) is dict:
        return True
    return isinstance(annotation, str) and annotation.partition("[")[0].lower() in (
        "dict",
        "typing.dict",
    )


def _listed(noun: str, names: list[str]) -> str:
    quoted = ", ".join(repr(name) for name in names[:_MAX_LISTED])
    return f"the {noun}{'s' if len(names) > 1 else ''} {quoted}{_more(len(names))}"


def _names(names: Iterable[str]) -> str:
    found = sorted(names)
    return (", ".join(found[:_MAX_LISTED]) or "none") + _more(len(found))


def _more(count: int) -> str:
    return f" and {count - _MAX_LISTED} more" if count > _MAX_LISTED else ""
