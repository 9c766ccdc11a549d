"""Arrays as handles and handles as arrays, with and without what is optional."""

from __future__ import annotations

import sys
from array import array
from typing import Any, Callable

import numpy
import pytest
from local_peer import native_module

from snakepit_bridge import ZeroCopyRef, _native, _values
from snakepit_bridge.errors import DecodeError
from snakepit_bridge.zero_copy import (
    ZeroCopyError,
    ZeroCopyUnavailable,
    dtypes,
    empty,
    from_dlpack,
    memory,
    tensors,
    to_dlpack,
)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return native_module(tmp_path_factory.mktemp("extension"))


@pytest.fixture(params=["cbor", "json"])
def sent(request: pytest.FixtureRequest, native: Any) -> Callable[[Any], Any]:
    """What becomes of a value on its way out of a worker and into another."""
    if request.param == "cbor":
        return lambda value: native.decode(native.encode(value))
    return lambda value: _values.loads(_values.dumps(value))


@pytest.fixture
def enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAKEPIT_ZERO_COPY", "1")
    monkeypatch.setenv("SNAKEPIT_ZERO_COPY_THRESHOLD", "64")


@pytest.fixture
def no_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)


@pytest.fixture
def no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "load", lambda: None)
    monkeypatch.setitem(sys.modules, "_snakepit_native", None)


NUMPY_TYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
]
SHAPES: list[tuple[int, ...]] = [(), (1,), (3, 4), (2, 3, 4), (0,), (3, 0, 2)]


def filled(shape: tuple[int, ...], dtype: str) -> Any:
    result = empty(shape, dtype)
    result[...] = (numpy.arange(result.size) % 7).reshape(shape).astype(dtype)
    return result


def same(one: Any, other: Any) -> bool:
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


# ---- results ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", NUMPY_TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_of_empty_go_as_handles(sent: Any, shape: tuple[int, ...], dtype: str) -> None:
    ours = filled(shape, dtype)
    back = sent({"deep": [ours]})["deep"][0]
    assert isinstance(back, ZeroCopyRef)
    assert (back.kind, back.device, back.owner) == ("dlpack", "cpu", "python")
    assert (back.dtype, back.shape, back.bytes) == (dtype, list(shape), ours.nbytes)
    assert back.copy is False
    assert isinstance(back.ref, str)
    assert same(back.numpy(), ours)
    assert same(numpy.from_dlpack(back), ours)


@pytest.mark.parametrize(
    "part",
    [
        lambda a: a.T,
        lambda a: a[::-1],
        lambda a: a[:, ::2],
        lambda a: a[1:3, 1:3],
        lambda a: numpy.asfortranarray(a),
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: numpy.broadcast_to(a[0], (5, 4)),
    ],
)
def test_other_orders_are_brought_into_c_order(sent: Any, part: Any) -> None:
    ours = part(filled((3, 4), "int32"))
    ref = sent(to_dlpack(ours))
    assert ref.copy is True
    assert ref.numpy().tolist() == ours.tolist()
    assert ref.numpy().flags.c_contiguous


def test_a_part_in_order_is_not_copied() -> None:
    whole = filled((4, 4), "float64")
    ref = to_dlpack(whole[1:3])
    assert ref.copy is False
    whole[1, 0] = 99
    assert ref.numpy()[0, 0] == 99


def test_other_arrays_stay_lists(sent: Any) -> None:
    assert sent(numpy.zeros(100_000, "int8")) == [0] * 100_000


def test_enabled_large_arrays_go_as_handles(sent: Any, enabled: None) -> None:
    assert sent(numpy.zeros(63, "int8")) == [0] * 63
    assert sent(numpy.zeros(64, "int8")).shape == [64]
    assert sent(numpy.arange(32.0).reshape(4, 8).T).copy is True


def test_enabled_without_segments_nothing_changes(
    sent: Any, enabled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAKEPIT_ZERO_COPY_THRESHOLD", "0")
    assert sent(numpy.zeros(1000, "int8")) == [0] * 1000


@pytest.mark.parametrize(
    "odd",
    [
        numpy.array(["text"] * 100),
        numpy.array([None] * 100),
        numpy.array(["2020-01-01"] * 100, dtype="datetime64[D]"),
        numpy.zeros(100, dtype=[("a", "i4"), ("b", "f8")]),
        numpy.ma.masked_array(numpy.zeros(100), mask=[True] * 100),
    ],
    ids=["text", "objects", "dates", "records", "masked"],
)
def test_enabled_what_is_no_tensor_goes_as_before(
    sent: Any, monkeypatch: pytest.MonkeyPatch, odd: Any
) -> None:
    before = sent(odd)
    monkeypatch.setenv("SNAKEPIT_ZERO_COPY", "1")
    monkeypatch.setenv("SNAKEPIT_ZERO_COPY_THRESHOLD", "64")
    assert sent(odd) == before
    with pytest.raises(ZeroCopyError, match=r"cannot be passed on|masked"):
        to_dlpack(odd)


class Foreign:
    """A tensor of another library's."""

    def __init__(
        self, array: Any, device: tuple[int, int] = (1, 0), versions: bool = True
    ) -> None:
        self.array = array
        self.nbytes = array.nbytes
        self.device = device
        self.versions = versions
        self.asked: list[dict[str, Any]] = []

    def __dlpack__(self, **options: Any) -> Any:
        if options and not self.versions:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.asked.append(options)
        return self.array.__dlpack__()  # older kinds may be given to who knows newer ones

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def tolist(self) -> Any:
        return self.array.tolist()


@pytest.mark.parametrize("versions", [True, False])
@pytest.mark.parametrize(
    "view", [lambda a: a, lambda a: a.T, lambda a: a[:, ::-2], lambda a: a[:0], lambda a: a[0, 0]]
)
def test_tensors_of_other_libraries(native: Any, view: Any, versions: bool) -> None:
    ours = view(numpy.arange(24, dtype="float16").reshape(4, 6))
    tensor = Foreign(numpy.asarray(ours), versions=versions)
    ref = to_dlpack(tensor)
    assert same(ref.numpy(), numpy.ascontiguousarray(ours).reshape(ours.shape))
    assert tensor.asked == [{"max_version": (1, 1)} if versions else {}]
    assert ref.copy is not ours.flags.c_contiguous


def test_tensors_of_other_libraries_without_the_extension(no_extension: None) -> None:
    ours = numpy.arange(6).reshape(2, 3)

    class NumpyOnly(Foreign):
        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

    assert same(to_dlpack(NumpyOnly(ours)).numpy(), ours)


def test_enabled_tensors_of_other_libraries(sent: Any, enabled: None) -> None:
    assert sent(Foreign(numpy.zeros(8))).shape == [8]
    assert sent(Foreign(numpy.zeros(7))) == [0.0] * 7
    # On a device whose memory nobody can pass on: as before.
    assert sent(Foreign(numpy.zeros(8), device=(8, 0))) == [0.0] * 8
    with pytest.raises(ZeroCopyError, match="copy it to the CPU"):
        to_dlpack(Foreign(numpy.zeros(8), device=(8, 0)))


def test_enabled_what_its_library_refuses_goes_as_before(sent: Any, enabled: None) -> None:
    class Refusing(Foreign):
        def __dlpack__(self, **options: Any) -> Any:
            raise LookupError("needs a gradient")

    assert sent(Refusing(numpy.zeros(8))) == [0.0] * 8


@pytest.mark.parametrize(
    ("buffer", "dtype", "shape"),
    [
        (b"abc", "uint8", [3]),
        (bytearray(b""), "uint8", [0]),
        (array("d", [1.5, 2.5]), "float64", [2]),
        (array("q", [1]), "int64", [1]),
        (memoryview(bytes(24)).cast("I", (2, 3)), "uint32", [2, 3]),
        (memoryview(bytes(range(6)))[::2], "uint8", [3]),
    ],
)
def test_buffers(buffer: Any, dtype: str, shape: list[int]) -> None:
    ref = to_dlpack(buffer)
    assert (ref.dtype, ref.shape) == (dtype, shape)
    assert bytes(ref.data) == memoryview(buffer).tobytes()


@pytest.mark.parametrize("value", [None, 5, "text", [1, 2], {}])
def test_what_is_no_tensor(value: Any) -> None:
    with pytest.raises(ZeroCopyError, match="is no tensor"):
        to_dlpack(value)
    with pytest.raises(ZeroCopyError, match="is no handle"):
        from_dlpack(value)


# ---- arguments ----------------------------------------------------------------


def payload(**fields: Any) -> dict[str, Any]:
    return {"kind": "dlpack", "dtype": "int32", "shape": [2, 2], "data": bytes(16), **fields}


def test_an_array_lies_in_the_memory_of_its_handle() -> None:
    data = bytearray(16)
    ref = ZeroCopyRef(payload(data=data))
    array = from_dlpack(ref)
    data[0] = 7
    assert array[0, 0] == 7
    assert not array.flags.writeable
    copy = from_dlpack(ref, writable=True)
    copy[0, 0] = 1
    assert array[0, 0] == 7


def test_a_tensor_sent_as_one_is_an_array(sent: Any) -> None:
    given = {**payload(metadata={"as": "numpy"}), "__snakepit_zero_copy__": True}
    back = sent({"x": given})["x"]
    assert same(back, numpy.zeros((2, 2), "int32"))
    with pytest.raises(DecodeError, match="not as it says"):
        sent({**given, "shape": [3, 3]})


def test_a_tensor_sent_as_one_without_numpy_is_a_handle(native: Any, no_numpy: None) -> None:
    given = {**payload(metadata={"as": "numpy"}), "__snakepit_zero_copy__": True}
    assert isinstance(native.decode(native.encode(given)), ZeroCopyRef)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"shape": [2, 3]}, "16 bytes, but"),
        ({"shape": [2, -2]}, "at least 0"),
        ({"shape": [-2, -2]}, "at least 0"),
        ({"shape": [2**40, 2**40]}, "beyond the address space"),
        ({"shape": [1] * 65}, "65 dimensions"),
        ({"shape": ["2", 2]}, "no integer"),
        ({"shape": [2.0, 2]}, "no integer"),
        ({"shape": [True, 2]}, "no integer"),
        ({"shape": "22"}, "not a sequence"),
        ({"shape": None}, "not a sequence"),
        ({"dtype": "int64"}, "16 bytes, but"),
        ({"dtype": "int33"}, "unknown item type"),
        ({"dtype": None}, "no item type"),
        ({"dtype": 5}, "no item type"),
        ({"bytes": 15}, "says 15 bytes"),
        ({"bytes": "16"}, "says '16' bytes"),
        ({"data": bytes(15)}, "15 bytes, but"),
        ({"data": None}, "carries no data"),
        ({"kind": "arrow"}, "of kind 'arrow'"),
        ({"kind": None}, "of kind None"),
        ({"device": "mps"}, "on 'mps'"),
    ],
)
def test_handles_that_make_no_sense(fields: dict[str, Any], why: str) -> None:
    ref = ZeroCopyRef(payload(**fields))
    for use in (from_dlpack, ZeroCopyRef.numpy, ZeroCopyRef.__dlpack__):
        with pytest.raises(ZeroCopyError, match=why):
            use(ref)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("s64", "int64"),
        ("u8", "uint8"),
        ("f32", "float32"),
        ("c64", "complex64"),
        ("pred", "bool"),
    ],
)
def test_names_of_nx(name: str, dtype: str) -> None:
    size = numpy.dtype(dtype).itemsize
    ref = ZeroCopyRef(
        {"kind": "dlpack", "dtype": name, "bytes": 2 * size, "data": bytes(2 * size)}
    )
    assert same(ref.numpy(), numpy.zeros(2, dtype))


def test_text_that_is_data() -> None:
    """JSON of others may have made text of bytes that are UTF-8."""
    ref = ZeroCopyRef({"kind": "dlpack", "dtype": "uint8", "shape": [3], "data": "abc"})
    assert ref.numpy().tolist() == [97, 98, 99]


# ---- DLPack of a handle --------------------------------------------------------


def test_capsules_of_a_handle(native: Any) -> None:
    ref = ZeroCopyRef(payload(data=bytes(range(16))))
    assert ref.__dlpack_device__() == (1, 0)
    shared = native.dlpack_import(ref.__dlpack__(max_version=(1, 0)))
    assert (shared[4], shared[5], shared[6]) == ((2, 2), (2, 1), True)
    assert bytes(shared[0]) == ref.data
    # Of before versions: no word for read-only, hence a copy unless that is forbidden.
    old = numpy.from_dlpack(OldConsumer(ref))
    assert old.tobytes() == ref.data
    for forbidden in ({"copy": False}, {"copy": False, "max_version": (0, 5)}):
        with pytest.raises(BufferError, match="read-only"):
            ref.__dlpack__(**forbidden)
    copy = native.dlpack_import(ref.__dlpack__(max_version=(1, 0), copy=True))
    assert copy[6] is False
    memoryview(copy[0])[0] = 200
    assert ref.data[0] == 0


class OldConsumer:
    def __init__(self, ref: ZeroCopyRef) -> None:
        self.ref = ref

    def __dlpack__(self, **_: Any) -> Any:
        return self.ref.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.ref.__dlpack_device__()


def test_capsules_that_cannot_be(native: Any) -> None:
    ref = ZeroCopyRef(payload())
    with pytest.raises(BufferError, match="cannot be brought"):
        ref.__dlpack__(dl_device=(2, 0))
    with pytest.raises(BufferError, match="stream must be None"):
        ref.__dlpack__(stream=1)


def test_capsules_without_the_extension(no_extension: None) -> None:
    ref = ZeroCopyRef(payload(data=bytes(range(16))))
    assert numpy.from_dlpack(ref).tobytes() == ref.data
    assert numpy.from_dlpack(OldConsumer(ref)).tobytes() == ref.data


# ---- closing -------------------------------------------------------------------


def test_closing(sent: Any) -> None:
    ref = sent(filled((2, 2), "int32"))
    array = ref.numpy()
    with ref as same_ref:
        assert same_ref is ref
    assert ref.closed
    ref.close()
    assert (ref.dtype, ref.shape) == ("int32", [2, 2])
    for use in (
        ref.numpy,
        ref.__dlpack__,
        ref.to_payload,
        ref.__enter__,
        lambda: ref.data,
        lambda: to_dlpack(ref),
        lambda: from_dlpack(ref),
    ):
        with pytest.raises(ZeroCopyError, match="closed"):
            use()
    assert array.tolist() == [[0, 1], [2, 3]]  # what was made of it stays


def test_closing_lets_go(native: Any) -> None:
    data = bytearray(16)
    ref = ZeroCopyRef(payload(data=data))
    capsule = ref.__dlpack__(max_version=(1, 0))
    array = ref.numpy()
    ref.close()
    with pytest.raises(BufferError):
        data.append(0)
    del capsule, array
    data.append(0)


def test_a_handle_shows_what_it_is_and_not_its_data() -> None:
    text = repr(ZeroCopyRef(payload(data=bytes(10_000))))
    assert "int32" in text
    assert len(text) < 200


# ---- empty ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    ["float32", numpy.float32, numpy.dtype("f4"), numpy.zeros(1, "f4").dtype, "torch.float32"],
)
def test_ways_to_say_a_type(dtype: Any) -> None:
    assert empty(3, dtype).dtype == numpy.float32


@pytest.mark.parametrize(("dtype", "name"), [(float, "float64"), (int, "int64"), (bool, "bool")])
def test_types_of_python(dtype: Any, name: str) -> None:
    assert empty((1,), dtype).dtype == name


@pytest.mark.parametrize(
    "dtype", ["u8", "f33", "object", "S3", None, object, "", numpy.longdouble]
)
def test_types_that_are_none(dtype: Any) -> None:
    with pytest.raises(ZeroCopyError, match="unknown item type"):
        empty((1,), dtype)


@pytest.mark.parametrize("shape", [(-1,), (2, -1), ("a",), 2.5, None, (2**62, 2), [1] * 65])
def test_shapes_that_are_none(shape: Any) -> None:
    with pytest.raises(ZeroCopyError, match=r"shape|address space|extent"):
        empty(shape)


def test_types_that_numpy_does_not_have(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ZeroCopyUnavailable, match="ml_dtypes"):
        empty((2,), "bfloat16")
    ref = ZeroCopyRef({"kind": "dlpack", "dtype": "bfloat16", "shape": [2], "data": bytes(4)})
    with pytest.raises(ZeroCopyUnavailable, match="ml_dtypes"):
        ref.numpy()
    # Libraries that have it take it as it is.
    assert native.dlpack_import(ref.__dlpack__(max_version=(1, 0)))[1:4] == (4, 16, 1)


def test_without_numpy(native: Any, no_numpy: None) -> None:
    ours = empty((2, 3), "float32")
    assert isinstance(ours, memoryview)
    ours[1, 2] = 1.5
    ref = to_dlpack(ours)
    assert (ref.dtype, ref.shape) == ("float32", [2, 3])
    theirs = from_dlpack(native.decode(native.encode(ref)))
    assert (theirs[1, 2], theirs.readonly) == (1.5, True)
    writable = from_dlpack(ref, writable=True)
    writable[0, 0] = 2.5
    assert ours[0, 0] == 0
    for use in (lambda: empty((2,), "float16"), lambda: empty((0,)), ref.numpy):
        with pytest.raises(ZeroCopyUnavailable, match="pip install numpy"):
            use()


def test_names_and_codes_are_each_others() -> None:
    for name in [*NUMPY_TYPES, "bfloat16", "float8_e5m2"]:
        dtype = dtypes.of(name)
        assert dtypes.of_code(dtype.code, dtype.bits) == dtype
    for code, bits, lanes in ((3, 64, 1), (0, 4, 1), (2, 32, 4), (2, 128, 1)):
        with pytest.raises(ZeroCopyError, match="cannot be passed on"):
            dtypes.of_code(code, bits, lanes)


def test_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, value in (("123", 123), ("0", None), ("-1", None), ("no", 65_536)):
        monkeypatch.setenv("SNAKEPIT_ZERO_COPY_THRESHOLD", text)
        assert memory.threshold() == value
    monkeypatch.delenv("SNAKEPIT_ZERO_COPY_THRESHOLD")
    assert memory.threshold() == 65_536


def test_without_segments_memory_is_plain(
    monkeypatch: pytest.MonkeyPatch, no_extension: None
) -> None:
    plain = memory.alloc(0)
    assert len(plain) == 1
    assert memory.is_own(plain)
    assert not memory.is_own(bytearray(1))
    assert _values.loads(_values.dumps(filled((2,), "int8"))).shape == [2]


class Extension:
    """Gives memory of a type of its own, as long as there is some."""

    Buffer = type("Buffer", (bytearray,), {})
    left = 1

    def alloc(self, nbytes: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise OSError(24, "Too many open files")
        return self.Buffer(nbytes)


def test_large_memory_is_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "_snakepit_native", Extension())
    monkeypatch.setenv("SNAKEPIT_ZERO_COPY_THRESHOLD", "100")
    assert isinstance(memory.alloc(99), memory.Plain)
    segment = memory.alloc(100)
    assert isinstance(segment, Extension.Buffer)
    assert memory.is_own(segment)
    # No descriptor for another: memory as any other.
    assert isinstance(memory.alloc(100), memory.Plain)


def test_without_a_threshold_nothing_is_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "_snakepit_native", Extension())
    monkeypatch.setenv("SNAKEPIT_ZERO_COPY_THRESHOLD", "0")
    assert isinstance(memory.alloc(10**6), memory.Plain)


def test_ten_thousand_leave_nothing(native: Any) -> None:
    ours = filled((4, 4), "float32")
    before = sys.getrefcount(ours)
    for _ in range(10_000):
        ref = native.decode(native.encode({"a": ours}))["a"]
        tensors.capsule_of(to_dlpack(ours), None, (1, 0), None, None)
        ref.close()
    after = sys.getrefcount(ours)
    assert after == before
