"""Tensors in the memory of a GPU, passed between processes by CUDA's IPC handles.

No machine with a GPU has confirmed this: it is tested with a driver that is made up.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from typing import Any, NamedTuple, Optional, Protocol

from . import dtypes, memory
from .dtypes import Dtype
from .errors import ZeroCopyError, ZeroCopyUnavailable
from .ref import ZeroCopyRef, new_ref

_DEVICE = 2  # DLPack's number of CUDA
_HANDLE_BYTES = 64
# Exports that are held at the same time: each keeps memory of a GPU from being freed.
MAX_EXPORTS = 1024


class Allocation(NamedTuple):
    """Where in which allocation an address lies, and the handle of that for other processes."""

    handle: bytes
    offset: int
    device: int


class Driver(Protocol):
    """What is needed of CUDA. Raises ZeroCopyUnavailable and ZeroCopyError."""

    def export(self, address: int, nbytes: int) -> Allocation:
        """Waits for what is being computed there, and names the allocation."""

    def open(self, handle: bytes, device: int) -> int:
        """Maps an allocation of another process; its address here."""

    def close(self, address: int, device: int) -> None:
        """Ends what ``open`` began."""


class _IpcHandle(ctypes.Structure):
    _fields_ = [("reserved", ctypes.c_ubyte * _HANDLE_BYTES)]


class LibCuda:
    """The driver's own library."""

    _ORDINAL = 9  # CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    _LAZY_PEER = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS

    def __init__(self) -> None:
        try:
            self._lib: Any = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise ZeroCopyUnavailable(f"CUDA's driver is not here: {error}") from None
        self._check("cuInit", ctypes.c_uint(0))
        self._contexts: dict[int, ctypes.c_void_p] = {}

    def _check(self, name: str, *arguments: Any) -> None:
        code = getattr(self._lib, name)(*arguments)
        if code == 0:
            return
        text = ctypes.c_char_p()
        self._lib.cuGetErrorName(code, ctypes.byref(text))
        why = (text.value or str(code).encode()).decode()
        kind = ZeroCopyUnavailable if name in ("cuInit", "cuDeviceGet") else ZeroCopyError
        raise kind(f"{name}: {why}")

    def _enter(self, device: int) -> None:
        """Makes the context current that CUDA's runtime, and so every library, uses."""
        if device not in self._contexts:
            number, context = ctypes.c_int(), ctypes.c_void_p()
            self._check("cuDeviceGet", ctypes.byref(number), ctypes.c_int(device))
            self._check("cuDevicePrimaryCtxRetain", ctypes.byref(context), number)
            self._contexts[device] = context
        self._check("cuCtxPushCurrent_v2", self._contexts[device])

    def _leave(self) -> None:
        self._check("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def export(self, address: int, nbytes: int) -> Allocation:
        device, base, size = ctypes.c_int(), ctypes.c_uint64(), ctypes.c_size_t()
        where = ctypes.c_uint64(address)
        self._check(
            "cuPointerGetAttribute", ctypes.byref(device), ctypes.c_int(self._ORDINAL), where
        )
        self._enter(device.value)
        try:
            self._check("cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(size), where)
            if address - base.value + nbytes > size.value:
                raise ZeroCopyError("the tensor goes beyond its allocation")
            handle = _IpcHandle()
            self._check("cuCtxSynchronize")
            self._check("cuIpcGetMemHandle", ctypes.byref(handle), base)
        finally:
            self._leave()
        return Allocation(bytes(handle), address - base.value, device.value)

    def open(self, handle: bytes, device: int) -> int:
        address = ctypes.c_uint64()
        self._enter(device)
        try:
            self._check(
                "cuIpcOpenMemHandle_v2",
                ctypes.byref(address),
                _IpcHandle.from_buffer_copy(handle),
                ctypes.c_uint(self._LAZY_PEER),
            )
        finally:
            self._leave()
        return address.value

    def close(self, address: int, device: int) -> None:
        self._enter(device)
        try:
            self._check("cuIpcCloseMemHandle", ctypes.c_uint64(address))
        finally:
            self._leave()


_driver: Optional[Driver] = None
# Guards the three below. Reentrant: a mapping may be collected while it is held.
_lock = threading.RLock()
# What others were told of, by token: (address, what keeps the memory).
_exports: dict[str, tuple[int, Any]] = {}
# What is open, by handle and device: a driver opens an allocation once per process.
_mappings: weakref.WeakValueDictionary[tuple[bytes, int], _Mapping] = (
    weakref.WeakValueDictionary()
)


def use_driver(driver: Optional[Driver]) -> None:
    """Another driver than libcuda. None: that of libcuda, found when it is needed."""
    global _driver
    _driver = driver


def _found() -> Driver:
    global _driver
    if _driver is None:
        _driver = LibCuda()
    return _driver


class _Mapping:
    """An allocation of another process, open for as long as anything refers to this."""

    def __init__(self, driver: Driver, handle: bytes, device: int) -> None:
        self.address = driver.open(handle, device)
        weakref.finalize(self, driver.close, self.address, device).atexit = False


class DeviceTensor:
    """A tensor in a GPU's memory: for ``torch.from_dlpack(t)``, ``cupy.from_dlpack(t)``, or
    whatever knows ``__cuda_array_interface__``."""

    def __init__(
        self, address: int, device: int, dtype: Dtype, shape: tuple[int, ...], owner: Any
    ) -> None:
        self.address = address
        self.device = device
        self.shape = shape
        self._dtype = dtype
        self._owner = owner

    @property
    def dtype(self) -> str:
        return self._dtype.name

    @property
    def nbytes(self) -> int:
        return dtypes.nbytes_of(self.shape, self._dtype)

    def close(self) -> None:
        """Lets go of the memory, unless something made of this still uses it."""
        self._owner = None

    def _open_owner(self) -> Any:
        if self._owner is None:
            raise ZeroCopyError("the tensor was closed")
        return self._owner

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        owner = self._open_owner()
        kinds = {0: "<i", 1: "<u", 2: "<f", 5: "<c", 6: "|b"}
        if self._dtype.code not in kinds:
            raise AttributeError(f"__cuda_array_interface__ has no {self.dtype}")
        return {
            "shape": self.shape,
            "typestr": f"{kinds[self._dtype.code]}{self._dtype.size}",
            "data": (self.address if self.nbytes else 0, False),
            "version": 3,
            "owner": owner,  # who copies the map keeps the memory
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DEVICE, self.device

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: Optional[tuple[int, int]] = None,
        dl_device: Optional[tuple[int, int]] = None,
        copy: Optional[bool] = None,
    ) -> Any:
        # The exporter has waited for its work: every stream may read.
        owner = self._open_owner()
        here = self.__dlpack_device__()
        if copy or (dl_device is not None and tuple(dl_device) != here):
            raise BufferError(f"the tensor stays where it is, on device {here}")
        native = memory.extension()
        if native is None:
            raise ZeroCopyUnavailable(
                "a tensor of a GPU needs Snakepit's extension in the worker"
            )
        versioned = max_version is not None and max_version[0] >= 1
        memory_of = (self.address, self.nbytes, owner)
        kind = (self._dtype.code, self._dtype.bits, 1)
        return native.dlpack_export(memory_of, *kind, self.shape, None, 0, False, versioned, here)


# ---- from here ----------------------------------------------------------------------


def export_dlpack(tensor: Any) -> ZeroCopyRef:
    """A handle of a tensor with ``__dlpack__`` on a GPU."""
    from . import tensors

    native = memory.extension()
    if native is None:
        if hasattr(type(tensor), "__cuda_array_interface__"):
            return export_interface(tensor)
        raise ZeroCopyUnavailable("a tensor of a GPU needs Snakepit's extension in the worker")
    buffer, code, bits, lanes, shape, strides, _, _, offset = native.dlpack_import(
        tensors.capsule(tensor)
    )
    dtype = dtypes.of_code(code, bits, lanes)
    if offset != 0 or buffer.nbytes != dtypes.nbytes_of(shape, dtype):
        _refuse_order()
    if not tensors.in_c_order(shape, strides):
        _refuse_order()
    return _export(buffer.address, dtype, shape, buffer)


def export_interface(tensor: Any) -> ZeroCopyRef:
    """A handle of what has ``__cuda_array_interface__``."""
    given = tensor.__cuda_array_interface__
    shape = dtypes.shape_of(given["shape"])
    order, letter, size = given["typestr"][0], given["typestr"][1], given["typestr"][2:]
    codes = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
    if letter not in codes or order not in "<|" or not size.isdigit():
        raise ZeroCopyError(f"items of type {given['typestr']!r} cannot be passed on")
    dtype = dtypes.of_code(codes[letter], 8 * int(size))
    strides = given.get("strides")
    if strides is not None:
        from . import tensors

        if any(stride % dtype.size for stride in strides) or not tensors.in_c_order(
            shape, tuple(stride // dtype.size for stride in strides)
        ):
            _refuse_order()
    return _export(int(given["data"][0]), dtype, shape, tensor)


def _refuse_order() -> None:
    raise ZeroCopyError("a GPU's tensor is passed on in C order only: make it contiguous first")


def _export(address: int, dtype: Dtype, shape: tuple[int, ...], owner: Any) -> ZeroCopyRef:
    nbytes = dtypes.nbytes_of(shape, dtype)
    if nbytes == 0:
        raise ZeroCopyError("a GPU's tensor without items has no memory to pass on")
    found = _found().export(address, nbytes)
    ref = new_ref(
        "dlpack",
        None,
        device="cuda",
        dtype=dtype.name,
        shape=list(shape),
        copy=False,
        bytes=nbytes,
        metadata={
            "ipc_handle": found.handle,
            "offset": found.offset,
            "device_id": found.device,
        },
    )
    with _lock:
        if len(_exports) >= MAX_EXPORTS:
            raise ZeroCopyError(
                f"{MAX_EXPORTS} tensors of a GPU are held for others already; "
                "release(ref) those that nobody uses any more"
            )
        _exports[ref.ref] = (address, owner)
    return ref


def release(ref: Any) -> bool:
    """No longer keeps the memory of a GPU's tensor that was handed out from this process, by
    its handle or the handle's ``ref``. False: it is not held here."""
    token = ref.ref if isinstance(ref, ZeroCopyRef) else ref
    with _lock:
        held = _exports.pop(token, None)
    return held is not None  # what it keeps is let go of without the lock


# ---- from others ----------------------------------------------------------------------


def open_ref(ref: ZeroCopyRef) -> DeviceTensor:
    """The tensor of a handle. In the process that handed it out that is its own memory, which
    CUDA does not open a second time."""
    from . import tensors

    ref.to_payload()  # is it open?
    dtype, shape, nbytes = tensors.layout_of(ref)
    metadata = ref.metadata
    device = _number(metadata, "device_id")
    with _lock:
        own = _exports.get(ref.ref) if isinstance(ref.ref, str) else None
    if own is not None:
        return DeviceTensor(own[0], device, dtype, shape, own[1])
    handle = metadata.get("ipc_handle")
    if not isinstance(handle, (bytes, bytearray, memoryview)) or len(handle) != _HANDLE_BYTES:
        raise ZeroCopyError(f"the handle has no IPC handle of {_HANDLE_BYTES} bytes")
    offset = _number(metadata, "offset")
    if offset + nbytes >= 2**63:
        raise ZeroCopyError(f"the handle's offset is {offset}")
    mapping = _mapped(bytes(handle), device)
    return DeviceTensor(mapping.address + offset, device, dtype, shape, mapping)


def _number(metadata: dict[str, Any], key: str) -> int:
    value = metadata.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ZeroCopyError(f"the handle's {key} is {value!r}")
    return value


def _mapped(handle: bytes, device: int) -> _Mapping:
    with _lock:
        mapping = _mappings.get((handle, device))
        if mapping is None:
            mapping = _Mapping(_found(), handle, device)
            _mappings[handle, device] = mapping
        return mapping
