"""Runs one call on an adapter: hooks, tool, result."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from functools import partial
from time import monotonic
from types import ModuleType
from typing import TYPE_CHECKING, Any, Callable, Optional

from ..base_adapter import BaseAdapter
from ..dispatch import ToolCache, is_stream, streams_error
from ..errors import ToolCancelled
from ..inputs import Inputs
from ..logging_config import correlation_id, get_logger
from ..session_context import SessionContext
from ..streams import StreamChunk, ToolStream
from . import failure, observe
from .calls import Call, Reply
from .exception_facts import text_of
from .lanes import Lane
from .lifetimes import Held, lifetimes

if TYPE_CHECKING:
    from .local_calls import LocalCalls

_log = get_logger(__name__)

# Neither awaitable nor a stream.
_PLAIN = frozenset((dict, list, tuple, str, bytes, int, float, bool, type(None)))


class AdapterHost:
    """Makes an adapter for every call and runs the tool on a lane."""

    def __init__(
        self,
        adapter: Any,
        connect: Optional[Callable[[], Any]] = None,
        local: Optional[LocalCalls] = None,
    ) -> None:
        self._adapter = adapter
        self._connect = connect
        self._local = local
        reachable = connect is not None or local is not None
        self._registered: set[str] = set()
        self.registers = reachable and _own_method(adapter, "register_with_session")
        self._is_class = isinstance(adapter, type)
        self.tools = ToolCache()
        self.executes = _own_method(adapter, "execute_tool")
        self.has_hooks = not isinstance(adapter, ModuleType)
        self.lifetimes = lifetimes(adapter)

    def run(self, call: Call, lane: Lane) -> Reply:
        """Never raises: whatever the tool does becomes the reply."""
        started = monotonic()
        given = call.metadata.get("correlation_id")
        token = correlation_id.set(given) if given else None
        request = _Request(self, call, lane)
        wanted = call.metadata.get("telemetry")
        try:
            reply = observe.run(request.run, call, wanted) if wanted else request.run()
        finally:
            if token is not None:
                correlation_id.reset(token)
        reply.elapsed_ms = int((monotonic() - started) * 1000)
        return reply

    def close(self, lane: Lane) -> None:
        """Ends the adapters that were kept. On the lane's thread, when no call runs."""
        if self.lifetimes is not None:
            for adapter in self.lifetimes.close():
                self.clean_up(adapter, lane, "the last call")

    def clean_up(self, adapter: Any, lane: Lane, when: str) -> None:
        """The hook of an adapter that ends, whose errors are only logged."""
        try:
            self.hook(getattr(adapter, "cleanup", None), lane)
        except BaseException as error:
            _log.error("cleanup after %s failed: %s", when, text_of(error))

    def hook(self, hook: Any, lane: Lane) -> None:
        if hook is not None and self.has_hooks and callable(hook):
            result = hook()
            if inspect.isawaitable(result):
                lane.run_coroutine(_await(result))

    def instance(self) -> Any:
        return self._adapter() if self._is_class else self._adapter

    def context(self, call: Call, lane: Lane) -> SessionContext:
        return SessionContext(
            None,
            call.session_id,
            call.metadata,
            connect=self._connect,
            deadline=call.deadline,
            is_cancelled=call.is_cancelled,
            local=self._local,
            call=call,
            lane=lane,
        )

    def register(self, adapter: Any, context: SessionContext) -> None:
        """Only for adapters that bring their own registration."""
        if context.session_id in self._registered:
            return
        try:
            adapter.register_with_session(context.session_id, context.stub)
            self._registered.add(context.session_id)
        except Exception as error:
            _log.warning("register_with_session failed: %s", text_of(error))


class _Request:
    """The state of one call while it runs."""

    __slots__ = (
        "adapter",
        "arguments",
        "call",
        "chunks",
        "ended",
        "held",
        "host",
        "lane",
        "may_stream",
    )

    def __init__(self, host: AdapterHost, call: Call, lane: Lane) -> None:
        self.host = host
        self.call = call
        self.lane = lane
        self.adapter: Any = None
        self.arguments: Optional[dict[str, Any]] = None
        self.chunks = 0
        self.ended = False
        self.held: Optional[Held] = None
        # Of an adapter with its own execute_tool nothing is known beforehand.
        self.may_stream = host.executes

    def run(self) -> Reply:
        if self.host.lifetimes is not None:
            self.held = self.host.lifetimes.enter(self.call.session_id)
        # Disarmed last, outside of everything that could be interrupted.
        try:
            try:
                self.lane.arm(self.call)
                reply = self._execute()
            finally:
                self.lane.disarm()
        except BaseException as error:
            self.lane.disarm()
            reply = self._failed(error)
        self._clean_up()
        return reply

    def _execute(self) -> Reply:
        call, host = self.call, self.host
        adapter, begins = self._adapter()
        context = host.context(call, self.lane)
        if call.stream:
            context.stream = ToolStream(self._emit)
        if call.has_inputs:
            context.inputs = Inputs(call, self._wait, self._check)
        set_context = getattr(adapter, "set_session_context", None)
        if callable(set_context):
            set_context(context)
        if host.registers:
            host.register(adapter, context)
        if begins:
            host.hook(getattr(adapter, "initialize", None), self.lane)
            if self.held is not None:
                self.held.keep(adapter)
        self.arguments = call.parameters()
        value = self._start(adapter, context, self.arguments)
        plain = type(value) in _PLAIN  # the most frequent results need no questions
        if not plain:
            value = self._settle(value)
        if call.stream:
            self._stream(value)
            return Reply()
        if not plain and self._is_stream(value):
            self._close_stream(value)
            raise streams_error(call.tool)
        return call.result(value)

    def _adapter(self) -> tuple[Any, bool]:
        """The adapter, and whether it begins with this call."""
        held = self.held
        if held is not None and held.adapter is None:
            self._wait(partial(held.claim, self, self.call.is_cancelled))
        kept = None if held is None else held.adapter
        self.adapter = self.host.instance() if kept is None else kept
        return self.adapter, kept is None

    def _start(self, adapter: Any, context: SessionContext, arguments: dict[str, Any]) -> Any:
        if self.host.executes:
            return adapter.execute_tool(
                tool_name=self.call.tool, arguments=arguments, context=context
            )
        tool, function = self.host.tools.find(adapter, self.call.tool)
        self.may_stream = tool.streaming
        if tool.streaming and not self.call.stream:
            raise streams_error(self.call.tool)
        return tool.call(arguments, context, context.stream, function, context.inputs)

    def _settle(self, value: Any) -> Any:
        return self.lane.run_coroutine(_await(value)) if inspect.isawaitable(value) else value

    # ---- streams ----------------------------------------------------------

    def _is_stream(self, value: Any) -> bool:
        """Data that happens to be an iterator is a stream only of a tool that streams."""
        if self.may_stream:
            return is_stream(value)
        return inspect.isgenerator(value) or inspect.isasyncgen(value)

    def _stream(self, value: Any) -> None:
        if not self._is_stream(value):
            self._send_single(value)
        elif hasattr(type(value), "__anext__"):
            self.lane.run_coroutine(self._drain_async(value))
        else:
            self._drain(value)
        if not self.ended:
            self._emit(StreamChunk(None, is_final=True))

    def _send_single(self, value: Any) -> None:
        # What a tool returns after sending is its last item.
        if value is not None or self.chunks == 0:
            self._emit(StreamChunk(value, is_final=self.chunks > 0))

    def _drain(self, iterator: Any) -> None:
        try:
            while not self.ended:
                try:
                    item = next(iterator)
                except StopIteration as stop:
                    if stop.value is not None:
                        self._emit(StreamChunk(stop.value, is_final=True))
                    return
                self._emit(item)
        finally:
            self._close_stream(iterator)

    async def _drain_async(self, iterator: Any) -> None:
        try:
            async for item in iterator:
                self._emit(item)
                if self.ended:
                    return
        finally:
            if hasattr(iterator, "aclose"):
                await iterator.aclose()

    def _close_stream(self, iterator: Any) -> None:
        if hasattr(iterator, "close"):
            iterator.close()
        elif hasattr(iterator, "aclose"):
            self.lane.run_coroutine(_await(iterator.aclose()))

    def _emit(self, item: Any) -> None:
        if self.ended:
            return
        value, final, metadata = _parts(item)
        self.chunks += 1
        self.ended = final
        if threading.get_ident() != self.lane.thread_id:  # a thread of the tool's own
            self.call.put(value, final, metadata)
            self._check()
            return
        # The wait for the receiver is ours: cancellation ends it by itself.
        self.lane.disarm()
        self.call.put(value, final, metadata)
        self.lane.arm(self.call)

    # ---- inputs -----------------------------------------------------------

    def _wait(self, wait: Callable[[], None]) -> None:
        """For an input. Cancellation ends the wait by itself, as in ``_emit``."""
        if threading.get_ident() != self.lane.thread_id:
            wait()
            self._check()
            return
        self.lane.disarm()
        try:
            wait()
        finally:
            self.lane.arm(self.call)

    def _check(self) -> None:
        if threading.get_ident() == self.lane.thread_id:
            self.call.check()
        elif self.call.cancelled:
            raise ToolCancelled(f"the call of {self.call.tool!r} was cancelled")

    # ---- the end ----------------------------------------------------------

    def _failed(self, error: BaseException) -> Reply:
        if self.call.cancelled:
            return Reply(cancelled=True, error="cancelled")
        report = failure.describe(error, self.call.tool, self.call.session_id, self.arguments)
        limit = failure.MAX_DETAILS if self.call.stream else None
        return Reply(error=failure.to_json(report, limit))

    def _clean_up(self) -> None:
        held, host = self.held, self.host
        if held is not None and host.lifetimes is not None:
            for adapter in host.lifetimes.leave(held, self):
                host.clean_up(adapter, self.lane, "the end of a session")
            if held.adapter is self.adapter:
                return
        if self.adapter is not None:
            host.clean_up(self.adapter, self.lane, self.call.tool)


async def _await(value: Any) -> Any:
    return await value


def _own_method(adapter: Any, name: str) -> bool:
    """Whether the adapter itself defines it, not our base class."""
    kind = adapter if isinstance(adapter, (type, ModuleType)) else type(adapter)
    method = getattr(kind, name, None)
    return callable(method) and method is not getattr(BaseAdapter, name, None)


def _parts(item: Any) -> tuple[Any, bool, Optional[dict[str, str]]]:
    """An item of a stream: its value, whether it is the last, its metadata."""
    if not (hasattr(item, "is_final") and hasattr(item, "data")):
        return item, False, None
    metadata = None
    given = getattr(item, "metadata", None)
    if isinstance(given, Mapping):
        metadata = {str(key): str(value) for key, value in given.items()}
    return item.data, bool(item.is_final), metadata
