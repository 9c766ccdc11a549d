"""Exceptions of the bridge."""

from __future__ import annotations

from typing import Optional


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


class ElixirToolError(RuntimeError):
    """An Elixir tool failed, or could not be reached.

    ``type`` is the name of the Elixir exception, ``kind`` what happened:
    ``error``, ``throw``, ``exit``, ``returned`` (an error tuple), ``result`` (one
    that cannot be sent), ``refused`` or ``transport``. ``stacktrace`` are lines.
    When a Python tool failed beneath the Elixir one, ``python_type`` and
    ``python_traceback`` are its own.
    """

    def __init__(
        self,
        message: str,
        tool: str = "",
        type: str = "",
        kind: str = "",
        stacktrace: Optional[list[str]] = None,
        python_type: str = "",
        python_traceback: str = "",
    ) -> None:
        super().__init__(message)
        self.tool = tool
        self.type = type
        self.kind = kind
        self.stacktrace = stacktrace or []
        self.python_type = python_type
        self.python_traceback = python_traceback


class UnknownElixirToolError(ValueError):
    """Elixir exposes no tool of that name to the session."""


class RemoteTraceback(Exception):
    """The cause of an error from the other side: its stack trace, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"
