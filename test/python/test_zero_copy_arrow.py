"""Tables as handles and handles as tables."""

from __future__ import annotations

import struct
import sys
from typing import Any, Callable

import pyarrow as pa
import pytest
from local_peer import native_module

from snakepit_bridge import ZeroCopyRef, _values
from snakepit_bridge.zero_copy import (
    ZeroCopyError,
    ZeroCopyUnavailable,
    from_arrow,
    from_dlpack,
    to_arrow,
    to_dlpack,
)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return native_module(tmp_path_factory.mktemp("extension"))


@pytest.fixture(params=["cbor", "json"])
def sent(request: pytest.FixtureRequest, native: Any) -> Callable[[Any], Any]:
    if request.param == "cbor":
        return lambda value: native.decode(native.encode(value))
    return lambda value: _values.loads(_values.dumps(value))


def table(rows: int = 100) -> Any:
    return pa.table(
        {
            "number": pa.array(range(rows), pa.int32()),
            "text": [None if n % 3 == 0 else f"text {n}" for n in range(rows)],
            "list": [[n] * (n % 4) for n in range(rows)],
            "when": pa.array(range(rows), pa.timestamp("us", "UTC")),
            "kind": pa.array(["a", "b"] * (rows // 2)).dictionary_encode(),
        },
        metadata={"made": "here"},
    )


class Capsules:
    """Data of another library's, known by its capsules alone."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Streamed(Capsules):
    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.value.__arrow_c_stream__(requested_schema)


class Arrayed(Capsules):
    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        return self.value.__arrow_c_array__(requested_schema)


BATCH = table().to_batches()[0]


@pytest.mark.parametrize(
    "value",
    [
        table(),
        table(0),
        pa.table({}),
        BATCH,
        Streamed(table()),
        Arrayed(BATCH),
    ],
    ids=["table", "no rows", "no columns", "batch", "stream", "array"],
)
def test_tables_there_and_back(sent: Any, value: Any) -> None:
    ref = to_arrow(value)
    back = sent(ref)
    assert isinstance(back, ZeroCopyRef)
    assert (back.kind, back.device, back.owner) == ("arrow", "cpu", "python")
    whole = from_arrow(back)
    assert back.shape == [whole.num_rows, whole.num_columns]
    assert back.bytes == len(back.data)
    inner = value.value if isinstance(value, Capsules) else value
    expected = inner if isinstance(inner, pa.Table) else pa.Table.from_batches([inner])
    assert whole.equals(expected)
    assert whole.to_pylist() == expected.to_pylist()
    whole.validate(full=True)


def test_readers_are_read_to_their_end() -> None:
    reader = pa.RecordBatchReader.from_batches(BATCH.schema, [BATCH, BATCH])
    assert from_arrow(to_arrow(reader)).num_rows == 2 * BATCH.num_rows


@pytest.mark.parametrize(
    "value",
    [
        pa.array([1, None, 3]),
        pa.chunked_array([["a"], [], ["b", "c"]]),
        Streamed(pa.chunked_array([[1.5], [2.5]])),
        Arrayed(pa.array([True, False])),
    ],
)
def test_arrays_there_and_back(sent: Any, value: Any) -> None:
    back = sent(to_arrow(value))
    inner = value.value if isinstance(value, Capsules) else value
    assert from_arrow(back).to_pylist() == inner.to_pylist()
    assert from_arrow(back).type == inner.type
    assert pa.table(back).column_names == ["values"]


def test_columns_lie_in_the_memory_of_the_handle() -> None:
    ref = to_arrow(pa.table({"a": pa.array(range(1000), pa.int64())}))
    data = ref.data
    column = from_arrow(ref).column(0).chunk(0)
    start = pa.py_buffer(data).address
    assert start <= column.buffers()[1].address < start + len(data)
    at = column.buffers()[1].address - start
    data[at : at + 8] = struct.pack("=q", 77)
    assert column[0].as_py() == 77


def test_others_read_a_handle_by_its_capsules() -> None:
    ours = table()
    ref = to_arrow(ours)
    assert pa.table(ref).equals(ours)
    assert pa.schema(ref).equals(ours.schema)


def test_a_stream_as_bytes_is_not_copied() -> None:
    data = bytes(to_arrow(table()).data)
    ref = to_arrow(data)
    assert ref.copy is False
    assert ref.data.obj is data
    assert from_arrow(ref).equals(table())


# ---- automatic -----------------------------------------------------------------


def test_enabled_large_tables_go_as_handles(sent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = table()
    before = sent(ours)
    assert not isinstance(before, ZeroCopyRef)
    monkeypatch.setenv("SNAKEPIT_ZERO_COPY", "1")
    assert sent(ours) == before
    monkeypatch.setenv("SNAKEPIT_ZERO_COPY_THRESHOLD", str(ours.nbytes))
    assert from_arrow(sent(ours)).equals(ours)
    assert from_arrow(sent([BATCH])[0]).equals(ours)
    monkeypatch.setenv("SNAKEPIT_ZERO_COPY_THRESHOLD", str(ours.nbytes + 1))
    assert sent(ours) == before


# ---- what cannot be ------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 5, "text", [1], {"a": [1]}])
def test_what_is_no_table(value: Any) -> None:
    with pytest.raises(ZeroCopyError, match="is no table"):
        to_arrow(value)
    with pytest.raises(ZeroCopyError, match="is no handle"):
        from_arrow(value)


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"ARROW1\0\0" + bytes(100), b"\xff" * 64])
def test_bytes_that_are_no_stream(data: bytes) -> None:
    ref = ZeroCopyRef({"kind": "arrow", "data": data})
    for use in (lambda: to_arrow(data), lambda: from_arrow(ref), lambda: pa.table(ref)):
        with pytest.raises(ZeroCopyError, match="Arrow IPC stream"):
            use()


def test_streams_that_end_early() -> None:
    data = bytes(to_arrow(table()).data)
    # The end marker may be missing: an end is one as well.
    for size in range(8, len(data) - 16, 101):
        ref = ZeroCopyRef({"kind": "arrow", "data": data[:size]})
        try:
            rows = from_arrow(ref).num_rows
        except ZeroCopyError:
            continue
        assert rows == 0  # cut between the schema and the first batch


def test_offsets_beyond_their_buffer() -> None:
    data = bytearray(to_arrow(pa.table({"a": ["aaaa", "bbbb", "cccc"]})).data)
    offsets = struct.pack("=4i", 0, 4, 8, 12)
    at = data.index(offsets)
    data[at : at + 16] = struct.pack("=4i", 0, 4, 8, 2**30)
    with pytest.raises(ZeroCopyError, match="broken"):
        from_arrow(ZeroCopyRef({"kind": "arrow", "data": bytes(data)}))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"kind": "dlpack"}, "of kind 'dlpack'"),
        ({"data": None}, "carries no data"),
        ({"bytes": 5}, "says 5 bytes"),
    ],
)
def test_handles_that_make_no_sense(fields: dict[str, Any], why: str) -> None:
    ref = ZeroCopyRef({**to_arrow(table()).payload, **fields})
    with pytest.raises(ZeroCopyError, match=why):
        from_arrow(ref)
    with pytest.raises(ZeroCopyError, match=why):
        ref.__arrow_c_stream__()


def test_kinds_are_not_mixed_up() -> None:
    ours = to_arrow(table())
    tensor = to_dlpack(b"abc")
    assert to_arrow(ours) is ours
    for use in (
        lambda: to_dlpack(ours),
        lambda: from_dlpack(ours),
        lambda: ours.__dlpack_device__(),
        lambda: to_arrow(tensor),
        lambda: from_arrow(tensor),
    ):
        with pytest.raises(ZeroCopyError, match="of kind"):
            use()


def test_closing() -> None:
    ref = to_arrow(table())
    whole = from_arrow(ref)
    ref.close()
    ref.close()
    for use in (lambda: from_arrow(ref), lambda: to_arrow(ref), ref.__arrow_c_stream__):
        with pytest.raises(ZeroCopyError, match="closed"):
            use()
    assert whole.equals(table())


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    ref = to_arrow(table())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for use in (lambda: to_arrow(table()), lambda: from_arrow(ref), ref.__arrow_c_schema__):
        with pytest.raises(ZeroCopyUnavailable, match="pip install 'pyarrow"):
            use()
