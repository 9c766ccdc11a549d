"""What a tool of a local worker asks of the BEAM, over the same shared memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Optional
from weakref import WeakKeyDictionary

from .._proto import messages
from ..elixir_tools import ToolAnswer, unreachable

if TYPE_CHECKING:
    import asyncio

    from .._extension import Link
    from ..session_context import SessionContext

_CORRELATION_HEADER = "x-snakepit-correlation-id"
_OVER = 4  # DEADLINE_EXCEEDED
_GONE = 14  # UNAVAILABLE


class LocalCalls:
    """The way back to Elixir; a context says of which call."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def call(self, context: SessionContext, name: str, arguments: dict[str, Any]) -> ToolAnswer:
        request = self._send(context, name, arguments)
        try:
            if not request.wait(context.call, None):
                _given_up(context.call)
        except ConnectionError as error:
            context.call.check()  # a worker that is stopping cancels its calls
            raise unreachable(name, str(error)) from None
        except BaseException:
            request.cancel()
            raise
        return _answer(name, request.tool_reply())

    async def call_async(
        self, context: SessionContext, name: str, arguments: dict[str, Any]
    ) -> ToolAnswer:
        request = self._send(context, name, arguments)
        # All of it: the call may be cancelled between any two of our own lines, and
        # its exception then holds the request until the garbage is collected.
        try:
            await _replies().wait(request)
            request.wait(None, 0)  # it is there, or will never be
        except ConnectionError as error:
            raise unreachable(name, str(error)) from None
        except BaseException:
            request.cancel()
            raise
        return _answer(name, request.tool_reply())

    def stub(self, call: Any) -> LocalStub:
        return LocalStub(self._link, call)

    def _send(self, context: SessionContext, name: str, arguments: dict[str, Any]) -> Any:
        left = context.time_remaining()
        left_ms = 0 if left is None else int(left * 1000) + 1
        try:
            return self._link.tool_request(
                name, context.session_id, context.callback_metadata, arguments, left_ms
            )
        except ConnectionError as error:
            raise unreachable(name, str(error)) from None


def _given_up(call: Any) -> None:
    """Nobody waits for the call any more, so its tool does not either."""
    call.check()
    raise RuntimeError("the call that this context belongs to is over")


def _answer(name: str, reply: tuple[int, bool, Any, Any]) -> ToolAnswer:
    status, success, value, more = reply
    if success:
        return ToolAnswer(True, value, more)
    if status != 0:
        raise unreachable(name, f"{_status_name(status)}: {value}")
    return ToolAnswer(False, message=value, details=more or "")


# ---- replies to coroutines -------------------------------------------------


class _Replies:
    """Wakes the coroutines of one event loop whose replies have come."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._pending: dict[asyncio.Future[None], Any] = {}
        loop.add_reader(self._reader, self._wake)

    async def wait(self, request: Any) -> None:
        import asyncio  # large, and most tools do without

        future = asyncio.get_running_loop().create_future()
        self._pending[future] = request
        try:
            request.notify(self._writer)
            await future
        except BaseException:
            request.cancel()
            raise
        finally:
            del self._pending[future]

    def _wake(self) -> None:
        try:
            os.read(self._reader, 65536)
        except BlockingIOError:
            return
        for future, request in self._pending.items():
            if not future.done() and request.done:
                future.set_result(None)

    def __del__(self) -> None:
        # Nobody waits any more, so nothing is written there either.
        os.close(self._reader)
        os.close(self._writer)


_ALL_REPLIES: WeakKeyDictionary[asyncio.AbstractEventLoop, _Replies] = WeakKeyDictionary()


def _replies() -> _Replies:
    import asyncio

    loop = asyncio.get_running_loop()
    found = _ALL_REPLIES.get(loop)
    if found is None:
        found = _ALL_REPLIES[loop] = _Replies(loop)
    return found


# ---- any method of the service ---------------------------------------------


class LocalRpcError(Exception):
    """As gRPC's own: ``code()`` and ``details()``."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{_status_name(status)}: {text}")
        self._status = status
        self._text = text

    def code(self) -> Any:
        """A ``grpc.StatusCode`` where grpcio is there, else its number."""
        try:
            import grpc
        except ImportError:
            return self._status
        return next(code for code in grpc.StatusCode if code.value[0] == self._status)

    def details(self) -> str:
        return self._text


def rpc_error(status: int, text: str) -> LocalRpcError:
    """For code that has imported grpcio it is a ``grpc.RpcError``, too."""
    grpc = sys.modules.get("grpc")
    kind = LocalRpcError if grpc is None else _grpc_kind(grpc.RpcError)
    return kind(status, text)


@lru_cache(maxsize=1)
def _grpc_kind(base: type) -> type[LocalRpcError]:
    return type("LocalRpcError", (LocalRpcError, base), {"__module__": __name__})


class LocalStub:
    """BridgeService as the BEAM serves it: ``stub.Ping(request, timeout=5)``."""

    def __init__(self, link: Link, call: Any = None) -> None:
        self._link = link
        self._call = call

    def __getattr__(self, name: str) -> _Method:
        service = messages().DESCRIPTOR.services_by_name["BridgeService"]
        method = service.methods_by_name.get(name)
        if method is None:
            raise AttributeError(f"BridgeService has no method {name!r}")
        bound = _Method(self._link, self._call, method)
        setattr(self, name, bound)
        return bound


class _Method:
    def __init__(self, link: Link, call: Any, method: Any) -> None:
        self._link = link
        self._call = call
        self._place = method.index + 1
        self._response = getattr(messages(), method.output_type.name)

    def __call__(
        self,
        request: Any,
        timeout: Optional[float] = None,
        metadata: Optional[Any] = None,
        **_ignored: Any,
    ) -> Any:
        until = None if timeout is None else time.monotonic() + timeout
        pending = self._send(_with_correlation(request, metadata))
        try:
            seconds = None if until is None else max(until - time.monotonic(), 0.0)
            if not pending.wait(self._call, seconds):
                if self._call is not None:
                    self._call.check()
                raise rpc_error(_OVER, "the time-out has passed, or the call is over")
        except ConnectionError as error:
            raise rpc_error(_GONE, str(error)) from None
        except BaseException:
            pending.cancel()
            raise
        status, data = pending.reply()
        if status != 0:
            raise rpc_error(status, data.decode("utf-8", "replace"))
        return self._response.FromString(data)

    def _send(self, request: Any) -> Any:
        try:
            return self._link.request(self._place, request.SerializeToString())
        except ConnectionError as error:
            raise rpc_error(_GONE, str(error)) from None


def _with_correlation(request: Any, metadata: Optional[Any]) -> Any:
    """There are no headers here: the id travels in the message, where it can."""
    pairs = metadata.items() if isinstance(metadata, Mapping) else metadata or ()
    given = dict(pairs).get(_CORRELATION_HEADER)
    fields = request.DESCRIPTOR.fields_by_name
    if not given or "tool_name" not in fields or request.metadata.get("correlation_id"):
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.metadata["correlation_id"] = given
    return copy


_STATUS_NAMES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)


def _status_name(status: int) -> str:
    return _STATUS_NAMES[status] if status < len(_STATUS_NAMES) else str(status)
