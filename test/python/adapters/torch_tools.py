"""Tools of test_zero_copy_torch.py, for an interpreter that has PyTorch."""

from __future__ import annotations

import ctypes
import warnings
from typing import Any

import torch

from snakepit_bridge import BaseAdapter, ZeroCopyRef, _native, tool, zero_copy

# What the tests do on purpose.
warnings.filterwarnings("ignore", message=".*(not writable|ComplexHalf).*")


def bytes_of(tensor: Any) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    size = plain.numel() * plain.element_size()
    return ctypes.string_at(plain.data_ptr(), size) if size else b""


def numbers(dtype: str, *shape: int) -> Any:
    count = 1
    for extent in shape:
        count *= extent
    return (torch.arange(count) % 5).to(getattr(torch, dtype)).reshape(shape)


COMPLEX = (1 + 2j) * torch.arange(100.0)

VIEWS = {
    "transposed": lambda: numbers("float32", 40, 60).T,
    "steps": lambda: numbers("int16", 100, 60)[::2, 1::3],
    "broadcast": lambda: numbers("float64", 60)[None].expand(40, 60),
    "part": lambda: numbers("int32", 100, 60)[10:90],
    "gradient": lambda: numbers("float32", 40, 60).requires_grad_(),
    "of a gradient": lambda: numbers("float32", 40, 60).requires_grad_() * 2,
    "parameter": lambda: torch.nn.Parameter(numbers("float32", 40, 60)),
    "conjugate": lambda: COMPLEX.conj(),
    "negative": lambda: COMPLEX.conj().imag,
    "inference": lambda: _inference(),
}


def _inference() -> Any:
    with torch.inference_mode():
        return numbers("float32", 40, 60) * 2


REFUSED = {
    "sparse": lambda: numbers("float32", 40, 60).to_sparse(),
    "meta": lambda: torch.zeros(100, device="meta"),
}


def address(ref: ZeroCopyRef) -> int:
    """Of the handle's bytes."""
    data: Any = memoryview(ref.data)
    if not data.readonly:
        return ctypes.addressof(ctypes.c_char.from_buffer(data))
    _pointer = ctypes.c_void_p()
    buffer = ctypes.create_string_buffer(256)  # more than a Py_buffer is
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), buffer, 0)
    found = ctypes.c_void_p.from_buffer(buffer).value
    ctypes.pythonapi.PyBuffer_Release(buffer)
    return found or 0


class TorchTools(BaseAdapter):  # type: ignore[misc]
    @tool("What is here")
    def about(self) -> Any:
        first = (int(part) for part in torch.__version__.split(".")[:2])
        return {"version": list(first), "native": _native.load() is not None}

    @tool("A tensor of a type: the tensor itself, or its handle, and its bytes")
    def typed(self, dtype: str, shape: list[int], handle: bool) -> Any:
        tensor = numbers(dtype, *shape)
        return {
            "value": zero_copy.to_dlpack(tensor) if handle else tensor,
            "bytes": bytes_of(tensor),
        }

    @tool("The types that there are")
    def types(self, names: list[str]) -> list[str]:
        return [name for name in names if hasattr(torch, name)]

    @tool("A tensor that lies otherwise")
    def viewed(self, view: str, handle: bool) -> Any:
        tensor = VIEWS[view]()
        return {
            "value": zero_copy.to_dlpack(tensor) if handle else tensor,
            "bytes": bytes_of(tensor),
        }

    @tool("A tensor that cannot be handed out")
    def refused(self, kind: str) -> str:
        try:
            zero_copy.to_dlpack(REFUSED[kind]())
        except zero_copy.ZeroCopyError as error:
            return str(error)
        return "was not"

    @tool("A tensor in memory that goes as it lies")
    def own(self, size: int) -> Any:
        tensor = torch.from_dlpack(zero_copy.to_dlpack(zero_copy.empty(size, "float32")))
        tensor.copy_(numbers("float32", size))
        return {"value": tensor, "bytes": bytes_of(tensor)}

    @tool("What a tensor of a handle is")
    def take(self, ref: Any) -> Any:
        tensor = torch.from_dlpack(ref)
        return {
            "dtype": str(tensor.dtype),
            "shape": list(tensor.shape),
            "same": tensor.data_ptr() == address(ref),
            "bytes": bytes_of(tensor),
            "shared": _native.load().is_shared(ref.data),
        }

    @tool("Doubles the items in place, in one of the ways in which that is possible")
    def double(self, ref: Any, way: str) -> Any:
        if way == "dlpack":
            tensor = torch.from_dlpack(ref)
        else:
            tensor = torch.from_numpy(ref if way == "array" else ref.numpy())
        tensor *= 2
        return {"value": tensor, "bytes": bytes_of(tensor)}

    @tool("The bytes of a handle")
    def read(self, ref: Any) -> bytes:
        return bytes(ref.data)

    @tool("The kinds of capsules")
    def capsules(self, ref: Any) -> Any:
        def name(capsule: Any) -> str:
            get = ctypes.pythonapi.PyCapsule_GetName
            get.restype, get.argtypes = ctypes.c_char_p, [ctypes.py_object]
            return str(get(capsule).decode())

        old, new = ref.__dlpack__(), ref.__dlpack__(max_version=(1, 1))
        names = [name(old), name(new)]
        of_old = torch.utils.dlpack.from_dlpack(old)
        names.append(name(old))
        of_torch = torch.utils.dlpack.to_dlpack(of_old)
        native = _native.load()
        again = native.dlpack_import(of_torch)
        try:
            native.dlpack_import(of_torch)
            twice = "was taken twice"
        except BufferError as error:
            twice = str(error)
        return {
            "names": names,
            "bytes": bytes_of(of_old),
            "again": [list(again[4]), bytes(again[0])],
            "twice": twice,
        }
