"""What PyTorch's tensors need before they are handed out, in all of its versions."""

from __future__ import annotations

import sys
from typing import Any, Optional


def is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    kind = getattr(torch, "Tensor", None)
    return isinstance(kind, type) and isinstance(value, kind)


def nbytes_of(tensor: Any) -> Optional[int]:
    """Before 2.1 tensors do not say so. None: of this kind nobody knows."""
    try:
        return int(tensor.numel()) * int(tensor.element_size())
    except Exception:
        return None


def plain(tensor: Any) -> Any:
    """The same numbers as memory holds them, which need not be the tensor's own.

    Nobody outside knows of gradients, which DLPack refuses. Of a negation or conjugation
    that is still to be done it refuses the latter and does not see the former: the numbers
    would be wrong.
    """
    if tensor.requires_grad:
        tensor = tensor.detach()
    for name in ("resolve_conj", "resolve_neg"):  # there since 1.10
        resolve = getattr(tensor, name, None)
        if resolve is not None:
            tensor = resolve()
    return tensor


def as_bytes(tensor: Any) -> Optional[Any]:
    """A tensor of booleans as one of uint8, for versions whose DLPack has none. None: of
    other types."""
    torch = sys.modules["torch"]
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else None
