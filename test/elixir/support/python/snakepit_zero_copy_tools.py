"""Tools of zero_copy_calls_test.exs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from snakepit_bridge import BaseAdapter, ZeroCopyRef, tool


def _bytes(handle: ZeroCopyRef) -> bytes:
    return bytes(handle.payload["data"])


class ZeroCopyTools(BaseAdapter):  # type: ignore[misc]
    @tool("Returns its argument")
    def echo(self, value: Any = None) -> Any:
        return value

    @tool("What a handle says of itself")
    def describe(self, handle: Any) -> dict[str, Any]:
        return {
            "type": type(handle).__name__,
            "kind": handle.kind,
            "device": handle.device,
            "dtype": handle.dtype,
            "shape": list(handle.shape),
            "owner": handle.owner,
            "copy": handle.copy,
            "bytes": handle.bytes,
            "metadata": handle.metadata,
            "sum": sum(_bytes(handle)),
        }

    @tool("What an array says of itself")
    def array(self, value: Any) -> dict[str, Any]:
        return {
            "type": type(value).__name__,
            "dtype": str(value.dtype),
            "shape": list(value.shape),
            "sum": float(value.sum()),
        }

    @tool("A handle of so many bytes")
    def make(self, size: int, **fields: Any) -> ZeroCopyRef:
        data = bytes(i % 256 for i in range(min(size, 256))) * (size // 256 + 1)
        return ZeroCopyRef(
            {"kind": "dlpack", "device": "cpu", "dtype": "uint8", "shape": [size]}
            | {"owner": "python", "ref": "of this test", "data": data[:size]}
            | fields
        )

    @tool("Handles as chunks", supports_streaming=True)
    def stream(self, sizes: list[int]) -> Iterator[dict[str, Any]]:
        for size in sizes:
            yield {"handle": self.make(size)}

    @tool("Hands its argument to an Elixir tool, and back")
    def through(self, ctx: Any, value: Any) -> Any:
        return ctx.call_elixir_tool("handle_tool", {"value": value})

    @tool("So many bytes")
    def produce(self, size: int) -> bytes:
        return b"\x81" * size

    @tool("So many bytes, as chunks", supports_streaming=True)
    def produce_chunks(self, size: int, count: int) -> Iterator[dict[str, Any]]:
        for _ in range(count):
            yield {"data": b"\x81" * size}

    @tool("The length and the digest of its argument")
    def digest(self, data: bytes) -> dict[str, Any]:
        return {"size": len(data), "digest": hashlib.sha256(data).hexdigest()}
