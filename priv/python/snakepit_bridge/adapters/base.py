"""The import path of older adapters."""

from ..base_adapter import BaseAdapter, ToolMetadata, tool

__all__ = ["BaseAdapter", "ToolMetadata", "tool"]
