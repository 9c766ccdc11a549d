"""The Python side of Snakepit: workers that Elixir calls, and what they offer.

Names are imported when first used, so that ``import snakepit_bridge`` costs
nothing and needs neither grpcio nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base_adapter import BaseAdapter, ToolMetadata, tool
    from .errors import ToolCancelled
    from .heartbeat import HeartbeatClient, HeartbeatConfig
    from .inputs import Inputs
    from .logging_config import configure_logging, get_logger
    from .serialization import BinaryResult
    from .session_context import SessionContext
    from .streams import StreamChunk
    from .zero_copy import ZeroCopyRef

__version__ = "2.0.0"

_EXPORTS = {
    "BaseAdapter": "base_adapter",
    "ToolMetadata": "base_adapter",
    "tool": "base_adapter",
    "ToolCancelled": "errors",
    "HeartbeatClient": "heartbeat",
    "HeartbeatConfig": "heartbeat",
    "Inputs": "inputs",
    "configure_logging": "logging_config",
    "get_logger": "logging_config",
    "BinaryResult": "serialization",
    "SessionContext": "session_context",
    "StreamChunk": "streams",
    "ZeroCopyRef": "zero_copy",
}

__all__ = [
    "BaseAdapter",
    "BinaryResult",
    "HeartbeatClient",
    "HeartbeatConfig",
    "Inputs",
    "SessionContext",
    "StreamChunk",
    "ToolCancelled",
    "ToolMetadata",
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
