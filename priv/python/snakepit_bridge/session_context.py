"""What a tool knows about its call, and its way back to Elixir."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Callable, Optional

from . import _values
from .errors import BridgeError
from .inputs import Inputs
from .streams import ToolStream

STRING_URL = "type.googleapis.com/google.protobuf.StringValue"
CORRELATION_HEADER = "x-snakepit-correlation-id"


class SessionContext:
    """The session of one call.

    ``connect`` makes the stub when it is first needed: most tools never call
    back. ``stream`` is set while the call can send chunks, ``inputs`` where its
    caller has inputs for the tool. Used as a context manager it deletes the
    BEAM's session at the end.
    """

    def __init__(
        self,
        stub: Any,
        session_id: str,
        request_metadata: Optional[Mapping[str, str]] = None,
        *,
        connect: Optional[Callable[[], Any]] = None,
        deadline: Optional[float] = None,
        is_cancelled: Optional[Callable[[], bool]] = None,
    ) -> None:
        self.session_id = session_id
        self.request_metadata: dict[str, str] = dict(request_metadata or {})
        self.deadline = deadline
        self.stream: Optional[ToolStream] = None
        self.inputs: Optional[Inputs] = None
        self._stub = stub
        self._connect = connect
        self._is_cancelled = is_cancelled
        self._elixir_tools: Optional[dict[str, dict[str, Any]]] = None

    @property
    def stub(self) -> Any:
        """Synchronous BridgeService stub to the BEAM."""
        if self._stub is None:
            if self._connect is None:
                raise BridgeError("this context has no connection to the BEAM")
            self._stub = self._connect()
        return self._stub

    @property
    def correlation_id(self) -> str:
        return self.request_metadata.get("correlation_id", "")

    @property
    def cancelled(self) -> bool:
        """True when nobody waits for the result any more."""
        return self._is_cancelled is not None and self._is_cancelled()

    def time_remaining(self) -> Optional[float]:
        """Seconds until the caller's deadline (see ``time.monotonic``), or None."""
        if self.deadline is None:
            return None
        return max(self.deadline - time.monotonic(), 0.0)

    @property
    def elixir_tools(self) -> dict[str, dict[str, Any]]:
        """Tools that Elixir exposes to this session; empty if it does not answer."""
        if self._elixir_tools is None:
            try:
                self._elixir_tools = self._fetch_tools()
            except Exception:
                return {}
        return self._elixir_tools

    def call_elixir_tool(
        self, name: str, arguments: Optional[Mapping[str, Any]] = None, /, **named: Any
    ) -> Any:
        """Runs an Elixir tool: ``("add", {"a": 1})`` or ``("add", a=1)``.

        Raises ValueError for a tool that is not exposed, RuntimeError when the
        tool or the connection fails.
        """
        from ._proto import messages

        pb2 = messages()
        request = pb2.ExecuteElixirToolRequest(session_id=self.session_id, tool_name=name)
        for key, value in {**(arguments or {}), **named}.items():
            slot = request.parameters[str(key)]
            slot.type_url = STRING_URL
            slot.value = _values.dumps(value)
        if self.correlation_id:
            request.metadata["correlation_id"] = self.correlation_id
        if name not in self.elixir_tools:
            self._elixir_tools = self._fetch_tools_for(name)
        response = self._send("ExecuteElixirTool", request, name)
        if not response.success:
            raise RuntimeError(f"Elixir tool {name!r} failed: {response.error_message}")
        return _decode_result(response)

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

    def _fetch_tools_for(self, name: str) -> dict[str, dict[str, Any]]:
        try:
            tools = self._fetch_tools()
        except BridgeError:
            raise
        except Exception as error:
            raise RuntimeError(
                f"Elixir tool {name!r}: the BEAM does not answer: {_rpc_text(error)}"
            ) from error
        if name not in tools:
            raise ValueError(
                f"Elixir exposes no tool {name!r} to session {self.session_id!r}; "
                f"it exposes: {', '.join(sorted(tools)) or 'none'}"
            )
        return tools

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

    def _send(self, method: str, request: Any, name: str) -> Any:
        headers = ((CORRELATION_HEADER, self.correlation_id),) if self.correlation_id else ()
        try:
            return getattr(self.stub, method)(
                request, timeout=self.time_remaining(), metadata=headers
            )
        except BridgeError:
            raise
        except Exception as error:
            raise RuntimeError(f"Elixir tool {name!r}: {_rpc_text(error)}") from error

    def _timeout(self, limit: float) -> float:
        remaining = self.time_remaining()
        return limit if remaining is None else min(limit, remaining)


def _parameter(spec: Any) -> dict[str, Any]:
    return {"type": spec.type, "description": spec.description, "required": spec.required}


def _decode_result(response: Any) -> Any:
    has_result = response.HasField("result")
    if response.binary_result and (not has_result or response.result.value in (b"{}", b"")):
        return response.binary_result
    if not has_result:
        return None
    from .serialization import TypeSerializer

    result = TypeSerializer.decode_any(response.result)
    return (response.binary_result, result) if response.binary_result else result


def _rpc_text(error: Exception) -> str:
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    if callable(code) and callable(details):
        return f"{getattr(code(), 'name', code())}: {details()}"
    return str(error)
