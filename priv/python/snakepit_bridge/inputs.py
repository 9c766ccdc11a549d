"""What a tool reads while it runs."""

from __future__ import annotations

from typing import Any, Callable, Protocol

_NONE = object()


class InputSource(Protocol):
    """Where a carrier has the inputs of a call. Both may be called in any thread."""

    def poll_input(self, none: Any) -> Any:
        """The next input, or ``none`` when it has not come.

        StopIteration after the last one. None comes when the call is cancelled.
        """

    def await_input(self) -> None:
        """Returns when ``poll_input`` has something to say, or the call is cancelled."""


class Inputs:
    """The inputs of a call, to be read once, with ``for`` or ``async for``.

    They come as they are read: the caller makes few of them ahead. Reading
    raises ``ToolCancelled`` when nobody waits for the call any more. A tool
    that returns before the end stops the caller from making more.
    """

    __slots__ = ("_check", "_source", "_wait")

    def __init__(
        self,
        source: InputSource,
        wait: Callable[[Callable[[], None]], None],
        check: Callable[[], None],
    ) -> None:
        """``wait`` does that in the call's own thread, ``check`` raises ToolCancelled."""
        self._source = source
        self._wait = wait
        self._check = check

    def __iter__(self) -> Inputs:
        return self

    def __next__(self) -> Any:
        while True:
            value = self._source.poll_input(_NONE)
            if value is not _NONE:
                return value
            self._wait(self._source.await_input)

    def __aiter__(self) -> Inputs:
        return self

    async def __anext__(self) -> Any:
        import asyncio  # large, and most tools do without

        while True:
            try:
                value = self._source.poll_input(_NONE)
            except StopIteration:
                raise StopAsyncIteration from None
            if value is not _NONE:
                return value
            # Only the wait is another thread's: who gives up does not lose an input.
            await asyncio.get_running_loop().run_in_executor(None, self._source.await_input)
            self._check()
