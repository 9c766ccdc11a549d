"""Tensors as handles, and handles as tensors. NumPy and the extension are used where they are."""

from __future__ import annotations

import sys
from typing import Any, Optional

from . import dtypes, memory, pytorch
from .dtypes import Dtype
from .errors import ZeroCopyError, ZeroCopyUnavailable
from .ref import ZeroCopyRef, new_ref

CPU = 1
CUDA = 2
# The processor can read these too: pinned and managed memory.
_ON_HOST = (CPU, 3, 11, 13)
_VERSION = (1, 1)


def _numpy() -> Optional[Any]:
    try:
        import numpy
    except ImportError:
        return None
    return numpy


def empty(shape: Any, dtype: Any = "uint8") -> Any:
    """An array to be filled and returned: Elixir gets its very memory, as a handle.

    The array is NumPy's. Without NumPy it is a memoryview, which arrives as a binary, unless
    ``to_dlpack`` makes a handle of it.
    """
    kind = dtypes.of(dtype)
    shape = dtypes.shape_of(shape)
    nbytes = dtypes.nbytes_of(shape, kind)
    numpy = _numpy()
    if numpy is not None:
        return numpy.ndarray(shape, dtypes.to_numpy(numpy, kind), buffer=memory.alloc(nbytes))
    if kind.format is None or nbytes == 0:
        raise ZeroCopyUnavailable(
            f"{kind.name} of shape {shape} needs NumPy in the worker: pip install numpy"
        )
    return _cast(memoryview(memory.alloc(nbytes))[:nbytes], kind, shape)


def _cast(data: Any, dtype: Dtype, shape: tuple[int, ...]) -> Any:
    flat: Any = memoryview(data).cast("B")
    return flat.cast(dtype.format, shape or (1,))


def _ref(data: Any, dtype: Dtype, shape: tuple[int, ...], copied: bool) -> ZeroCopyRef:
    nbytes = dtypes.nbytes_of(shape, dtype)
    return new_ref(
        "dlpack",
        data,
        device="cpu",
        dtype=dtype.name,
        shape=list(shape),
        copy=copied,
        bytes=nbytes,
    )


# ---- from Python ------------------------------------------------------------------


def to_dlpack(tensor: Any) -> ZeroCopyRef:
    """A handle of a NumPy array, a buffer, or anything that has ``__dlpack__``.

    What lies in C order is not copied here; other orders are brought into it.
    """
    if isinstance(tensor, ZeroCopyRef):
        if tensor.kind != "dlpack":
            raise ZeroCopyError(f"the handle is of kind {tensor.kind!r}, not 'dlpack'")
        tensor.to_payload()  # is it open?
        return tensor
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(tensor, (numpy.ndarray, numpy.generic)):
        return _of_array(numpy, tensor)
    if hasattr(type(tensor), "__dlpack__"):
        return _of_capsule(tensor)
    if hasattr(type(tensor), "__cuda_array_interface__"):
        from . import cuda

        return cuda.export_interface(tensor)
    try:
        view = memoryview(tensor)
    except TypeError:
        raise ZeroCopyError(
            f"a {type(tensor).__name__} is no tensor: it has neither __dlpack__ nor a buffer"
        ) from None
    return _of_buffer(view)


def _of_array(numpy: Any, array: Any) -> ZeroCopyRef:
    dtype = dtypes.of_numpy(array.dtype)
    if dtype is None:
        raise ZeroCopyError(
            f"items of NumPy's type {array.dtype} cannot be passed on; view or convert them "
            "first, such as dates by .view('int64')"
        )
    if numpy.ma.isMaskedArray(array):
        raise ZeroCopyError("a masked array has no form here; fill it first (.filled())")
    array = numpy.asarray(array)
    copied = not array.flags.c_contiguous or not array.dtype.isnative
    if copied:
        ordered = empty(array.shape, dtype.name)
        ordered[...] = array
        array = ordered
    # Not all types have a buffer, but as bytes they do.
    data = memoryview(array.reshape(-1).view("u1"))
    return _ref(data, dtype, array.shape, copied)


_FORMATS = {"?": "bool", "c": "uint8", "f": "float32", "d": "float64", "e": "float16"}


def _of_buffer(view: memoryview) -> ZeroCopyRef:
    code = view.format.lstrip("@=")
    name = _FORMATS.get(code)
    if name is None and code in tuple("bhilqn"):
        name = f"int{8 * view.itemsize}"
    elif name is None and code in tuple("BHILQN"):
        name = f"uint{8 * view.itemsize}"
    if name is None:
        raise ZeroCopyError(f"a buffer of format {view.format!r} cannot be passed on")
    copied = not view.c_contiguous
    data = memoryview(view.tobytes()) if copied else view
    if data.nbytes == 0:
        data = memoryview(b"")
    return _ref(data.cast("B"), dtypes.of(name), tuple(view.shape or ()), copied)


def _of_capsule(tensor: Any) -> ZeroCopyRef:
    try:
        if pytorch.is_tensor(tensor):
            tensor = pytorch.plain(tensor)
        device = tuple(int(number) for number in tensor.__dlpack_device__())
    except Exception as error:
        raise _refused(tensor, error) from error
    if device[0] == CUDA:
        from . import cuda

        return cuda.export_dlpack(tensor)
    if device[0] not in _ON_HOST:
        raise ZeroCopyError(
            f"the tensor is on DLPack's device {device}, whose memory cannot be passed on; "
            "copy it to the CPU first"
        )
    native = memory.extension()
    if native is None:
        numpy = _numpy()
        if numpy is None:
            raise ZeroCopyUnavailable(
                "without Snakepit's extension a DLPack tensor needs NumPy: pip install numpy"
            )
        return _of_array(numpy, numpy.from_dlpack(tensor))
    given, as_bool = _capsule_of(tensor)
    buffer, code, bits, lanes, shape, strides, _, _, offset = native.dlpack_import(given)
    dtype = dtypes.of("bool") if as_bool else dtypes.of_code(code, bits, lanes)
    nbytes = dtypes.nbytes_of(shape, dtype)
    dense = offset == 0 and buffer.nbytes == nbytes and in_c_order(shape, strides)
    if dense:
        return _ref(memoryview(buffer), dtype, shape, False)
    target = memory.alloc(nbytes)
    native.tensor_pack(buffer, code, bits, lanes, shape, strides, offset, target)
    return _ref(memoryview(target)[:nbytes], dtype, shape, True)


def _capsule_of(tensor: Any) -> tuple[Any, bool]:
    """A capsule, and whether its bytes are booleans."""
    try:
        return capsule(tensor), False
    except Exception as error:
        other = pytorch.as_bytes(tensor) if pytorch.is_tensor(tensor) else None
        if other is None:
            raise _refused(tensor, error) from error
    return capsule(other), True


def _refused(tensor: Any, error: Exception) -> ZeroCopyError:
    return ZeroCopyError(f"a {type(tensor).__name__} that its library does not hand out: {error}")


def capsule(tensor: Any) -> Any:
    """The newest kind of capsule that the tensor's library makes."""
    try:
        return tensor.__dlpack__(max_version=_VERSION)
    except TypeError:  # of before versions
        return tensor.__dlpack__()


def in_c_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for extent, stride in zip(reversed(shape), reversed(strides)):
        if extent > 1 and stride != expected:
            return False
        expected *= max(extent, 1)
    return True


# ---- to Python --------------------------------------------------------------------


def layout_of(ref: ZeroCopyRef) -> tuple[Dtype, tuple[int, ...], int]:
    """Item type, shape and size of a tensor's handle; ZeroCopyError if they make no sense."""
    if ref.kind != "dlpack":
        raise ZeroCopyError(f"the handle is of kind {ref.kind!r}, not 'dlpack'")
    dtype = dtypes.of_handle(ref.dtype)
    size = ref.bytes
    if ref.shape is None and isinstance(size, int) and size % dtype.size == 0:
        shape: tuple[int, ...] = (size // dtype.size,)
    else:
        shape = dtypes.shape_of(ref.shape)
    nbytes = dtypes.nbytes_of(shape, dtype)
    if size is not None and size != nbytes:
        raise ZeroCopyError(
            f"the handle says {size!r} bytes, but {shape} of {dtype.name} is {nbytes}"
        )
    return dtype, shape, nbytes


def _content(ref: ZeroCopyRef) -> tuple[memoryview, Dtype, tuple[int, ...]]:
    if ref.device not in (None, "cpu"):
        raise ZeroCopyError(
            f"the handle is of memory on {ref.device!r}; from_dlpack(ref) opens it there"
        )
    dtype, shape, nbytes = layout_of(ref)
    if ref.data is None:
        raise ZeroCopyError("the handle carries no data")
    data = memoryview(ref.data)
    if data.nbytes != nbytes:
        raise ZeroCopyError(
            f"the handle has {data.nbytes} bytes, but {shape} of {dtype.name} is {nbytes}"
        )
    return data, dtype, shape


def numpy_of(ref: ZeroCopyRef, writable: bool = False) -> Any:
    numpy = _numpy()
    if numpy is None:
        raise ZeroCopyUnavailable("NumPy is not installed in the worker: pip install numpy")
    data, dtype, shape = _content(ref)
    array = numpy.ndarray(shape, dtypes.to_numpy(numpy, dtype), buffer=data)
    if not writable:
        native = memory.extension() if "torch" in sys.modules else None
        if native is not None:
            native.expose(data)  # torch.from_numpy knows of no memory that is only read
        array.flags.writeable = False
        return array
    result = empty(shape, dtype.name)
    result[...] = array
    return result


def from_dlpack(tensor: Any, writable: bool = False) -> Any:
    """The tensor of a handle: an array of NumPy's, else a memoryview; on a GPU an object
    with ``__dlpack__`` for the library of your choice.

    It is read-only, as others may look at the same memory; ``writable`` makes a copy.
    """
    if not isinstance(tensor, ZeroCopyRef):
        if not hasattr(type(tensor), "__dlpack__"):
            raise ZeroCopyError(f"a {type(tensor).__name__} is no handle and has no __dlpack__")
        tensor = to_dlpack(tensor)
    if tensor.device == "cuda":
        from . import cuda

        return cuda.open_ref(tensor)
    if _numpy() is not None:
        return numpy_of(tensor, writable)
    data, dtype, shape = _content(tensor)
    if dtype.format is None or data.nbytes == 0:
        raise ZeroCopyUnavailable(f"{dtype.name} needs NumPy in the worker: pip install numpy")
    view = _cast(bytearray(data) if writable else data, dtype, shape)
    return view if writable else view.toreadonly()


def device_of(ref: ZeroCopyRef) -> tuple[int, int]:
    if ref.kind != "dlpack":
        raise ZeroCopyError(f"the handle is of kind {ref.kind!r}, not 'dlpack'")
    if ref.device == "cuda":
        return CUDA, int(ref.metadata.get("device_id", 0))
    return CPU, 0


def capsule_of(
    ref: ZeroCopyRef,
    stream: Any,
    max_version: Optional[tuple[int, int]],
    dl_device: Optional[tuple[int, int]],
    copy: Optional[bool],
) -> Any:
    device = device_of(ref)
    if device[0] == CUDA:
        opened = from_dlpack(ref)
        return opened.__dlpack__(
            stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
        )
    if dl_device is not None and tuple(dl_device) != device:
        raise BufferError(
            f"the tensor is on device {device}; it cannot be brought to {dl_device}"
        )
    if stream is not None:
        raise BufferError("memory of the CPU has no streams: stream must be None")
    data, dtype, shape = _content(ref)
    versioned = max_version is not None and max_version[0] >= 1
    if copy is None:
        # A capsule of before versions cannot say that its memory is not to be written.
        copy = data.readonly and not versioned
    if data.readonly and not versioned and not copy:
        raise BufferError("the tensor is read-only, which needs max_version=(1, 0) or a copy")
    native = memory.extension()
    if native is None:
        return _numpy_capsule(ref, versioned, copy)
    if copy:
        fresh = memory.alloc(data.nbytes)
        memoryview(fresh)[: data.nbytes] = data.cast("B") if data.nbytes else data
        data = memoryview(fresh)
    readonly = bool(data.readonly)
    kind = (dtype.code, dtype.bits, 1)
    return native.dlpack_export(data, *kind, shape, None, 0, readonly, versioned, device, copy)


def _numpy_capsule(ref: ZeroCopyRef, versioned: bool, copy: bool) -> Any:
    array = numpy_of(ref, writable=copy)
    if versioned:
        try:
            return array.__dlpack__(max_version=_VERSION)
        except TypeError:  # NumPy 1
            array = array.copy()
    return array.__dlpack__()
