"""An adapter as SnakeBridge's: no base class, objects in the module's globals."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Optional

import snakepit_bridge_pb2 as pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from snakepit_bridge.serialization import TypeSerializer

try:
    from snakepit_bridge import telemetry
except ImportError:  # optional
    telemetry = None  # type: ignore[assignment]

STRING_VALUE = "type.googleapis.com/google.protobuf.StringValue"

# session_id -> id -> object: later calls of the session come to this process.
_objects: dict[Optional[str], dict[str, Any]] = {}


def _span(name: str, metadata: dict[str, Any]) -> Any:
    return telemetry.span(name, metadata) if telemetry else nullcontext()


class Counter:
    """Something with a state."""

    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, n: int) -> int:
        self.value += n
        return self.value


class Opaque:
    """Something without a plain form."""


def opaque() -> Opaque:
    return Opaque()


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


class DownstreamAdapter:
    def __init__(self) -> None:
        self.session_context: Any = None

    def set_session_context(self, context: Any) -> None:
        self.session_context = context

    def execute_tool(self, tool_name: str, arguments: dict[str, Any], context: Any) -> Any:
        handlers = {
            "snakebridge.call": self._call,
            "snakebridge.stream": self._stream,
            "snakebridge.release_ref": self._release_ref,
            "snakebridge.release_session": self._release_session,
            "snakebridge.helpers": self._helpers,
            "downstream.callback": self._callback,
        }
        if tool_name not in handlers:
            raise NotImplementedError(f"unknown command {tool_name}")
        if arguments.get("protocol_version", 1) != 1:
            raise ValueError("unknown protocol version")
        with _span("python.call", {"function": tool_name}):
            return handlers[tool_name](arguments, context)

    def _call(self, arguments: dict[str, Any], context: Any) -> Any:
        own = _objects.setdefault(arguments.get("session_id"), {})
        args, kwargs = arguments.get("args", []), arguments.get("kwargs", {})
        if arguments["call_type"] == "method":
            target = own[arguments["instance"]["id"]]
            return getattr(target, arguments["function"])(*args, **kwargs)
        module = importlib.import_module(arguments["python_module"])
        value = getattr(module, arguments["function"])(*args, **kwargs)
        if arguments["call_type"] == "class":
            key = f"ref-{len(own)}"
            own[key] = value
            return {"id": key, "pid": os.getpid(), "type": type(value).__name__}
        return value

    def _stream(self, arguments: dict[str, Any], context: Any) -> Iterator[Any]:
        module = importlib.import_module(arguments["python_module"])
        for value in getattr(module, arguments["function"])(*arguments["args"]):
            yield {"value": value}

    def _release_ref(self, arguments: dict[str, Any], context: Any) -> bool:
        own = _objects.get(arguments.get("session_id"), {})
        return own.pop(arguments["ref"]["id"], None) is not None

    def _release_session(self, arguments: dict[str, Any], context: Any) -> int:
        return len(_objects.pop(arguments.get("session_id"), {}))

    def _helpers(self, arguments: dict[str, Any], context: Any) -> dict[str, Any]:
        return {"helpers": ["numbers"], "context": context is self.session_context}

    def _callback(self, arguments: dict[str, Any], context: Any) -> Any:
        value = json.dumps(arguments["value"]).encode()
        request = pb2.ExecuteElixirToolRequest(
            session_id=arguments.get("session_id") or context.session_id,
            tool_name="snakebridge.callback",
            parameters={"value": AnyMessage(type_url=STRING_VALUE, value=value)},
        )
        response = context.stub.ExecuteElixirTool(request)
        if not response.success:
            raise RuntimeError(response.error_message)
        return TypeSerializer.decode_any(response.result)
