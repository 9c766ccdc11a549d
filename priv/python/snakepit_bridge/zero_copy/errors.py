"""What can be wrong with large data."""

from __future__ import annotations


class ZeroCopyError(ValueError):
    """A handle, or what should become one, that is not as it must be."""


class ZeroCopyUnavailable(RuntimeError):
    """A library or a device that is needed is not there."""
