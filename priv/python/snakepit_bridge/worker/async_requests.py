"""Runs one call as a task of the worker's event loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable
from time import monotonic
from typing import Any, Callable, Optional

from ..dispatch import streams_error
from ..logging_config import correlation_id, get_logger
from ..streams import StreamChunk
from . import observe
from .calls import Call, Reply
from .exception_facts import text_of
from .lanes import Lane
from .requests import AdapterHost, Request, parts

_log = get_logger(__name__)

# Chunks in a row before other calls have their turn.
_FAIR = 8


class AsyncRequest(Request):
    """As its base class, but nothing in it keeps the loop waiting."""

    __slots__ = ("_begun", "_cancelled", "_interruptible", "_value", "task")

    def __init__(self, host: AdapterHost, call: Call, lane: Lane) -> None:
        super().__init__(host, call, lane)
        self.task: Optional[asyncio.Task[None]] = None
        self._begun = False
        self._value: Any = None
        self._interruptible = False
        self._cancelled = False

    def go_on(self, request: Request, value: Any) -> None:
        """``request`` has begun in another lane; its tool returned ``value``."""
        self.adapter = request.adapter
        self.arguments = request.arguments
        self.chunks = request.chunks
        self.ended = request.ended
        self.held = request.held
        self.may_stream = request.may_stream
        self.span = request.span
        if self.held is not None:
            self.held.disown(request)  # which has finished what others wait for
        self._begun = True
        self._value = value
        request.successor = self
        request._let_go()

    def cancel(self) -> None:
        """In the loop. Only what is the tool's is cancelled, and that once."""
        if self._interruptible and not self._cancelled and self.task is not None:
            self._cancelled = True
            self.call.interrupted = True
            self.task.cancel()

    async def run_async(self) -> Reply:
        """Never raises."""
        started = monotonic()
        given = self.call.metadata.get("correlation_id")
        if given:
            correlation_id.set(given)  # of this task alone
        if not self._begun:
            self.span = observe.begin(self.call)
        try:
            if not self._begun and self.host.lifetimes is not None:
                self._enter(self.host.lifetimes)
            self._interruptible = True
            self.call.check()  # who cancels looks at that flag after setting this
            reply = await self._execute_async()
            self._interruptible = False
        except BaseException as error:
            self._interruptible = False
            self.lane.disarm()
            reply = self._failed(error)
        if self._cancelled:
            await _absorb()
        await self._clean_up_async()
        self._value = None
        self._let_go()
        if self.span is not None:
            self.span.end(reply)
        reply.elapsed_ms = int((monotonic() - started) * 1000)
        return reply

    async def _execute_async(self) -> Reply:
        call = self.call
        value = self._value if self._begun else await self._begin()
        if inspect.isawaitable(value):
            value = await self._guarded(value)
        if call.stream:
            await self._stream_async(value)
            return Reply()
        if self._is_stream(value):
            await self._close_async(value)
            raise streams_error(call.tool)
        return call.result(value)

    async def _begin(self) -> Any:
        host, held = self.host, self.held
        if held is not None and held.adapter is None:
            await self._in_thread(held.claim, self, self.call.is_cancelled)
            self.call.check()
        adapter, begins = self._take_adapter()
        context = self._give_context(adapter)
        if host.registers:
            await self._in_thread(host.register, adapter, context)
        if begins:
            await self._hook_async(getattr(adapter, "initialize", None))
            if held is not None:
                held.keep(adapter)
        self.arguments = self._arguments()
        return self._start(adapter, context, self.arguments)

    async def _hook_async(self, hook: Any) -> None:
        if hook is None or not self.host.has_hooks or not callable(hook):
            return
        if inspect.iscoroutinefunction(hook):
            await self._guarded(hook())
            return
        result = await self._in_thread(hook)
        if inspect.isawaitable(result):
            await self._guarded(result)

    def _guarded(self, value: Any) -> _Guarded:
        return _Guarded(value, self.lane, self.call)

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Waits for its end also when it is cancelled: it sees that by itself."""
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        future = loop.run_in_executor(None, lambda: context.run(function, *args))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.gather(future, return_exceptions=True)
            raise

    # ---- streams ----------------------------------------------------------

    async def _stream_async(self, value: Any) -> None:
        if not self._is_stream(value):
            if value is not None or self.chunks == 0:
                await self._emit_async(StreamChunk(value, is_final=self.chunks > 0))
        elif hasattr(type(value), "__anext__"):
            await self._drain_items(value)
        else:
            await self._in_thread(self._drain, value)
        if not self.ended:
            await self._emit_async(StreamChunk(None, is_final=True))

    async def _drain_items(self, iterator: Any) -> None:
        try:
            while not self.ended:
                try:
                    item = await self._guarded(iterator.__anext__())
                except StopAsyncIteration:
                    return
                await self._emit_async(item)
        finally:
            await self._close_async(iterator)

    async def _close_async(self, iterator: Any) -> None:
        if hasattr(iterator, "aclose"):
            await self._guarded(iterator.aclose())
        elif hasattr(iterator, "close"):
            await self._in_thread(iterator.close)

    async def _emit_async(self, item: Any) -> None:
        """While the receiver is behind, another thread waits for it."""
        if self.ended:
            return
        value, final, metadata = parts(item)
        self.chunks += 1
        self.ended = final
        if not self.call.put(value, final, metadata, False):
            await self._in_thread(self.call.put, value, final, metadata)
        elif self.chunks % _FAIR == 0:  # a generator may never wait
            await asyncio.sleep(0)
        self.call.check()

    # ---- the end ----------------------------------------------------------

    async def _clean_up_async(self) -> None:
        held, host = self.held, self.host
        if held is not None and host.lifetimes is not None:
            for adapter in host.lifetimes.leave(held, self):
                await self._end(adapter, "the end of a session")
            if held.adapter is self.adapter:
                return
        if self.adapter is not None:
            await self._end(self.adapter, self.call.tool)

    async def _end(self, adapter: Any, when: str) -> None:
        try:
            await self._hook_async(getattr(adapter, "cleanup", None))
        except BaseException as error:
            _log.error("cleanup after %s failed: %s", when, text_of(error))


class _Guarded:
    """An awaitable whose steps can be interrupted when one of them hangs."""

    __slots__ = ("_call", "_inner", "_lane")

    def __init__(self, awaitable: Awaitable[Any], lane: Lane, call: Call) -> None:
        self._inner = awaitable.__await__()
        self._lane = lane
        self._call = call

    def __await__(self) -> _Guarded:
        return self

    def __iter__(self) -> _Guarded:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        inner = self._inner
        self._lane.current = self._call
        try:
            return next(inner) if value is None else inner.send(value)
        finally:
            self._lane.disarm()

    def throw(self, *error: Any) -> Any:
        throw = getattr(self._inner, "throw", None)
        if throw is None:  # a plain iterator knows no exceptions from outside
            raise error[0]
        self._lane.current = self._call
        try:
            return throw(*error)
        finally:
            self._lane.disarm()

    def close(self) -> None:
        close = getattr(self._inner, "close", None)
        if close is not None:
            close()


async def _absorb() -> None:
    """A cancellation that has not been delivered yet would hit the next await."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        return
