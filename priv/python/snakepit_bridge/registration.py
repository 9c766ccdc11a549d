"""Tells the BEAM which tools an adapter has."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from ._proto import messages
from .dispatch import Tool, find_tool, tool_names
from .logging_config import get_logger
from .session_context import worker_id
from .tool_specs import describe

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
    spec = describe(adapter, tool)
    parameters = [pb2.ParameterSpec(**parameter) for parameter in spec.pop("parameters")]
    return pb2.ToolRegistration(parameters=parameters, **spec)
