"""What programs of workers imported from here in the first versions."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import Any

from .command_handler import BaseCommandHandler, ProtocolHandler

__all__ = [
    "BaseCommandHandler",
    "ProtocolHandler",
    "setup_broken_pipe_suppression",
    "setup_graceful_shutdown",
]


def setup_graceful_shutdown(protocol_handler: Any = None) -> None:
    """SIGTERM and SIGINT end the program, also before ``run`` takes care of them."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)


def setup_broken_pipe_suppression() -> None:
    """The program ends without a word when nobody reads its output any more."""
    atexit.register(_flush_or_drop)
    before = sys.excepthook

    def quiet(kind: Any, error: Any, trace: Any) -> None:
        if not isinstance(error, BrokenPipeError):
            before(kind, error, trace)

    sys.excepthook = quiet


def _leave(_number: int, _frame: Any) -> None:
    sys.exit(0)


def _flush_or_drop() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (BrokenPipeError, ValueError):
            _drop(stream)


def _drop(stream: Any) -> None:
    # The interpreter flushes once more, and would complain.
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        return
