"""Tools of zero_copy_python_test.exs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
import pyarrow

from snakepit_bridge import BaseAdapter, tool, zero_copy


class ArrayTools(BaseAdapter):  # type: ignore[misc]
    @tool("An array of zero_copy.empty, filled")
    def filled(self, shape: list[int], dtype: str = "float32") -> Any:
        array = zero_copy.empty(shape, dtype)
        array[...] = numpy.arange(array.size).reshape(shape)
        return array

    @tool("An array of NumPy's own")
    def zeros(self, size: int) -> Any:
        return numpy.zeros(size, "int8")

    @tool("The type of its argument and the sum of its items")
    def total(self, value: Any) -> list[Any]:
        array = value if isinstance(value, numpy.ndarray) else zero_copy.from_dlpack(value)
        return [type(value).__name__, float(array.sum(dtype="float64"))]

    @tool("A table as a handle")
    def table(self, rows: int) -> Any:
        return zero_copy.to_arrow(pyarrow.table({"n": range(rows)}))

    @tool("The sum of a table's column")
    def column(self, table: Any) -> int:
        return sum(zero_copy.from_arrow(table).column("n").to_pylist())

    @tool("Arrays as chunks", supports_streaming=True)
    def frames(self, count: int) -> Iterator[Any]:
        for number in range(count):
            frame = zero_copy.empty((100, 1000), "uint8")
            frame[...] = number
            yield {"frame": frame}
