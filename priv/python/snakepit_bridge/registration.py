"""Tells the BEAM which tools an adapter has."""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import Any

from . import _graceful
from ._proto import messages
from .dispatch import Tool, find_tool, tool_names
from .logging_config import get_logger
from .session_context import worker_id

_log = get_logger(__name__)


def registrations(adapter: Any) -> list[Any]:
    """One ToolRegistration per tool."""
    return [_registration(adapter, find_tool(adapter, name)) for name in tool_names(adapter)]


def register(adapter: Any, session_id: str, stub: Any) -> list[str]:
    """Names the BEAM knows afterwards; empty when it refuses or does not answer."""
    request = _request(adapter, session_id)
    try:
        response = stub.RegisterTools(request)
    except Exception as error:
        return _refused(request, str(error))
    return _names(request, response)


async def register_async(adapter: Any, session_id: str, stub: Any) -> list[str]:
    request = _request(adapter, session_id)
    try:
        answer = stub.RegisterTools(request)
        response = await answer if inspect.isawaitable(answer) else answer
    except asyncio.CancelledError:
        raise
    except Exception as error:
        return _refused(request, str(error))
    return _names(request, response)


def _request(adapter: Any, session_id: str) -> Any:
    return messages().RegisterToolsRequest(
        session_id=session_id,
        tools=adapter.get_tools(),
        worker_id=worker_id() or f"python-{id(adapter)}",
    )


def _names(request: Any, response: Any) -> list[str]:
    if response.success:
        return list(response.tool_ids)
    if "duplicate_tool" in response.error_message:
        return [tool.name for tool in request.tools]
    return _refused(request, response.error_message)


def _refused(request: Any, why: str) -> list[str]:
    _log.warning("the tools of session %r are not registered: %s", request.session_id, why)
    return []


def _registration(adapter: Any, tool: Tool) -> Any:
    pb2 = messages()
    metadata = tool.metadata
    kind = type(adapter)
    return pb2.ToolRegistration(
        name=tool.name,
        description=metadata.description if metadata else (tool.function.__doc__ or "").strip(),
        parameters=[_parameter(pb2, parameter) for parameter in tool.arguments()],
        metadata={
            "adapter_class": kind.__name__,
            "module": kind.__module__,
            "required_variables": ",".join(metadata.required_variables) if metadata else "",
        },
        supports_streaming=tool.streaming,
    )


def _parameter(pb2: Any, parameter: inspect.Parameter) -> Any:
    spec = pb2.ParameterSpec(
        name=parameter.name,
        type=_type_name(parameter),
        required=parameter.default is parameter.empty,
    )
    if parameter.default is not parameter.empty:
        spec.validation_json = json.dumps(
            {"default": parameter.default}, default=_graceful.convert
        )
    return spec


def _type_name(parameter: inspect.Parameter) -> str:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return "any"
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", None)
    return str(name if name is not None else annotation).lower()
