"""Runs one call on an adapter: hooks, tool, result."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
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
from .lifetimes import Held, Lifetimes, lifetimes

if TYPE_CHECKING:
    from ..remote import Remote
    from ..thread_safety_checker import ThreadSafetyChecker
    from .event_loop import WorkerLoop
    from .local_calls import LocalCalls

_log = get_logger(__name__)

# Of commands that no adapter sees, and what allows them: see ..remote.
_REMOTE_PREFIX = "snakepit.python."
_REMOTE_VARIABLE = "SNAKEPIT_PYTHON_KEY"
# Metadata of a call whose arguments name objects of that process.
_REFS = "python_refs"

# What the BEAM says of sessions that have ended: {"sessions": [id, ...]}.
END_SESSIONS = "snakepit.sessions.end"

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
        # Whether it is to be told of sessions that end.
        self.keeps_sessions = self.registers or (
            self.lifetimes is not None and self.lifetimes.by_session
        )
        self._known_async: dict[str, bool] = {}
        # See watch_threads.
        self.checker: Optional[ThreadSafetyChecker] = None
        self.remote: Optional[Remote] = _remote()

    def run(self, call: Call, lane: Lane, loop: Optional[WorkerLoop] = None) -> Optional[Reply]:
        """Never raises: whatever the tool does becomes the reply.

        None when ``loop`` goes on with it: coroutines are the loop's, if there is one.
        """
        # A local call's time is measured where it is sent.
        started = None if self._local is not None else monotonic()
        metadata = call.metadata
        given = metadata.get("correlation_id")
        token = correlation_id.set(given) if given else None
        request = Request(self, call, lane, loop)
        if "telemetry" in metadata:
            request.span = observe.begin(call)
        try:
            reply = request.run()
            if reply is not None and request.span is not None:
                request.span.end(reply)
        finally:
            if token is not None:
                correlation_id.reset(token)
        if reply is not None and started is not None:
            reply.elapsed_ms = int((monotonic() - started) * 1000)
        return reply

    def close(self, lane: Lane, loop: Optional[WorkerLoop] = None) -> None:
        """Ends the adapters that were kept. On the lane's thread, when no call runs."""
        if self.lifetimes is not None:
            for adapter in self.lifetimes.close():
                self.clean_up(adapter, lane, loop, "the last call")

    def clean_up(self, adapter: Any, lane: Lane, loop: Optional[WorkerLoop], when: str) -> None:
        """The hook of an adapter that ends, whose errors are only logged."""
        try:
            cleanup = getattr(adapter, "cleanup", None)
            if cleanup is not None:
                self.hook(cleanup, lane, loop)
        except BaseException as error:
            _log.error("cleanup after %s failed: %s", when, text_of(error))

    def hook(self, hook: Any, lane: Lane, loop: Optional[WorkerLoop]) -> None:
        if self.has_hooks and callable(hook):
            result = hook()
            if result is not None and inspect.isawaitable(result):
                settle(result, lane, loop)

    # ---- what is known of the adapter ---------------------------------------

    def watch_threads(self) -> None:
        """Warns of what several threads share and should not, from now on."""
        from .. import thread_safety_checker as checking

        # Who asks for warnings gets them, whatever the level of the log.
        checking.log.setLevel(min(checking.log.getEffectiveLevel(), logging.WARNING))
        self.checker = checker = checking.enable_checking()
        for text in checking.check_common_pitfalls(self._adapter):
            checker.add_warning(text)
        for name in checking.UNSAFE_LIBRARIES:
            if name in sys.modules:
                checker.check_library_safety(name)

    def tracked(self, tool: str) -> AbstractContextManager[None]:
        """While a tool runs in this thread."""
        if self.checker is None:
            return nullcontext()
        owner = getattr(self._adapter, "__name__", type(self._adapter).__name__)
        safe = getattr(self._function(tool), "__thread_safe__", None) is True
        return self.checker.track_execution(f"{owner}.{tool}", safe)

    def is_async(self, tool: str) -> bool:
        """Whether its function says that it is a coroutine or an asynchronous generator."""
        known = self._known_async.get(tool)
        if known is None and tool == END_SESSIONS and self.keeps_sessions:
            return False
        if known is None:
            function = self._function(tool)
            known = _is_async(function)
            if function is not None:
                self._known_async[tool] = known
        return known

    def offers_async(self) -> bool:
        """Whether any of its functions is."""
        if self.executes:
            return self.is_async("")
        names = dir(self._adapter)
        own = (name for name in names if name[:1] != "_" and not hasattr(BaseAdapter, name))
        return any(_is_async(getattr(self._adapter, name, None)) for name in own)

    def _function(self, tool: str) -> Any:
        if self.executes:
            return self._adapter.execute_tool
        for name in (tool, f"execute_{tool}"):
            function = getattr(self._adapter, name, None)
            if callable(function) and not tool.startswith("_"):
                return function
        return None

    # ---- for each request ---------------------------------------------------

    def instance(self) -> Any:
        return self._adapter() if self._is_class else self._adapter

    def context(self, call: Call, lane: Lane) -> SessionContext:
        return SessionContext.of_call(call, self._connect, self._local, lane)

    def register(self, adapter: Any, context: SessionContext) -> None:
        """Only for adapters that bring their own registration."""
        if context.session_id in self._registered:
            return
        try:
            adapter.register_with_session(context.session_id, context.stub)
            self._registered.add(context.session_id)
        except Exception as error:
            _log.warning("register_with_session failed: %s", text_of(error))

    def forget(self, sessions: list[str]) -> None:
        """A later session of that name has none of its tools."""
        self._registered.difference_update(sessions)


class Request:
    """The state of one call while it runs."""

    # Most calls leave these as they are, and there is one for every call.
    # Who goes on with it, for what of the tool still holds on to this one.
    successor: Optional[Request] = None
    span: Optional[observe.Span] = None
    adapter: Any = None
    arguments: Optional[dict[str, Any]] = None
    chunks = 0
    ended = False
    held: Optional[Held] = None

    def __init__(
        self, host: AdapterHost, call: Call, lane: Lane, loop: Optional[WorkerLoop] = None
    ) -> None:
        """``loop`` runs the coroutines of the call, or ``lane`` by itself."""
        self._loop = loop
        self.host = host
        self.call = call
        self.lane = lane
        # Of an adapter with its own execute_tool nothing is known beforehand.
        self.may_stream = host.executes

    def run(self) -> Optional[Reply]:
        if self.host.lifetimes is not None:
            self._enter(self.host.lifetimes)
        execute = self._execute if self.host.checker is None else self._execute_tracked
        # Disarmed last, outside of everything that could be interrupted.
        try:
            try:
                self.lane.arm(self.call)
                reply, rest = execute()
            finally:
                self.lane.disarm()
        except BaseException as error:
            self.lane.disarm()
            reply, rest = self._failed(error), None
        if reply is None and self._loop is not None:
            self._loop.go_on(self, rest)
            return None
        self._clean_up()
        self._let_go()
        return reply

    def _enter(self, lifetimes: Lifetimes) -> None:
        self.held = lifetimes.enter(self.call.session_id)

    def _execute_tracked(self) -> tuple[Optional[Reply], Any]:
        with self.host.tracked(self.call.tool):
            return self._execute()

    def _execute(self) -> tuple[Optional[Reply], Any]:
        """The reply; or None, and what the loop is to await."""
        call, host = self.call, self.host
        if call.tool[: len(_REMOTE_PREFIX)] == _REMOTE_PREFIX:
            return self._remote(), None
        if host.keeps_sessions and call.tool == END_SESSIONS:
            return self._end_sessions(), None
        held = self.held
        if held is not None and held.adapter is None:
            self._wait(partial(held.claim, self, call.is_cancelled))
        adapter, begins = self._take_adapter()
        context = self._give_context(adapter)
        if host.registers:
            host.register(adapter, context)
        if begins:
            initialize = getattr(adapter, "initialize", None)
            if initialize is not None:
                host.hook(initialize, self.lane, self._loop)
            if held is not None:
                held.keep(adapter)
        self.arguments = arguments = self._arguments()
        value = self._start(adapter, context, arguments)
        plain = type(value) in _PLAIN  # the most frequent results need no questions
        if not plain and self._loop is not None and _is_asynchronous(value):
            return None, value
        if not plain and inspect.isawaitable(value):
            value = settle(value, self.lane, None)
        if call.stream:
            self._stream(value)
            return Reply(), None
        if not plain and self._is_stream(value):
            self._close_stream(value)
            raise streams_error(call.tool)
        return call.result(value), None

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = self.call.parameters()
        process = self.call.metadata.get(_REFS)
        if process is None:
            return arguments
        if self.host.remote is None:
            from .. import remote

            raise remote.not_allowed(self.call.tool)
        return self.host.remote.resolve(process, arguments)

    def _give_context(self, adapter: Any) -> SessionContext:
        """What the adapter knows of the call."""
        call = self.call
        context = self.host.context(call, self.lane)
        if call.stream:
            context.stream = ToolStream(self._emit, self._emit_async)
        if call.has_inputs:
            context.inputs = Inputs(call, self._wait, self._check)
        set_context = getattr(adapter, "set_session_context", None)
        if callable(set_context):
            set_context(context)
        return context

    def _take_adapter(self) -> tuple[Any, bool]:
        """The adapter, and whether it begins with this call."""
        held = self.held
        kept = None if held is None else held.adapter
        self.adapter = self.host.instance() if kept is None else kept
        return self.adapter, kept is None

    def _remote(self) -> Reply:
        if self.host.remote is None or self.call.stream:
            from .. import remote

            raise remote.not_allowed(self.call.tool)
        reply: Reply = self.host.remote.run(self.call, self.lane)
        return reply

    def _end_sessions(self) -> Reply:
        """Where nothing interrupts it: each adapter is cleaned up, and that once."""
        lifetimes, host = self.host.lifetimes, self.host
        sessions = self.call.parameters().get("sessions")
        self.lane.disarm()
        ids = [i for i in sessions if isinstance(i, str)] if isinstance(sessions, list) else []
        host.forget(ids)
        ended = lifetimes.end(ids) if lifetimes else []
        for adapter in ended:
            host.clean_up(adapter, self.lane, self._loop, "the end of a session")
        reply: Reply = self.call.result(len(ended))
        return reply

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
        if self.successor is not None:
            self.successor._emit(item)
            return
        if self.ended:
            return
        value, final, metadata = parts(item)
        self.chunks += 1
        self.ended = final
        if not self._is_armed():  # a thread or task of the tool's own
            self.call.put(value, final, metadata)
            self._check()
            return
        # The wait for the receiver is ours: cancellation ends it by itself.
        self.lane.disarm()
        self.call.put(value, final, metadata)
        self.lane.arm(self.call)

    async def _emit_async(self, item: Any) -> None:
        if self.successor is not None:
            await self.successor._emit_async(item)
        else:  # this loop has nothing else to do
            self._emit(item)

    # ---- inputs -----------------------------------------------------------

    def _wait(self, wait: Callable[[], None]) -> None:
        """For an input. Cancellation ends the wait by itself, as in ``_emit``."""
        if not self._is_armed():
            wait()
            self._check()
            return
        self.lane.disarm()
        try:
            wait()
        finally:
            self.lane.arm(self.call)

    def _is_armed(self) -> bool:
        lane = self.lane
        return threading.get_ident() == lane.thread_id and lane.current is self.call

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
                host.clean_up(adapter, self.lane, self._loop, "the end of a session")
            if held.adapter is self.adapter:
                return
        if self.adapter is not None:
            host.clean_up(self.adapter, self.lane, self._loop, self.call.tool)

    def _let_go(self) -> None:
        """A context leads to the request of its stream. Would that lead on to the
        adapter, and so to the context, the arguments would stay until the interpreter
        looks for cycles, and with them the memory of the BEAM's in which they lie.
        """
        self.adapter = None
        self.arguments = None


def settle(value: Any, lane: Lane, loop: Optional[WorkerLoop]) -> Any:
    """The result of an awaitable, which this lane waits for."""
    if loop is not None:
        return lane.wait_for(loop.future(_await(value)))
    return lane.run_coroutine(_await(value))


def _remote() -> Optional[Remote]:
    if not os.environ.get(_REMOTE_VARIABLE):
        return None
    from .. import remote

    return remote.take_key()


async def _await(value: Any) -> Any:
    return await value


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _is_asynchronous(value: Any) -> bool:
    return inspect.isawaitable(value) or hasattr(type(value), "__anext__")


def _own_method(adapter: Any, name: str) -> bool:
    """Whether the adapter itself defines it, not our base class."""
    kind = adapter if isinstance(adapter, (type, ModuleType)) else type(adapter)
    method = getattr(kind, name, None)
    return callable(method) and method is not getattr(BaseAdapter, name, None)


def parts(item: Any) -> tuple[Any, bool, Optional[dict[str, str]]]:
    """An item of a stream: its value, whether it is the last, its metadata."""
    if not (hasattr(item, "is_final") and hasattr(item, "data")):
        return item, False, None
    metadata = None
    given = getattr(item, "metadata", None)
    if isinstance(given, Mapping):
        metadata = {str(key): str(value) for key, value in given.items()}
    return item.data, bool(item.is_final), metadata
