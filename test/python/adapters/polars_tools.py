"""Tools of test_zero_copy_polars.py, for an interpreter that has Polars."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import polars

from snakepit_bridge import BaseAdapter, tool, zero_copy


def frame_of(rows: int) -> Any:
    return polars.DataFrame(
        {
            "number": polars.Series(range(rows), dtype=polars.Int32),
            "real": polars.Series([n / 4 for n in range(rows)], dtype=polars.Float64),
            "text": polars.Series(
                [None if n % 3 == 0 else f"größer {n}" for n in range(rows)], dtype=polars.String
            ),
            "list": polars.Series([[n] * (n % 4) for n in range(rows)], dtype=polars.List(int)),
            "when": polars.Series(
                [datetime(2024, 1, 1 + n % 28) for n in range(rows)], dtype=polars.Datetime("us")
            ),
            "kind": polars.Series(["a" if n % 2 else "b" for n in range(rows)]).cast(
                polars.Categorical
            ),
            "flag": polars.Series([n % 2 == 0 for n in range(rows)], dtype=polars.Boolean),
        }
    )


class PolarsTools(BaseAdapter):  # type: ignore[misc]
    @tool("A frame, or its handle")
    def frame(self, rows: int, handle: bool) -> Any:
        frame = frame_of(rows)
        return zero_copy.to_arrow(frame) if handle else frame

    @tool("A frame in the form that older readers know")
    def oldest(self, rows: int) -> Any:
        level = polars.CompatLevel.oldest()
        return zero_copy.to_arrow(frame_of(rows).to_arrow(compat_level=level))

    @tool("A series")
    def series(self, rows: int) -> Any:
        return zero_copy.to_arrow(frame_of(rows)["real"])

    @tool("Is it the frame, by Polars and by pyarrow?")
    def same(self, ref: Any, rows: int) -> Any:
        expected = frame_of(rows)
        taken = polars.DataFrame(ref)
        table = zero_copy.from_arrow(ref)
        return {
            "columns": taken.columns,
            "equal": taken.equals(expected),
            "by pyarrow": polars.from_arrow(table).equals(expected),
            "version": polars.__version__,
        }
