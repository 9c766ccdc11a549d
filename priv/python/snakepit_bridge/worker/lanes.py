"""Threads that run tools, one call at a time, and can be interrupted.

A lane is *armed* while user code of a call runs: only then does ``interrupt``
raise ToolCancelled in it. Code of the worker runs disarmed.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Coroutine
from concurrent import futures
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, Optional

from ..errors import ToolCancelled
from .calls import Call

if TYPE_CHECKING:
    import asyncio

# Ignored by default, so a stray one harms neither us nor a child.
INTERRUPT_SIGNAL = signal.SIGURG

_STUCK_LOOP_S = 0.2
_FIRST_PAUSE_S = 0.01
_LAST_PAUSE_S = 1.0


def show_name() -> None:
    """The system shows it too, in ``top -H`` and to the BEAM, which looks what lanes do."""
    thread = threading.current_thread()
    with suppress(OSError), open(f"/proc/self/task/{thread.native_id}/comm", "w") as file:
        file.write(thread.name[:15])


class Lane:
    """What the lanes of both kinds share. Runs on its own thread only."""

    def __init__(self) -> None:
        self.thread_id = threading.get_ident()
        self.current: Optional[Call] = None
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._task: Optional[asyncio.Task[Any]] = None

    def arm(self, call: Call) -> None:
        """Raises ToolCancelled when the call is cancelled already, and then only here."""
        call.check()
        self.current = call
        call.check()

    def disarm(self) -> None:
        """After it returns nothing is raised in this thread any more."""
        raise NotImplementedError

    def interrupt(self, call: Call) -> None:
        """From any thread: raises ToolCancelled in the lane if it runs ``call``."""
        raise NotImplementedError

    def run_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs it to its end on the lane's own event loop."""
        import asyncio  # large, and most tools do without

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(self._task)
        finally:
            self._task = None

    def wait_for(self, future: futures.Future[Any]) -> Any:
        """The result of something in another thread, which is cancelled with the call."""
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.close()


class MainLane(Lane):
    """The main thread: a signal interrupts it even in a blocking system call."""

    def __init__(self) -> None:
        super().__init__()
        signal.signal(INTERRUPT_SIGNAL, self._on_signal)

    def disarm(self) -> None:
        self.current = None

    def interrupt(self, call: Call) -> None:
        if self.current is call:
            threading.Thread(target=self._insist, args=(call,), daemon=True).start()

    def _insist(self, call: Call) -> None:
        # A signal that comes just before a system call starts does not end it:
        # Python's handler would run after it. So signals are sent until it ran.
        pause = _FIRST_PAUSE_S
        while self.current is call and not call.interrupted:
            signal.pthread_kill(self.thread_id, INTERRUPT_SIGNAL)
            time.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE_S)

    def _on_signal(self, _number: int, _frame: Any) -> None:
        # Runs in the main thread between two bytecodes, so `current` is exact.
        call = self.current
        if call is None or not call.cancelled or call.interrupted:
            return
        loop, task = self._loop, self._task
        if loop is None or task is None or _runs_task(loop):
            call.check()
        else:  # inside the event loop itself, which must not see our exception
            call.interrupted = True
            loop.call_soon_threadsafe(task.cancel)


def _runs_task(loop: asyncio.AbstractEventLoop) -> bool:
    import asyncio

    return asyncio.current_task(loop) is not None


class ThreadLane(Lane):
    """Another thread: interrupted at its next bytecode."""

    def __init__(self) -> None:
        super().__init__()
        # Guards `current` against `interrupt`: what is injected while it is
        # held belongs to the current call. And `_future`.
        self._guard = threading.RLock()
        self._future: Optional[futures.Future[Any]] = None

    def disarm(self) -> None:
        # The exception may be raised at any point in here, but only once.
        while True:
            try:
                self.current = None
                self._guard.acquire()
                _inject(self.thread_id, None)
                while True:
                    self._guard.release()
            except RuntimeError:  # not held any more
                return
            except ToolCancelled:
                continue

    def interrupt(self, call: Call) -> None:
        with self._guard:
            if self.current is not call:
                return
            loop, task, future = self._loop, self._task, self._future
            if future is not None:
                future.cancel()
                return
            if loop is None or task is None:
                call.interrupted = True
                _inject(self.thread_id, ToolCancelled)
                return
        self.interrupt_task(call, loop, task.cancel)

    def wait_for(self, future: futures.Future[Any]) -> Any:
        # A wait for a lock is not ended by an exception from outside.
        with self._guard:
            self._future = future
        try:
            if self.current is not None:
                self.current.check()
            return super().wait_for(future)
        finally:
            with self._guard:
                self._future = None

    def interrupt_task(
        self, call: Call, loop: asyncio.AbstractEventLoop, cancel_task: Callable[[], Any]
    ) -> None:
        """A loop that does not take the request is stuck in the tool's own code."""
        taken = threading.Event()

        def cancel() -> None:
            taken.set()
            cancel_task()

        def inject_if_stuck() -> None:
            with self._guard:
                if taken.is_set() or call.interrupted:
                    return
                if self.current is call:
                    call.interrupted = True
                    _inject(self.thread_id, ToolCancelled)
                    return
            look_later()

        def look_later() -> None:
            timer = threading.Timer(_STUCK_LOOP_S, inject_if_stuck)
            timer.daemon = True
            timer.start()

        loop.call_soon_threadsafe(cancel)
        look_later()


def _inject(thread_id: int, exception: Optional[type[BaseException]]) -> None:
    set_exception: Callable[..., int] = ctypes.pythonapi.PyThreadState_SetAsyncExc
    set_exception(
        ctypes.c_ulong(thread_id), None if exception is None else ctypes.py_object(exception)
    )
