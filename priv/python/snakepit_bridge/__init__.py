"""The Python side of Snakepit: workers that Elixir calls, and what they offer.

Names are imported when first used, so that ``import snakepit_bridge`` costs
nothing and needs neither grpcio nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base_adapter import BaseAdapter, ToolMetadata, tool
    from .command_handler import BaseCommandHandler, ProtocolHandler
    from .errors import ToolCancelled
    from .heartbeat import HeartbeatClient, HeartbeatConfig
    from .inputs import Inputs
    from .logging_config import configure_logging, get_logger
    from .serialization import BinaryResult
    from .session_context import SessionContext
    from .session_variables import SessionVariables, Variable
    from .streams import StreamChunk
    from .variable_aware_mixin import VariableAwareMixin
    from .zero_copy import ZeroCopyRef

__version__ = "2.0.0"

_EXPORTS = {
    "BaseAdapter": "base_adapter",
    "ToolMetadata": "base_adapter",
    "tool": "base_adapter",
    "BaseCommandHandler": "command_handler",
    "ProtocolHandler": "command_handler",
    "ToolCancelled": "errors",
    "HeartbeatClient": "heartbeat",
    "HeartbeatConfig": "heartbeat",
    "Inputs": "inputs",
    "configure_logging": "logging_config",
    "get_logger": "logging_config",
    "BinaryResult": "serialization",
    "SessionContext": "session_context",
    "SessionVariables": "session_variables",
    "Variable": "session_variables",
    "StreamChunk": "streams",
    "VariableAwareMixin": "variable_aware_mixin",
    "ZeroCopyRef": "zero_copy",
}

__all__ = [
    "BaseAdapter",
    "BaseCommandHandler",
    "BinaryResult",
    "HeartbeatClient",
    "HeartbeatConfig",
    "Inputs",
    "ProtocolHandler",
    "SessionContext",
    "SessionVariables",
    "StreamChunk",
    "ToolCancelled",
    "ToolMetadata",
    "Variable",
    "VariableAwareMixin",
    "ZeroCopyRef",
    "__version__",
    "configure_logging",
    "get_logger",
    "tool",
]


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
