"""Tensors of a GPU, with a driver that is made up: no GPU takes part."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
from local_peer import native_module

from snakepit_bridge import ZeroCopyRef, _native
from snakepit_bridge.zero_copy import (
    ZeroCopyError,
    ZeroCopyUnavailable,
    cuda,
    from_dlpack,
    release,
    to_dlpack,
)
from snakepit_bridge.zero_copy.cuda import Allocation

BASE = 0x7000_0000_0000
OFFSET = 512
MAPPED = 0x5000_0000_0000


class Driver:
    """As CUDA's, with the rule that a process does not open what is its own."""

    def __init__(self) -> None:
        self.opened: list[tuple[bytes, int]] = []
        self.closed: list[tuple[int, int]] = []
        self.own: set[bytes] = set()

    def export(self, address: int, nbytes: int) -> Allocation:
        handle = (address - OFFSET).to_bytes(8, "little") * 8
        self.own.add(handle)
        return Allocation(handle, OFFSET, 1)

    def open(self, handle: bytes, device: int) -> int:
        if handle in self.own:
            raise ZeroCopyError("cuIpcOpenMemHandle_v2: CUDA_ERROR_INVALID_CONTEXT")
        self.opened.append((handle, device))
        return MAPPED

    def close(self, address: int, device: int) -> None:
        self.closed.append((address, device))


class GpuTensor:
    """A tensor of 2 x 3 floats as a library has it on a GPU."""

    def __init__(self, native: Any, **changes: Any) -> None:
        self.native = native
        self.shape = changes.get("shape", (2, 3))
        self.strides = changes.get("strides")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 1

    def __dlpack__(self, max_version: Any = None) -> Any:
        memory = (BASE + OFFSET, 4096, self)
        device = self.__dlpack_device__()
        return self.native.dlpack_export(
            memory, 2, 32, 1, self.shape, self.strides, 0, False, max_version is not None, device
        )


class InterfaceTensor:
    """The same by __cuda_array_interface__."""

    def __init__(self, **changes: Any) -> None:
        self.__cuda_array_interface__ = {
            "shape": (2, 3),
            "typestr": "<f4",
            "data": (BASE + OFFSET, False),
            "version": 3,
            **changes,
        }


class Exporter(InterfaceTensor):
    # On the class, where it is looked for.
    __cuda_array_interface__: Any = None


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return native_module(tmp_path_factory.mktemp("extension"))


@pytest.fixture
def driver() -> Iterator[Driver]:
    given = Driver()
    cuda.use_driver(given)
    yield given
    for token in list(cuda._exports):
        release(token)
    cuda.use_driver(None)


def elsewhere(ref: ZeroCopyRef, driver: Driver) -> ZeroCopyRef:
    """The handle as another process gets it."""
    driver.own.clear()
    return ZeroCopyRef.from_payload({**ref.to_payload(), "ref": "another process's"})


def test_a_handle_says_where_the_tensor_is(native: Any, driver: Driver) -> None:
    ref = to_dlpack(GpuTensor(native))
    assert (ref.kind, ref.device, ref.dtype, ref.shape) == ("dlpack", "cuda", "float32", [2, 3])
    assert (ref.bytes, ref.copy, ref.data) == (24, False, None)
    assert (ref.metadata["offset"], ref.metadata["device_id"]) == (OFFSET, 1)
    assert len(ref.metadata["ipc_handle"]) == 64
    sent = native.decode(native.encode(ref))
    assert sent.metadata == ref.metadata
    assert sent.__dlpack_device__() == (2, 1)


def test_both_ways_in_are_the_same(native: Any, driver: Driver) -> None:
    for tensor in (GpuTensor(native), Exporter(strides=(12, 4)), Exporter(strides=None)):
        ref = to_dlpack(tensor)
        assert (ref.dtype, ref.shape, ref.bytes) == ("float32", [2, 3], 24)
        assert release(ref)


def test_the_memory_is_held_until_it_is_released(native: Any, driver: Driver) -> None:
    tensor = Exporter()
    ref = to_dlpack(tensor)
    assert cuda._exports[ref.ref][1] is tensor
    ref.close()  # says nothing about who else uses it
    assert release(ref)
    assert not release(ref)
    assert not release("unknown")
    assert not cuda._exports


def test_only_so_many_are_held(
    native: Any, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "MAX_EXPORTS", 2)
    first = to_dlpack(Exporter())
    to_dlpack(Exporter())
    with pytest.raises(ZeroCopyError, match="2 tensors of a GPU are held"):
        to_dlpack(Exporter())
    release(first)
    to_dlpack(Exporter())


def test_in_the_same_process_nothing_is_opened(native: Any, driver: Driver) -> None:
    tensor = from_dlpack(to_dlpack(GpuTensor(native)))
    assert tensor.address == BASE + OFFSET
    assert driver.opened == []


def test_another_process_opens_and_closes_once(native: Any, driver: Driver) -> None:
    ref = elsewhere(to_dlpack(GpuTensor(native)), driver)
    one, other = from_dlpack(ref), from_dlpack(ref)
    assert driver.opened == [(ref.metadata["ipc_handle"], 1)]
    assert one.address == MAPPED + OFFSET
    assert (one.shape, one.dtype, one.nbytes, one.device) == ((2, 3), "float32", 24, 1)
    one.close()
    one.close()
    gc.collect()
    assert driver.closed == []  # the other is open
    del other
    gc.collect()
    assert driver.closed == [(MAPPED, 1)]
    with pytest.raises(ZeroCopyError, match="was closed"):
        one.__dlpack__()
    with pytest.raises(ZeroCopyError, match="was closed"):
        _ = one.__cuda_array_interface__
    again = from_dlpack(ref)
    assert len(driver.opened) == 2
    assert again.address == MAPPED + OFFSET


def test_a_consumer_keeps_it_open(native: Any, driver: Driver) -> None:
    ref = elsewhere(to_dlpack(GpuTensor(native)), driver)
    tensor = from_dlpack(ref)
    taken = native.dlpack_import(tensor.__dlpack__(max_version=(1, 0)))
    interface = tensor.__cuda_array_interface__
    assert (taken[0].address, taken[4], taken[7]) == (MAPPED + OFFSET, (2, 3), (2, 1))
    assert (interface["typestr"], interface["data"]) == ("<f4", (MAPPED + OFFSET, False))
    tensor.close()
    ref.close()
    del interface
    gc.collect()
    assert driver.closed == []
    del taken
    gc.collect()
    assert driver.closed == [(MAPPED, 1)]


def test_a_handle_is_a_tensor_itself(native: Any, driver: Driver) -> None:
    ref = elsewhere(to_dlpack(GpuTensor(native)), driver)
    capsule = ref.__dlpack__(max_version=(1, 0))
    gc.collect()
    assert driver.closed == []
    del capsule
    gc.collect()
    assert driver.closed == [(MAPPED, 1)]
    with pytest.raises(ZeroCopyError, match="on 'cuda'"):
        ref.numpy()


def test_it_stays_on_its_device(native: Any, driver: Driver) -> None:
    tensor = from_dlpack(elsewhere(to_dlpack(GpuTensor(native)), driver))
    for options in ({"dl_device": (1, 0)}, {"copy": True}):
        with pytest.raises(BufferError, match="stays where it is"):
            tensor.__dlpack__(**options)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"strides": (1, 2)}, "C order only"),
        ({"strides": (4, 1)}, "C order only"),
        ({"strides": (-3, 1)}, "do not fit"),
        ({"shape": (0, 3)}, "without items"),
    ],
)
def test_tensors_that_cannot_be(
    native: Any, driver: Driver, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        to_dlpack(GpuTensor(native, **changes))
    assert not cuda._exports


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"strides": (4, 8)}, "C order only"),
        ({"strides": (6, 2)}, "C order only"),
        ({"typestr": ">f4"}, "cannot be passed on"),
        ({"typestr": "|V4"}, "cannot be passed on"),
        ({"typestr": "<f3"}, "cannot be passed on"),
        ({"shape": (-1, 3)}, "at least 0"),
    ],
)
def test_interfaces_that_cannot_be(driver: Driver, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ZeroCopyError, match=why):
        to_dlpack(Exporter(**changes))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"ipc_handle": None}, "64 bytes"),
        ({"ipc_handle": bytes(63)}, "64 bytes"),
        ({"ipc_handle": "text"}, "64 bytes"),
        ({"offset": -1}, "offset is -1"),
        ({"offset": 2**63}, "offset is"),
        ({"offset": "1"}, "offset is '1'"),
        ({"device_id": -1}, "device_id is -1"),
        ({"device_id": True}, "device_id is True"),
    ],
)
def test_handles_that_make_no_sense(
    native: Any, driver: Driver, fields: dict[str, Any], why: str
) -> None:
    ref = elsewhere(to_dlpack(Exporter()), driver)
    ref.payload["metadata"] = {**ref.metadata, **fields}
    with pytest.raises(ZeroCopyError, match=why):
        from_dlpack(ref)
    assert driver.opened == []


def test_a_driver_that_refuses(native: Any, driver: Driver) -> None:
    ref = to_dlpack(Exporter())
    forged = ZeroCopyRef.from_payload({**ref.to_payload(), "ref": "forged"})
    with pytest.raises(ZeroCopyError, match="CUDA_ERROR_INVALID_CONTEXT"):
        from_dlpack(forged)
    gc.collect()
    assert driver.closed == []


def test_without_the_extension(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = elsewhere(to_dlpack(Exporter()), driver)
    monkeypatch.setattr(_native, "load", lambda: None)
    tensor = from_dlpack(ref)
    assert tensor.__cuda_array_interface__["shape"] == (2, 3)
    with pytest.raises(ZeroCopyUnavailable, match="extension"):
        tensor.__dlpack__()
    with pytest.raises(ZeroCopyUnavailable, match="extension"):
        to_dlpack(GpuTensor(None))


def test_without_cuda(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_there(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    cuda.use_driver(None)
    monkeypatch.setattr(cuda.ctypes, "CDLL", not_there)
    ref = ZeroCopyRef(
        {
            "kind": "dlpack",
            "device": "cuda",
            "dtype": "float32",
            "shape": [2],
            "metadata": {"ipc_handle": os.urandom(64)},
        }
    )
    for use in (lambda: to_dlpack(Exporter()), lambda: from_dlpack(ref)):
        with pytest.raises(ZeroCopyUnavailable, match="driver is not here"):
            use()


def test_enabled_it_goes_as_before_where_it_cannot_be_passed(
    native: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listed(GpuTensor):
        nbytes = 10**6

        def tolist(self) -> list[int]:
            return [1, 2]

    def not_there(name: str) -> Any:
        raise OSError("no library")

    monkeypatch.setenv("SNAKEPIT_ZERO_COPY", "1")
    cuda.use_driver(None)
    monkeypatch.setattr(cuda.ctypes, "CDLL", not_there)
    assert native.decode(native.encode(Listed(native))) == [1, 2]


# ---- the driver's library -------------------------------------------------------


class Libcuda:
    """Functions of libcuda that note what they are called with; ``fails`` of them return 1."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.calls: list[str] = []
        self.current: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == self.fails:
                return 1
            do = _EFFECTS.get(name)
            if do is not None:
                do(self, *arguments)
            return 0

        return call


def _name(lib: Libcuda, code: int, out: Any) -> None:
    out._obj.value = b"CUDA_ERROR_INVALID_VALUE"


def _set(index: int, value: int) -> Any:
    def do(_: Libcuda, *arguments: Any) -> None:
        arguments[index]._obj.value = value

    return do


def _range(_: Libcuda, base: Any, size: Any, address: Any) -> None:
    base._obj.value, size._obj.value = BASE, OFFSET + 24


def _handle(_: Libcuda, out: Any, base: Any) -> None:
    assert base.value == BASE
    out._obj.reserved[:] = list(range(64))


def _map(lib: Libcuda, out: Any, handle: Any, flags: Any) -> None:
    assert bytes(handle) == bytes(range(64))
    out._obj.value = MAPPED


_EFFECTS = {
    "cuGetErrorName": _name,
    "cuPointerGetAttribute": _set(0, 1),
    "cuDeviceGet": _set(0, 7),
    "cuDevicePrimaryCtxRetain": _set(0, 0xC0),
    "cuCtxPushCurrent_v2": lambda lib, context: lib.current.append(context.value),
    "cuCtxPopCurrent_v2": lambda lib, out: lib.current.pop(),
    "cuMemGetAddressRange_v2": _range,
    "cuIpcGetMemHandle": _handle,
    "cuIpcOpenMemHandle_v2": _map,
}


def library(monkeypatch: pytest.MonkeyPatch, fails: str = "") -> Libcuda:
    lib = Libcuda(fails)
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: lib)
    return lib


def test_what_is_asked_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    lib = library(monkeypatch)
    driver = cuda.LibCuda()
    assert driver.export(BASE + OFFSET, 24) == Allocation(bytes(range(64)), OFFSET, 1)
    assert driver.open(bytes(range(64)), 1) == MAPPED
    driver.close(MAPPED, 1)
    assert lib.current == []
    assert lib.calls.count("cuDevicePrimaryCtxRetain") == 1
    assert lib.calls.index("cuCtxSynchronize") < lib.calls.index("cuIpcGetMemHandle")
    assert lib.calls[-2:] == ["cuIpcCloseMemHandle", "cuCtxPopCurrent_v2"]
    with pytest.raises(ZeroCopyError, match="beyond its allocation"):
        driver.export(BASE + OFFSET, 25)
    assert lib.current == []


@pytest.mark.parametrize(
    ("fails", "error"),
    [
        ("cuInit", ZeroCopyUnavailable),
        ("cuDeviceGet", ZeroCopyUnavailable),
        ("cuPointerGetAttribute", ZeroCopyError),
        ("cuMemGetAddressRange_v2", ZeroCopyError),
        ("cuCtxSynchronize", ZeroCopyError),
        ("cuIpcGetMemHandle", ZeroCopyError),
    ],
)
def test_what_the_library_refuses(
    monkeypatch: pytest.MonkeyPatch, fails: str, error: type[Exception]
) -> None:
    lib = library(monkeypatch, fails)
    with pytest.raises(error, match=f"{fails}: CUDA_ERROR_INVALID_VALUE"):
        cuda.LibCuda().export(BASE + OFFSET, 24)
    assert lib.current == []
