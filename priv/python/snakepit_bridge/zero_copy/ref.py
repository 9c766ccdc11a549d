"""Handles: how a tensor or a table crosses the border."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from .errors import ZeroCopyError

ZERO_COPY_KEY = "__snakepit_zero_copy__"


@dataclass(repr=False)
class ZeroCopyRef:
    """The map of a handle; ``payload`` is kept as it came. The bytes are in ``data``.

    A tensor is also taken by whatever takes DLPack (``numpy.from_dlpack(ref)``), a table
    by whatever takes Arrow's capsules (``polars.DataFrame(ref)``).
    """

    payload: dict[str, Any] = field(default_factory=dict)
    _closed: bool = field(default=False, init=False, compare=False)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> ZeroCopyRef:
        return cls(dict(payload))

    def to_payload(self) -> dict[str, Any]:
        self._check_open()
        known = {k: v for k, v in self.payload.items() if v is not None}
        return {**known, ZERO_COPY_KEY: True}

    def __repr__(self) -> str:
        shown = {k: v for k, v in self.payload.items() if k not in ("data", ZERO_COPY_KEY)}
        return f"ZeroCopyRef({shown}{', closed' if self._closed else ''})"

    @property
    def kind(self) -> Optional[str]:
        return self.payload.get("kind")

    @property
    def device(self) -> Optional[str]:
        return self.payload.get("device")

    @property
    def dtype(self) -> Optional[str]:
        return self.payload.get("dtype")

    @property
    def shape(self) -> Any:
        return self.payload.get("shape")

    @property
    def owner(self) -> Optional[str]:
        return self.payload.get("owner")

    @property
    def ref(self) -> Any:
        return self.payload.get("ref")

    @property
    def copy(self) -> bool:
        return bool(self.payload.get("copy", False))

    @property
    def bytes(self) -> Optional[int]:
        return self.payload.get("bytes")

    @property
    def metadata(self) -> dict[str, Any]:
        value = self.payload.get("metadata")
        return dict(value) if isinstance(value, Mapping) else {}

    @property
    def data(self) -> Any:
        """The bytes, as they lie in memory; None where the handle has none (a GPU's)."""
        self._check_open()
        value = self.payload.get("data")
        return value.encode() if isinstance(value, str) else value

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Lets the memory go, unless something made of the handle still uses it.

        The fields stay; using the data is an error from here on, closing again is not.
        """
        self.payload.pop("data", None)
        self._closed = True

    def __enter__(self) -> ZeroCopyRef:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self.closed:
            raise ZeroCopyError("the handle was closed")

    # ---- tensors ----------------------------------------------------------------------

    def numpy(self, writable: bool = False) -> Any:
        """A NumPy array of the memory itself, read-only as that is; ``writable``: of a copy."""
        from . import tensors

        return tensors.numpy_of(self, writable)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: Optional[tuple[int, int]] = None,
        dl_device: Optional[tuple[int, int]] = None,
        copy: Optional[bool] = None,
    ) -> Any:
        from . import tensors

        return tensors.capsule_of(self, stream, max_version, dl_device, copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        from . import tensors

        return tensors.device_of(self)

    # ---- tables -----------------------------------------------------------------------

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        from . import tables

        return tables.stream_of(self).__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> Any:
        from . import tables

        return tables.stream_of(self).schema.__arrow_c_schema__()


def new_ref(kind: str, data: Any, **fields: Any) -> ZeroCopyRef:
    """A handle of this process."""
    payload = {"kind": kind, "owner": "python", "ref": os.urandom(16).hex(), **fields}
    if data is not None:
        payload["data"] = data
    return ZeroCopyRef(payload)
