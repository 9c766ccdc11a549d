"""Statistics over numbers or a column of a CSV file."""

from __future__ import annotations

import csv
from typing import Any, Optional

from ....base_adapter import tool


class DataTools:
    @tool("numpy statistics of values, or of a column of a CSV file")
    def describe(
        self,
        values: Optional[list[float]] = None,
        path: Optional[str] = None,
        column: Optional[str] = None,
    ) -> dict[str, Any]:
        if (values is None) == (path is None):
            raise ValueError("give either values, or path and column")
        if path is not None:
            if column is None:
                raise ValueError("path needs a column")
            values = read_column(path, column)
        if not values:
            raise ValueError("there are no values")
        import numpy

        data = numpy.asarray(values, dtype=float)
        q1, median, q3 = numpy.percentile(data, [25, 50, 75]).tolist()
        return {
            "rows": int(data.size),
            "mean": float(data.mean()),
            "std": float(data.std()),
            "min": float(data.min()),
            "max": float(data.max()),
            "q1": q1,
            "median": median,
            "q3": q3,
        }


def read_column(path: str, column: str) -> list[float]:
    """The numbers of a column; rows where it is empty are left out."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if column not in (reader.fieldnames or ()):
            known = ", ".join(reader.fieldnames or ()) or "none"
            raise ValueError(f"{path} has no column {column!r}; it has: {known}")
        numbers = []
        for row in reader:
            text = row[column]
            if text:
                try:
                    numbers.append(float(text))
                except ValueError:
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {text!r} in column {column!r} "
                        "is not a number"
                    ) from None
    return numbers
