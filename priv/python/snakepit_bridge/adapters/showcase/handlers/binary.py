"""Bytes, tensors and embeddings."""

from __future__ import annotations

import hashlib
import math
import random
import time
import zlib
from typing import Any, Optional, Union

from ...._values import dumps
from ....base_adapter import tool
from ....serialization import TypeSerializer

BytesLike = Union[bytes, str]


class BinaryTools:
    @tool("checksum, length, reverse, compress or histogram of bytes")
    def process_binary(self, data: BytesLike, operation: str = "checksum") -> dict[str, Any]:
        raw = data.encode() if isinstance(data, str) else bytes(data)
        if operation == "checksum":
            return {
                "checksum": hashlib.sha256(raw).hexdigest(),
                "algorithm": "sha256",
                "crc32": zlib.crc32(raw),
                "size": len(raw),
            }
        if operation == "length":
            return {"size": len(raw)}
        if operation == "reverse":
            return {"data": raw[::-1], "size": len(raw)}
        if operation == "compress":
            return {"data": zlib.compress(raw), "size": len(raw)}
        if operation == "histogram":
            return {"histogram": [raw.count(byte) for byte in range(256)], "size": len(raw)}
        known = "checksum, compress, histogram, length, reverse"
        raise ValueError(f"unknown operation {operation!r}; known: {known}")

    @tool("A tensor of a shape, and how it would travel")
    def create_tensor(
        self,
        name: str = "tensor",
        shape: Optional[list[int]] = None,
        size_bytes: Optional[int] = None,
        fill_value: Optional[float] = None,
        include_data: bool = False,
    ) -> dict[str, Any]:
        if shape is None:
            shape = [max((size_bytes or 800) // 8, 1)]
        if not shape or any(not isinstance(n, int) or n < 1 for n in shape):
            raise ValueError(f"shape must be a list of positive integers, not {shape!r}")
        total = math.prod(shape)
        source = random.Random(total)
        flat = [
            source.random() if fill_value is None else float(fill_value) for _ in range(total)
        ]
        value = _nested(flat, shape)
        started = time.perf_counter()
        _, binary = TypeSerializer.encode_any(value, "tensor")
        result = {
            "name": name,
            "shape": shape,
            "elements": total,
            "size_bytes": total * 8,
            "encoding": "json" if binary is None else "binary",
            "encoding_ms": (time.perf_counter() - started) * 1000,
        }
        if include_data:
            result["data"] = value
        return result

    @tool("A unit vector made from a text; the same text gives the same vector")
    def create_embedding(self, text: str = "", dimensions: int = 128) -> dict[str, Any]:
        vector = embedding(text, dimensions)
        _, binary = TypeSerializer.encode_any(vector, "embedding")
        return {
            "text": text,
            "dimensions": dimensions,
            "embedding": vector,
            "encoding": "json" if binary is None else "binary",
        }

    @tool("One embedding for each text")
    def generate_embeddings(
        self, texts: list[str], model: str = "hash", dimensions: int = 128
    ) -> dict[str, Any]:
        vectors = [embedding(text, dimensions) for text in texts]
        return {"model": model, "dimensions": dimensions, "embeddings": vectors}

    @tool("Times the encodings for growing sizes")
    def benchmark_encoding(
        self, start_kb: int = 1, end_kb: int = 64, step_kb: int = 16
    ) -> dict[str, Any]:
        if step_kb < 1:
            raise ValueError("step_kb must be positive")
        results = []
        for size_kb in range(start_kb, end_kb + 1, step_kb):
            numbers = embedding("benchmark", max(size_kb * 128, 1))
            started = time.perf_counter()
            text = dumps(numbers)
            middle = time.perf_counter()
            _, binary = TypeSerializer.encode_any(numbers, "tensor")
            results.append(
                {
                    "size_kb": size_kb,
                    "json_ms": (middle - started) * 1000,
                    "json_bytes": len(text),
                    "typed_ms": (time.perf_counter() - middle) * 1000,
                    "encoding": "json" if binary is None else "binary",
                }
            )
        return {"results": results}


def embedding(text: str, dimensions: int) -> list[float]:
    if dimensions < 1:
        raise ValueError("dimensions must be positive")
    source = random.Random(hashlib.sha256(text.encode()).digest())
    vector = [source.uniform(-1.0, 1.0) for _ in range(dimensions)]
    norm = math.sqrt(sum(x * x for x in vector)) or 1.0
    return [x / norm for x in vector]


def _nested(flat: list[float], shape: list[int]) -> list[Any]:
    nested: list[Any] = flat
    for extent in reversed(shape[1:]):
        nested = [nested[i : i + extent] for i in range(0, len(nested), extent)]
    return nested
