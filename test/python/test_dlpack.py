"""DLPack capsules of the extension: who deletes what, and what is refused."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import weakref
from typing import Any

import numpy
import pytest
from local_peer import native_module

FLOAT32 = (2, 32, 1)
# Of DLManagedTensorVersioned.
_VERSIONED = "dltensor_versioned"
_get_name = ctypes.pythonapi.PyCapsule_GetName
_get_name.restype = ctypes.c_char_p
_get_name.argtypes = [ctypes.py_object]
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype = ctypes.c_void_p
_get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return native_module(tmp_path_factory.mktemp("extension"))


class Given:
    """An exporter of one capsule."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class Memory(bytearray):
    """Memory that can be asked whether somebody uses it."""

    def held(self) -> bool:
        gc.collect()
        try:
            self.append(0)
        except BufferError:
            return True
        self.pop()
        return False


def memory_of(array: Any) -> Memory:
    return Memory(array.tobytes())


def test_numpy_sees_the_memory_and_lets_it_go(native: Any) -> None:
    source = memory_of(numpy.arange(12, dtype="f4"))
    capsule = native.dlpack_export(source, *FLOAT32, (3, 4), None, 0, False, False)
    array = numpy.from_dlpack(Given(capsule))
    assert array.tolist() == numpy.arange(12).reshape(3, 4).tolist()
    source[0:4] = numpy.float32(7).tobytes()
    assert array[0, 0] == 7
    assert _get_name(capsule) == b"used_dltensor"
    del capsule
    assert source.held()  # it is the consumer's now
    del array
    assert not source.held()


def test_a_consumer_of_versions_does_as_well(native: Any) -> None:
    source = Memory(16)
    capsule = native.dlpack_export(source, *FLOAT32, (2, 2), (1, 2), 0, False, True)
    tensor, *_ = native.dlpack_import(capsule)
    memoryview(tensor)[0] = 7
    assert source[0] == 7
    assert _get_name(capsule) == b"used_dltensor_versioned"
    del capsule
    assert source.held()
    del tensor
    assert not source.held()


@pytest.mark.parametrize("versioned", [False, True])
def test_a_capsule_that_nobody_consumes_lets_go_by_itself(native: Any, versioned: bool) -> None:
    source = Memory(16)
    capsule = native.dlpack_export(source, *FLOAT32, (4,), None, 0, False, versioned)
    assert source.held()
    del capsule
    assert not source.held()


@pytest.mark.parametrize("versioned", [False, True])
def test_a_capsule_is_consumed_once(native: Any, versioned: bool) -> None:
    capsule = native.dlpack_export(bytes(16), *FLOAT32, (4,), None, 0, True, versioned)
    assert native.dlpack_import(capsule)[1:4] == FLOAT32
    with pytest.raises(BufferError, match="consumed before"):
        native.dlpack_import(capsule)


def test_the_deleter_runs_on_any_thread(native: Any) -> None:
    source = Memory(16)
    held = [
        native.dlpack_import(native.dlpack_export(source, *FLOAT32, (4,), None, 0, False, True))
    ]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    assert not source.held()


def test_flags_say_read_only_and_copied(native: Any) -> None:
    for readonly, versioned, seen in (
        (True, True, True),
        (False, True, False),
        (False, False, True),
    ):
        capsule = native.dlpack_export(
            bytearray(16), *FLOAT32, (4,), None, 0, readonly, versioned
        )
        tensor, *_, said, _, _ = native.dlpack_import(capsule)
        assert (said, memoryview(tensor).readonly) == (seen, seen)
    with pytest.raises(BufferError):
        native.dlpack_export(bytes(16), *FLOAT32, (4,), None, 0, False, True)
    copied = native.dlpack_export(bytes(4), *FLOAT32, (1,), None, 0, True, True, (1, 0), True)
    flags = ctypes.c_uint64.from_address(_get_pointer(copied, _VERSIONED.encode()) + 24)
    assert flags.value == 3


def test_strides_of_others(native: Any) -> None:
    array = numpy.arange(24, dtype="c16").reshape(2, 3, 4)[:, ::-1, ::2]
    tensor, code, bits, lanes, shape, strides, readonly, device, offset = native.dlpack_import(
        array.__dlpack__()
    )
    assert (code, bits, lanes) == (5, 128, 1)
    assert (shape, strides) == ((2, 3, 2), (12, -4, 2))
    assert (readonly, device, offset) == (True, (1, 0), 8 * 16)
    assert tensor.nbytes == len(memoryview(tensor))
    target = bytearray(array.nbytes)
    taken = native.tensor_pack(tensor, code, bits, lanes, shape, strides, offset, target)
    assert taken == array.nbytes
    assert target == array.tobytes()


def test_no_items_and_no_dimensions(native: Any) -> None:
    empty = native.dlpack_import(numpy.zeros((0, 3)).__dlpack__())
    assert empty[4] == (0, 3)
    assert bytes(empty[0]) == b""
    number = native.dlpack_import(numpy.array(1.5).__dlpack__())
    assert (number[4], number[5]) == ((), ())
    assert bytes(number[0]) == numpy.float64(1.5).tobytes()
    for versioned in (False, True):
        capsule = native.dlpack_export(b"", *FLOAT32, (2**62, 0), None, 0, True, versioned)
        assert native.dlpack_import(capsule)[4] == (2**62, 0)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((2, 32, 1, (5,), None, 0), "do not fit"),
        ((2, 32, 1, (4,), None, 1), "do not fit"),
        ((2, 32, 1, (4,), None, 2**64 - 1), "do not fit"),
        ((2, 32, 1, (4,), (-1,), 0), "do not fit"),
        ((2, 32, 1, (-1,), None, 0), "do not fit"),
        ((2, 32, 1, (4,), (2,), 0), "do not fit"),
        ((2, 32, 1, (2**62, 2**62), None, 0), "address space"),
        ((2, 32, 1, (3,), (2**62,), 0), "address space"),
        ((2, 32, 1, (4,), (1, 1), 0), "2 strides for 1 dimensions"),
        ((2, 32, 1, (1,) * 65, None, 0), "65 dimensions"),
        ((0, 4, 1, (4,), None, 0), "no whole bytes"),
        ((3, 64, 1, (1,), None, 0), "cannot be passed on"),
        ((99, 8, 1, (1,), None, 0), "cannot be passed on"),
        ((2, 32, 0, (1,), None, 0), "cannot be passed on"),
        ((-1, 8, 1, (1,), None, 0), "cannot be passed on"),
        ((2, 320, 1, (1,), None, 0), "cannot be passed on"),
    ],
)
def test_what_cannot_be(native: Any, arguments: tuple[Any, ...], why: str) -> None:
    source = Memory(16)
    with pytest.raises(ValueError, match=why):
        native.dlpack_export(source, *arguments, True, True)
    with pytest.raises(ValueError, match=why):
        native.tensor_pack(source, *arguments, bytearray(64))
    assert not source.held()


@pytest.mark.parametrize("shape", [5, ("a",), (1.5,), (2**70,), None])
def test_shapes_that_are_none(native: Any, shape: Any) -> None:
    with pytest.raises((TypeError, OverflowError)):
        native.dlpack_export(bytes(16), *FLOAT32, shape, None, 0, True, True)


def test_targets_that_do_not_do(native: Any) -> None:
    source = bytearray(16)
    for target in (bytearray(15), source, memoryview(source)[8:]):
        with pytest.raises(ValueError, match="bytes of its own"):
            native.tensor_pack(source, *FLOAT32, (4,), None, 0, target)
    with pytest.raises(BufferError):
        native.tensor_pack(source, *FLOAT32, (4,), None, 0, bytes(16))


def test_versions_of_the_future_are_left_to_their_capsule(native: Any) -> None:
    source = Memory(16)
    capsule = native.dlpack_export(source, *FLOAT32, (4,), None, 0, True, True)
    major = ctypes.c_uint32.from_address(_get_pointer(capsule, _VERSIONED.encode()))
    assert major.value == 1
    major.value = 2
    with pytest.raises(BufferError, match=r"DLPack 2\.1"):
        native.dlpack_import(capsule)
    assert _get_name(capsule) == _VERSIONED.encode()
    del capsule
    assert not source.held()


def test_forged_capsules(native: Any) -> None:
    """Whatever is in a tensor that somebody else made, it is refused and stays theirs."""
    source = Memory(64)
    # data, device, ndim, dtype, shape, strides, byte_offset: after version, context, deleter,
    # and flags.
    at = 32
    for offset, kind, value in [
        (at + 0, ctypes.c_uint64, 0),  # items, but no memory
        (at + 16, ctypes.c_int32, -1),  # ndim
        (at + 16, ctypes.c_int32, 65),
        (at + 20, ctypes.c_uint8, 77),  # type code
        (at + 21, ctypes.c_uint8, 3),  # bits
        (at + 22, ctypes.c_uint16, 0),  # lanes
        (at + 24, ctypes.c_uint64, 0),  # shape
    ]:
        capsule = native.dlpack_export(source, *FLOAT32, (4, 4), None, 0, True, True)
        kind.from_address(_get_pointer(capsule, _VERSIONED.encode()) + offset).value = value
        with pytest.raises(ValueError, match=r"cannot be|do not fit|no memory"):
            native.dlpack_import(capsule)
        del capsule
    assert not source.held()


@pytest.mark.parametrize("value", [None, 5, b"", object()])
def test_what_is_no_capsule(native: Any, value: Any) -> None:
    with pytest.raises(TypeError, match="capsule of DLPack"):
        native.dlpack_import(value)


def test_memory_of_a_device_is_held_and_not_read(native: Any) -> None:
    owner = Memory(1)
    alive = weakref.ref(owner)
    capsule = native.dlpack_export(
        (0x1000, 16, owner), *FLOAT32, (4,), None, 0, False, True, (2, 3)
    )
    for wrong, why in (
        (owner, "address, nbytes, owner"),
        ((0, 15, owner), "do not fit"),
        ((0, owner), "3 arguments"),
    ):
        with pytest.raises((TypeError, ValueError), match=why):
            native.dlpack_export(wrong, *FLOAT32, (4,), None, 0, False, True, (2, 0))
    del owner, wrong
    tensor, *_, device, offset = native.dlpack_import(capsule)
    assert (tensor.address, tensor.nbytes, device, offset) == (0x1000, 16, (2, 3), 0)
    with pytest.raises(BufferError, match="memory of a device"):
        memoryview(tensor)
    del capsule
    gc.collect()
    assert alive() is not None
    del tensor
    gc.collect()
    assert alive() is None


def test_ten_thousand_leave_nothing(native: Any) -> None:
    source = Memory(64)
    array = numpy.arange(16.0)
    users = sys.getrefcount(array)
    for turn in range(10_000):
        capsule = native.dlpack_export(source, *FLOAT32, (4, 4), (4, 1), 0, False, turn % 2)
        if turn % 3:
            native.dlpack_import(capsule)
        native.dlpack_import(array.__dlpack__())
    del capsule
    assert not source.held()
    assert sys.getrefcount(array) == users
