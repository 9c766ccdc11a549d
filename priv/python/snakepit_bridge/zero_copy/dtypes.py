"""Names of item types, as NumPy has them, and what DLPack calls them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, Optional

from .errors import ZeroCopyError, ZeroCopyUnavailable


class Dtype(NamedTuple):
    name: str
    code: int
    bits: int
    format: Optional[str]  # of memoryview

    @property
    def size(self) -> int:
        return self.bits // 8


_FLOAT8 = "e3m4 e4m3 e4m3b11fnuz e4m3fn e4m3fnuz e5m2 e5m2fnuz e8m0fnu"

_ALL = (
    [Dtype(f"int{bits}", 0, bits, f) for bits, f in ((8, "b"), (16, "h"), (32, "i"), (64, "q"))]
    + [
        Dtype(f"uint{bits}", 1, bits, f)
        for bits, f in ((8, "B"), (16, "H"), (32, "I"), (64, "Q"))
    ]
    + [
        Dtype("float16", 2, 16, None),
        Dtype("float32", 2, 32, "f"),
        Dtype("float64", 2, 64, "d"),
        Dtype("bfloat16", 4, 16, None),
        Dtype("complex64", 5, 64, None),
        Dtype("complex128", 5, 128, None),
        Dtype("bool", 6, 8, "?"),
    ]
    + [Dtype(f"float8_{kind}", 7 + i, 8, None) for i, kind in enumerate(_FLOAT8.split())]
)
_BY_NAME = {dtype.name: dtype for dtype in _ALL}
_BY_CODE = {(dtype.code, dtype.bits): dtype for dtype in _ALL}

# Python's own types, as NumPy understands them.
_OTHERS = {"bool_": "bool", "int": "int64", "float": "float64", "complex": "complex128"}
# Nx's names of types, which only handles have: to NumPy "u8" is something else.
_KINDS = {"s": "int", "u": "uint", "f": "float", "bf": "bfloat", "c": "complex"}
_NX_NAME = re.compile(r"(s|u|bf|f|c)(\d+)")


def of(dtype: Any) -> Dtype:
    """Of a name, a NumPy, ml_dtypes or PyTorch dtype, or a scalar type."""
    name = dtype
    if not isinstance(name, str):
        name = getattr(dtype, "name", None)
        if not isinstance(name, str):
            name = dtype.__name__ if isinstance(dtype, type) else str(dtype)
    name = name.rpartition(".")[2]  # torch.float32
    known = _BY_NAME.get(_OTHERS.get(name, name))
    if known is None:
        raise ZeroCopyError(f"unknown item type {dtype!r}; known are: {', '.join(_BY_NAME)}")
    return known


def of_handle(name: Any) -> Dtype:
    """Of what a handle says, which may come from Nx."""
    match = _NX_NAME.fullmatch(name) if isinstance(name, str) else None
    if match is not None:
        name = _KINDS[match[1]] + match[2]
    if not isinstance(name, str):
        raise ZeroCopyError(f"the handle has no item type (dtype is {name!r})")
    return of("bool" if name == "pred" else name)


def of_code(code: int, bits: int, lanes: int = 1) -> Dtype:
    """Of DLPack's numbers."""
    known = _BY_CODE.get((code, bits)) if lanes == 1 else None
    if known is None:
        raise ZeroCopyError(
            f"items of DLPack's type code {code} with {bits} bits and {lanes} lane(s) cannot be "
            "passed on"
        )
    return known


def of_numpy(dtype: Any) -> Optional[Dtype]:
    """Of an array's dtype in either byte order; None for types that have no name here."""
    return _BY_NAME.get(dtype.name) if dtype.fields is None and dtype.subdtype is None else None


def to_numpy(numpy: Any, dtype: Dtype) -> Any:
    if dtype.code in (0, 1, 2, 5, 6):
        return numpy.dtype(dtype.name)
    try:
        import ml_dtypes
    except ImportError:
        raise ZeroCopyUnavailable(
            f"NumPy has no {dtype.name}; pip install ml_dtypes, or hand the handle to a "
            "library that has it, such as torch.from_dlpack(handle)"
        ) from None
    return numpy.dtype(getattr(ml_dtypes, dtype.name))


def shape_of(shape: Any) -> tuple[int, ...]:
    """A shape of non-negative integers, at most 64 of them."""
    if isinstance(shape, int) and not isinstance(shape, bool):
        shape = (shape,)
    if isinstance(shape, (str, bytes)) or not isinstance(shape, Iterable):
        raise ZeroCopyError(f"the shape is {shape!r}, not a sequence of integers")
    extents = []
    for extent in shape:
        index = getattr(type(extent), "__index__", None)
        if index is None or isinstance(extent, bool):
            raise ZeroCopyError(f"the shape has {extent!r} in it, which is no integer")
        extents.append(index(extent))
        if extents[-1] < 0:
            raise ZeroCopyError(f"the shape has {extents[-1]} in it; an extent is at least 0")
    if len(extents) > 64:
        raise ZeroCopyError(f"the shape has {len(extents)} dimensions; at most 64 are allowed")
    return tuple(extents)


def nbytes_of(shape: tuple[int, ...], dtype: Dtype) -> int:
    total = dtype.size
    for extent in shape:
        total *= extent
    if total >= 2**63:
        raise ZeroCopyError(f"{shape} of {dtype.name} is beyond the address space")
    return total
