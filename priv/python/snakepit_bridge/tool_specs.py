"""What the tools of an adapter are called and take, as plain data.

The keys are those of the messages ToolRegistration and ParameterSpec.
"""

from __future__ import annotations

import inspect
import json
from contextlib import suppress
from functools import lru_cache
from typing import Any

from .base_adapter import BaseAdapter
from .dispatch import Tool, find_tool, marks_none, tool_names


class _Forgotten:
    pass


@lru_cache(maxsize=4)
def declared(adapter: Any) -> tuple[dict[str, Any], ...]:
    """Those of a class, of which nothing is made for that, or of a module."""
    if not isinstance(adapter, type):
        return tuple(_all(adapter))
    # What it does with names is its own affair.
    if _dispatches(adapter) and marks_none(adapter):
        return ()
    try:
        # Only to bind its functions: no code of the adapter's runs.
        probe: Any = object.__new__(adapter)
    except TypeError:  # derived from what has another layout
        return ()
    try:
        return tuple(_all(probe))
    finally:
        with suppress(TypeError):
            probe.__class__ = _Forgotten  # a __del__ would find nothing of its own


def describe(adapter: Any, tool: Tool) -> dict[str, Any]:
    metadata = tool.metadata
    kind = type(adapter)
    return {
        "name": tool.name,
        "description": metadata.description if metadata else _text(tool.function.__doc__),
        "parameters": [_parameter(parameter) for parameter in tool.arguments()],
        "metadata": {
            "adapter_class": kind.__name__,
            "module": kind.__module__,
            "required_variables": ",".join(metadata.required_variables) if metadata else "",
        },
        "supports_streaming": tool.streaming,
    }


def _all(adapter: Any) -> list[dict[str, Any]]:
    return [describe(adapter, find_tool(adapter, name)) for name in tool_names(adapter)]


def _dispatches(kind: type) -> bool:
    own = getattr(kind, "execute_tool", None)
    return own is not None and own is not BaseAdapter.execute_tool


def _text(text: Any) -> str:
    return text.strip() if isinstance(text, str) else ""


def _parameter(parameter: inspect.Parameter) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "name": parameter.name,
        "type": _type_name(parameter),
        "required": parameter.default is parameter.empty,
    }
    if parameter.default is not parameter.empty:
        spec["validation_json"] = json.dumps({"default": parameter.default}, default=_convert)
    return spec


def _convert(value: Any) -> Any:
    from . import _graceful

    return _graceful.convert(value)


def _type_name(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return "any"
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", None)
    return str(name if name is not None else annotation).lower()
