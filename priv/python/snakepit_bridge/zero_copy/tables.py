"""Tables as handles: an Arrow IPC stream whose buffers are used where they lie."""

from __future__ import annotations

from typing import Any, Optional

from . import memory
from .errors import ZeroCopyError, ZeroCopyUnavailable
from .ref import ZeroCopyRef, new_ref

# The one column of an array that is no table, and how a handle says that it is one.
_COLUMN = "values"
_FORM = "arrow"


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise ZeroCopyUnavailable(
            "pyarrow is not installed in the worker: pip install 'pyarrow>=14'"
        ) from None
    return pyarrow


def to_arrow(table: Any) -> ZeroCopyRef:
    """A handle of a table, batch or array of pyarrow's, of a Polars or pandas frame, of anything
    that has Arrow's capsules, or of bytes that are an Arrow IPC stream."""
    if isinstance(table, ZeroCopyRef):
        if table.kind != "arrow":
            raise ZeroCopyError(f"the handle is of kind {table.kind!r}, not 'arrow'")
        table.to_payload()  # is it open?
        return table
    pa = _pyarrow()
    if isinstance(table, (bytes, bytearray, memoryview)):
        view = memoryview(table)
        whole = _read(pa, view)
        return _ref(view, whole, None, copied=False)
    whole, form = _table(pa, table)
    return _ref(_written(pa, whole), whole, form, copied=True)


def _ref(data: Any, table: Any, form: Optional[str], copied: bool) -> ZeroCopyRef:
    fields: dict[str, Any] = {"metadata": {_FORM: form}} if form is not None else {}
    return new_ref(
        "arrow",
        data,
        device="cpu",
        shape=[table.num_rows, table.num_columns],
        copy=copied,
        bytes=memoryview(data).nbytes,
        **fields,
    )


def _table(pa: Any, value: Any) -> tuple[Any, Optional[str]]:
    """A table, and "array" for what is only one of its columns."""
    if isinstance(value, pa.Table):
        return value, None
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value]), None
    if isinstance(value, pa.RecordBatchReader):
        return value.read_all(), None
    if not isinstance(value, (pa.Array, pa.ChunkedArray)):
        value = _imported(pa, value)
        if isinstance(value, pa.Table):
            return value, None
    return pa.table({_COLUMN: value}), "array"


def _imported(pa: Any, value: Any) -> Any:
    kind = type(value)
    try:
        if hasattr(kind, "__arrow_c_stream__"):
            try:
                return pa.table(value)
            except (pa.lib.ArrowInvalid, TypeError):  # of a column, not of a table
                return pa.chunked_array(value)
        if hasattr(kind, "__arrow_c_array__"):
            array = pa.array(value)
            if not pa.types.is_struct(array.type):
                return array
            return pa.Table.from_struct_array(array)
    except pa.lib.ArrowException as error:
        raise ZeroCopyError(f"a {kind.__name__} cannot be read as Arrow: {error}") from error
    raise ZeroCopyError(
        f"a {kind.__name__} is no table: it has neither __arrow_c_stream__ nor __arrow_c_array__"
    )


def _written(pa: Any, table: Any) -> Any:
    """The table as an IPC stream, written where it will be read."""
    count = pa.MockOutputStream()
    try:
        _write(pa, count, table)
        size = count.size()
        target = memory.alloc(size)
        sink = pa.FixedSizeBufferWriter(pa.py_buffer(target))
        _write(pa, sink, table)
        sink.close()
    except pa.lib.ArrowException as error:
        raise ZeroCopyError(f"the table has no form in Arrow IPC: {error}") from error
    return memoryview(target)[:size]


def _write(pa: Any, sink: Any, table: Any) -> None:
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


# ---- to Python --------------------------------------------------------------------


def _bytes_of(ref: ZeroCopyRef) -> memoryview:
    if ref.kind != "arrow":
        raise ZeroCopyError(f"the handle is of kind {ref.kind!r}, not 'arrow'")
    if ref.data is None:
        raise ZeroCopyError("the handle carries no data")
    data = memoryview(ref.data)
    if ref.bytes is not None and ref.bytes != data.nbytes:
        raise ZeroCopyError(f"the handle says {ref.bytes!r} bytes, but has {data.nbytes}")
    return data


def _open(pa: Any, data: memoryview) -> Any:
    try:
        return pa.ipc.open_stream(pa.py_buffer(data))
    except (pa.lib.ArrowException, OSError) as error:
        raise ZeroCopyError(f"this is no Arrow IPC stream: {error}") from error


def _read(pa: Any, data: memoryview) -> Any:
    reader = _open(pa, data)
    try:
        table = reader.read_all()
        # Offsets beyond a buffer would be read otherwise.
        table.validate()
    except (pa.lib.ArrowException, OSError) as error:
        raise ZeroCopyError(f"the Arrow IPC stream is broken: {error}") from error
    return table


def stream_of(ref: ZeroCopyRef) -> Any:
    """A reader of the record batches, whose columns lie in the handle's memory."""
    return _open(_pyarrow(), _bytes_of(ref))


def from_arrow(ref: Any) -> Any:
    """The table of a handle, whose columns lie in its memory; the array of an array's."""
    pa = _pyarrow()
    if not isinstance(ref, ZeroCopyRef):
        raise ZeroCopyError(f"a {type(ref).__name__} is no handle")
    table = _read(pa, _bytes_of(ref))
    if ref.metadata.get(_FORM) == "array" and table.num_columns == 1:
        return table.column(0)
    return table
