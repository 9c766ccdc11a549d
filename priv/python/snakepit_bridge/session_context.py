"""What a tool knows about its call, and its way back to Elixir."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any, Callable, Optional, Protocol

from . import _values
from .elixir_tools import ElixirTools, ToolAnswer, failed, is_unknown, unknown, unreachable
from .errors import BridgeError
from .inputs import Inputs
from .logging_config import get_logger
from .session_variables import SessionVariables, Variable
from .streams import ToolStream

STRING_URL = "type.googleapis.com/google.protobuf.StringValue"
CORRELATION_HEADER = "x-snakepit-correlation-id"

# The second says which calls wait for this one.
_TAKEN_ALONG = ("correlation_id", "call_path")


class LocalBeam(Protocol):
    """A connection to the BEAM that needs no gRPC."""

    def stub(self, call: Any) -> Any: ...

    def call(
        self, context: SessionContext, name: str, arguments: dict[str, Any]
    ) -> ToolAnswer: ...

    async def call_async(
        self, context: SessionContext, name: str, arguments: dict[str, Any]
    ) -> ToolAnswer: ...


class SessionContext:
    """The session of one call.

    ``connect`` makes the stub when it is first needed: most tools never call
    back. ``stream`` is set while the call can send chunks, ``inputs`` where its
    caller has inputs for the tool. Used as a context manager it deletes the
    BEAM's session at the end.
    """

    stream: Optional[ToolStream] = None
    inputs: Optional[Inputs] = None
    call: Any = None  # the carrier's own, for ``local`` and ``cancelled``
    _stub: Any = None
    _is_cancelled: Optional[Callable[[], bool]] = None
    _callback_metadata: Optional[dict[str, str]] = None
    _elixir_tools: Optional[dict[str, dict[str, Any]]] = None

    def __init__(
        self,
        stub: Any,
        session_id: str,
        request_metadata: Optional[Mapping[str, str]] = None,
        *,
        connect: Optional[Callable[[], Any]] = None,
        deadline: Optional[float] = None,
        is_cancelled: Optional[Callable[[], bool]] = None,
        local: Optional[LocalBeam] = None,
        call: Any = None,
        lane: Any = None,
    ) -> None:
        self.session_id = session_id
        self.request_metadata: dict[str, str] = dict(request_metadata or {})
        self.deadline = deadline
        self._stub = stub
        self._connect = connect
        self._is_cancelled = is_cancelled
        self._local = local
        self.call = call
        self._lane = lane

    @classmethod
    def of_call(
        cls,
        call: Any,
        connect: Optional[Callable[[], Any]],
        local: Optional[LocalBeam],
        lane: Any,
    ) -> SessionContext:
        """That of a request in a worker, made for every call: only what differs is set."""
        self = cls.__new__(cls)
        self.session_id = call.session_id
        self.request_metadata = dict(call.metadata)
        self.deadline = call.deadline
        self.call = call
        self._connect = connect
        self._local = local
        self._lane = lane
        return self

    @property
    def stub(self) -> Any:
        """Synchronous BridgeService stub to the BEAM."""
        if self._stub is None and self._local is not None:
            self._stub = self._local.stub(self.call)
        elif self._stub is None:
            if self._connect is None:
                raise BridgeError("this context has no connection to the BEAM")
            self._stub = self._connect()
        return self._stub

    @property
    def correlation_id(self) -> str:
        return self.request_metadata.get("correlation_id", "")

    @property
    def metadata(self) -> dict[str, str]:
        """The same as ``request_metadata``."""
        return self.request_metadata

    @property
    def logger(self) -> logging.Logger:
        """For the tool's own lines; they carry the correlation id."""
        return get_logger(f"tool.{getattr(self.call, 'tool', None) or 'unknown'}")

    @property
    def cancelled(self) -> bool:
        """True when nobody waits for the result any more."""
        if self._is_cancelled is not None:
            return self._is_cancelled()
        return self.call is not None and bool(self.call.is_cancelled())

    def time_remaining(self) -> Optional[float]:
        """Seconds until the caller's deadline (see ``time.monotonic``), or None."""
        if self.deadline is None:
            return None
        return max(self.deadline - time.monotonic(), 0.0)

    def remaining(self) -> Optional[float]:
        """The same as ``time_remaining()``."""
        return self.time_remaining()

    @property
    def callback_metadata(self) -> dict[str, str]:
        """What a call back to Elixir takes along of this call's metadata."""
        if self._callback_metadata is None:
            given = self.request_metadata
            self._callback_metadata = {key: given[key] for key in _TAKEN_ALONG if key in given}
        return self._callback_metadata

    @property
    def elixir_tools(self) -> dict[str, dict[str, Any]]:
        """Tools that Elixir exposes to this session; empty if it does not answer."""
        if self._elixir_tools is None:
            try:
                self._elixir_tools = self._fetch_tools()
            except Exception:
                return {}
        return self._elixir_tools

    @property
    def elixir(self) -> ElixirTools:
        """Elixir tools as attributes: ``ctx.elixir.add(a=1, b=2)``."""
        return ElixirTools(self)

    def call_elixir_tool(
        self, name: str, arguments: Optional[Mapping[str, Any]] = None, /, **named: Any
    ) -> Any:
        """Runs an Elixir tool: ``("add", {"a": 1})`` or ``("add", a=1)``.

        Raises ValueError for a tool that is not exposed, and ElixirToolError, a
        RuntimeError, when the tool or the connection fails.
        """
        given = _arguments(arguments, named)
        if self._local is not None:
            return self._result(name, self._local.call(self, name, given))
        request = self._tool_request(name, given)
        return self._result(name, _answer(self._send(request, name)))

    async def call_elixir_tool_async(
        self, name: str, arguments: Optional[Mapping[str, Any]] = None, /, **named: Any
    ) -> Any:
        """The same for coroutines. Cancelling it cancels the tool."""
        given = _arguments(arguments, named)
        if self._local is not None:
            return self._result(name, await self._local.call_async(self, name, given))
        request = self._tool_request(name, given)
        return self._result(name, _answer(await self._send_async(request, name)))

    # ---- variables of the session -----------------------------------------

    @property
    def variables(self) -> SessionVariables:
        """``ctx.variables["rate"] = 0.5``: kept by the BEAM as long as the session."""
        return SessionVariables(self)

    def register_variable(
        self,
        name: str,
        type: str,
        value: Any,
        constraints: Optional[Mapping[str, Any]] = None,
    ) -> Variable:
        """See ``SessionVariables.register``; older code awaits it."""
        return self.variables.register(name, type, value, constraints)

    def __getitem__(self, name: str) -> Any:
        return self.variables[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.variables[name] = value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.variables

    # Or iteration would ask for variables named 0, 1, ...
    __iter__ = None

    # -----------------------------------------------------------------------

    def _result(self, name: str, answer: ToolAnswer) -> Any:
        if answer.success:
            return answer.result()
        # An older BEAM does not say why.
        if is_unknown(answer) or (not answer.details and name not in self.elixir_tools):
            raise unknown(name, self)
        raise failed(name, answer)

    def _tool_request(self, name: str, given: Mapping[str, Any]) -> Any:
        from ._proto import messages

        request = messages().ExecuteElixirToolRequest(
            session_id=self.session_id, tool_name=name, metadata=self.callback_metadata
        )
        if worker_id():
            request.metadata["worker_id"] = worker_id()
        for key, value in given.items():
            slot = request.parameters[key]
            slot.type_url = STRING_URL
            slot.value = _values.dumps(value)
        return request

    def cleanup(self) -> None:
        """Asks the BEAM to delete the session; failure is of no consequence."""
        try:
            from ._proto import messages

            request = messages().CleanupSessionRequest(session_id=self.session_id)
            self.stub.CleanupSession(request, timeout=5)
        except Exception:
            return

    def __enter__(self) -> SessionContext:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.cleanup()

    def _fetch_tools(self) -> dict[str, dict[str, Any]]:
        from ._proto import messages

        request = messages().GetExposedElixirToolsRequest(session_id=self.session_id)
        response = self.stub.GetExposedElixirTools(request, timeout=self._timeout(5.0))
        return {
            spec.name: {
                "name": spec.name,
                "description": spec.description,
                "parameters": {p.name: _parameter(p) for p in spec.parameters},
            }
            for spec in response.tools
        }

    def _start(self, request: Any) -> Any:
        """A future: a blocking call would go on when its wait is interrupted.

        So would one that is interrupted while it begins: the lane waits with that.
        """
        headers = ((CORRELATION_HEADER, self.correlation_id),) if self.correlation_id else ()
        begin = self.stub.ExecuteElixirTool.future
        lane, running = self._lane, None
        if lane is not None and lane.thread_id == threading.get_ident():
            running = lane.current
        if running is None:
            return begin(request, timeout=self.time_remaining(), metadata=headers)
        lane.disarm()
        call = None
        try:
            call = begin(request, timeout=self.time_remaining(), metadata=headers)
        finally:
            try:
                lane.arm(running)
            except BaseException:
                if call is not None:
                    call.cancel()
                raise
        return call

    def _send(self, request: Any, name: str) -> Any:
        call = self._start(request)
        try:
            return _rpc_result(call, name)
        except BaseException:
            call.cancel()  # of one that is over this does nothing
            raise

    async def _send_async(self, request: Any, name: str) -> Any:
        """On gRPC's own threads; the loop goes on meanwhile."""
        import asyncio  # large, and most tools do without

        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        call = self._start(request)
        call.add_done_callback(lambda _call: loop.call_soon_threadsafe(over.set))
        try:
            await over.wait()
        except BaseException:
            call.cancel()
            raise
        return _rpc_result(call, name)

    def _timeout(self, limit: float) -> float:
        remaining = self.time_remaining()
        return limit if remaining is None else min(limit, remaining)


def _parameter(spec: Any) -> dict[str, Any]:
    return {"type": spec.type, "description": spec.description, "required": spec.required}


def worker_id() -> str:
    """The name that the BEAM has for this worker; empty for one that it did not start."""
    return os.environ.get("SNAKEPIT_WORKER_ID", "")


def _arguments(arguments: Optional[Mapping[str, Any]], named: dict[str, Any]) -> dict[str, Any]:
    if not arguments:
        return named
    return {**{str(key): value for key, value in arguments.items()}, **named}


def _answer(response: Any) -> ToolAnswer:
    if not response.success:
        return ToolAnswer(
            False, message=response.error_message, details=response.metadata.get("error", "")
        )
    value = None
    if response.HasField("result"):
        from .serialization import TypeSerializer

        value = TypeSerializer.decode_any(response.result) if response.result.value else None
    return ToolAnswer(True, value, response.binary_result or None)


def _rpc_result(call: Any, name: str) -> Any:
    try:
        return call.result()
    except Exception as error:
        raise unreachable(name, _rpc_text(error)) from error


def _rpc_text(error: Exception) -> str:
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    if callable(code) and callable(details):
        return f"{getattr(code(), 'name', code())}: {details()}"
    return str(error)
