"""Polars' frames as handles and handles as frames, in a worker of the interpreter that
SNAKEPIT_TEST_POLARS_PYTHON names; where it names none, conftest.py says that these are left
out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from local_peer import LocalWorker, build_extension
from segment_peer import Lender

from snakepit_bridge.zero_copy import ZERO_COPY_KEY

COLUMNS = ["number", "real", "text", "list", "when", "kind", "flag"]


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory, proto_path: str) -> Iterator[Lender]:
    worker = LocalWorker(
        "polars_tools:PolarsTools",
        tmp_path_factory.mktemp("worker"),
        env={"SNAKEPIT_ZERO_COPY": "1"},
        proto_path=build_extension(tmp_path_factory.mktemp("extension")),
        python=os.environ["SNAKEPIT_TEST_POLARS_PYTHON"],
    )
    lender = Lender(worker)
    yield lender
    worker.kill()
    lender.close()


def run(lender: Lender, tool: str, **arguments: Any) -> Any:
    return lender.value(lender.worker.start(tool, arguments))


def read(handle: dict[str, Any]) -> Any:
    assert handle[ZERO_COPY_KEY]
    assert handle["kind"] == "arrow"
    table = pa.ipc.open_stream(handle["data"]).read_all()
    table.validate(full=True)
    return table


def texts(table: Any) -> list[Any]:
    return [str(text) if text is not None else None for text in table.column("text").to_pylist()]


@pytest.mark.parametrize("rows", [0, 1, 5000])
@pytest.mark.parametrize("handle", [True, False])
def test_frames_go_as_streams(lender: Lender, rows: int, handle: bool) -> None:
    if rows < 5000 and not handle:
        value = run(lender, "frame", rows=rows, handle=False)
        assert not isinstance(value, dict) or ZERO_COPY_KEY not in value  # too small
        return
    table = read(run(lender, "frame", rows=rows, handle=handle))
    assert table.column_names == COLUMNS
    assert table.column("number").to_pylist() == list(range(rows))
    assert table.column("flag").to_pylist() == [n % 2 == 0 for n in range(rows)]
    assert texts(table) == [None if n % 3 == 0 else f"größer {n}" for n in range(rows)]
    assert table.column("list").to_pylist() == [[n] * (n % 4) for n in range(rows)]


def test_the_form_of_older_readers(lender: Lender) -> None:
    table = read(run(lender, "oldest", rows=100))
    assert table.schema.field("text").type == pa.large_string()
    assert table.num_rows == 100


def test_a_series_is_an_array(lender: Lender) -> None:
    handle = run(lender, "series", rows=5000)
    assert handle["metadata"]["arrow"] == "array"
    assert read(handle).column("values").to_pylist() == [n / 4 for n in range(5000)]


@pytest.mark.parametrize("rows", [0, 1, 5000])
def test_a_handle_is_a_frame(lender: Lender, rows: int) -> None:
    handle = run(lender, "frame", rows=rows, handle=True)
    segment, (tag,) = lender.lend([handle["data"]])
    arguments = {"ref": {**handle, "data": tag}, "rows": rows}
    seen = lender.call("same", arguments, [segment])
    assert seen["columns"] == COLUMNS
    assert seen["equal"] is True
    assert seen["by pyarrow"] is True
    lender.wait_released(segment)
