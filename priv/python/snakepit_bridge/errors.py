"""Exceptions of the bridge."""

from __future__ import annotations


class ToolCancelled(BaseException):
    """Raised inside a running tool whose caller has given up.

    Not an ``Exception``, so that ``except Exception`` does not swallow it.
    """


class BridgeError(Exception):
    """What is wrong with the set-up of a worker; the text names the remedy."""


class UnknownToolError(AttributeError):
    """The adapter offers no tool of that name."""


class ToolStreamsError(TypeError):
    """A streaming tool was called for a single result."""


class ToolArgumentError(TypeError):
    """The arguments do not fit the tool's parameters."""


class EncodeError(ValueError):
    """A value that cannot be sent."""


class DecodeError(ValueError):
    """Received bytes that are not a value."""
