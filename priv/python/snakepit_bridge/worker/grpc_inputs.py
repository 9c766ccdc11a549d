"""The inputs of a call over gRPC."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable, Optional

from .. import _values
from ..errors import BridgeError, DecodeError

if TYPE_CHECKING:
    from .._extension import Extension

# So many may be here or on their way, and after each of these taken as many
# more are asked for.
_WINDOW = 16
_STEP = 8
# That the caller has gone is known a moment after its messages have ended.
_MOMENT_S = 5.0


class GrpcInputs:
    """Reads a message when it is wanted, in the thread that wants it."""

    def __init__(
        self,
        messages: Iterator[Any],
        want: Callable[[int], None],
        native: Optional[Extension] = None,
    ) -> None:
        self._messages = messages
        self._native = native
        self._want = want
        # Guards all below and the reading, which may take long.
        self._lock = threading.Lock()
        self._here: list[Any] = []  # at most one
        self._asked = False
        self._taken = 0
        self._over = False
        self._broken = False
        self._gone = threading.Event()

    def close(self) -> None:
        """Any thread: the call is over or cancelled."""
        self._gone.set()

    def poll_input(self, none: Any) -> Any:
        if not self._lock.acquire(blocking=False):
            return none  # somebody waits: not yet
        try:
            if self._here:
                chunk = self._here.pop()
                self._taken += 1
                self._ask()
            elif self._over:
                raise StopIteration
            else:
                return none
        finally:
            self._lock.release()
        return _value(chunk, self._native)

    def await_input(self) -> None:
        with self._lock:
            if self._here or self._over:
                return
            if not self._broken:
                self._ask()
                self._read()
            if self._broken and not self._gone.wait(_MOMENT_S):
                raise BridgeError("the inputs broke off: the caller did not say that they end")

    def _read(self) -> None:
        try:
            message = next(self._messages, None)
        except Exception:  # gRPC's way to say that the call is over
            message = None
        if message is None:
            self._broken = True
        elif message.chunk.is_final:
            self._over = True
        else:
            self._here.append(message.chunk)

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self._want(_WINDOW)
        elif self._taken >= _STEP:
            self._want(self._taken)
            self._taken = 0


def _value(chunk: Any, native: Optional[Extension]) -> Any:
    if chunk.data_cbor:
        if native is None:
            raise DecodeError("an input is CBOR, which this worker did not offer to take")
        return native.decode(chunk.data_cbor)
    return _values.loads(chunk.data) if chunk.data else None
