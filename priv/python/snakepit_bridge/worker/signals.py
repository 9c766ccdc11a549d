"""Signals that end a worker, and what forked children make of them.

The C handler writes the signal's number to a pipe that a thread reads: so a
worker stops even while a tool keeps the main thread inside C code.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Callable

from .lanes import INTERRUPT_SIGNAL

STOP_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT))

_mask = threading.local()


def watch(on_stop: Callable[[], None]) -> None:
    """In the main thread: ``on_stop`` is called once, in a thread of its own."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    route(writer)
    thread = threading.Thread(target=_wait, args=(reader, on_stop), name="signals", daemon=True)
    thread.start()


def route(writer: int) -> None:
    """In the main thread: the numbers of all signals are written to ``writer``."""
    # Before the handlers, which do nothing: until then a signal ends the process.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_forget)
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)


def _wait(reader: int, on_stop: Callable[[], None]) -> None:
    while not STOP_SIGNALS.intersection(os.read(reader, 256)):
        pass
    on_stop()


# A child inherits handlers and pipe. Until it has its own, a signal meant for
# it would end the worker.


def _hold() -> None:
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _forget() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, INTERRUPT_SIGNAL):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _release()
