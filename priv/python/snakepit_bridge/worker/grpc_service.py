"""BridgeService as the worker serves it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable, Optional

import grpc

from .. import _native
from .._proto import messages
from ..errors import DecodeError
from ..serialization import TYPE_PREFIX, TypeSerializer, unpickle
from ..telemetry.stream import TelemetryStream
from . import local_values
from .calls import NO_SINK, Call, Cbor, CborCall, Reply, Sink
from .grpc_inputs import GrpcInputs
from .runner import Runner
from .sinks import Chunk, StreamSink

if TYPE_CHECKING:
    from .._extension import Extension

SERVICE = "snakepit.bridge.BridgeService"
CALL_ID_HEADER = "x-snakepit-call-id"
AWAIT_HEADER = "x-snakepit-await-call"
CORRELATION_HEADER = "x-snakepit-correlation-id"

ENCODING_VARIABLE = "SNAKEPIT_ENCODING"

_FORWARD_TIMEOUT_S = 5.0
_FOREVER_S = 1e8  # gRPC's way to say that there is no deadline


class BridgeService:
    """Translates between gRPC and calls."""

    def __init__(
        self,
        runner: Runner,
        connect: Callable[[], Any],
        known_beam: bool,
        telemetry: TelemetryStream,
    ) -> None:
        self._runner = runner
        self._telemetry = telemetry
        self._connect = connect
        self._known_beam = known_beam
        self._pb2 = messages()
        self._native = _find_native()

    def handler(self, lanes: Any) -> Any:
        """The generic handler to add to a server; unary tools run on ``lanes``, if given."""
        pb2 = self._pb2

        def execute_tool(request: Any, context: Any) -> Any:
            return self.execute_tool(request, context)

        if lanes is not None:
            execute_tool.experimental_thread_pool = lanes  # type: ignore[attr-defined]
        unary = {
            "Ping": (self.ping, pb2.PingRequest),
            "Heartbeat": (self.heartbeat, pb2.HeartbeatRequest),
            "InitializeSession": (self.initialize_session, pb2.InitializeSessionRequest),
            "CleanupSession": (self.cleanup_session, pb2.CleanupSessionRequest),
            "GetSession": (self.get_session, pb2.GetSessionRequest),
            "ExecuteTool": (execute_tool, pb2.ExecuteToolRequest),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                method,
                request_deserializer=kind.FromString,
                response_serializer=_serialize,
            )
            for name, (method, kind) in unary.items()
        }
        handlers["ExecuteStreamingTool"] = grpc.unary_stream_rpc_method_handler(
            self.execute_streaming_tool,
            request_deserializer=pb2.ExecuteToolRequest.FromString,
            response_serializer=_serialize,
        )
        handlers["ExecuteInteractiveTool"] = grpc.stream_stream_rpc_method_handler(
            self.execute_interactive_tool,
            request_deserializer=pb2.ToolInput.FromString,
            response_serializer=_serialize,
        )
        handlers["StreamTelemetry"] = grpc.stream_stream_rpc_method_handler(
            self._telemetry.stream,
            request_deserializer=pb2.TelemetryControl.FromString,
            response_serializer=_serialize,
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    # ---- tools ------------------------------------------------------------

    def execute_tool(self, request: Any, context: Any) -> Any:
        reply = self._runner.execute(self._call(request, context, NO_SINK, stream=False))
        if reply.cancelled:
            self._abort_cancelled(context)
        return self._response(reply)

    def execute_streaming_tool(self, request: Any, context: Any) -> Iterator[Any]:
        sink = StreamSink()
        call = self._call(request, context, sink, stream=True)
        self._runner.submit(call)
        sent = 0
        while True:
            item = sink.take()
            if isinstance(item, Reply):
                break
            if isinstance(item, int):
                continue
            sent += 1
            yield self._chunk(call, sent, item)
        if item.cancelled:
            self._abort_cancelled(context)
        if item.error is not None:
            context.abort(grpc.StatusCode.INTERNAL, item.error)

    def execute_interactive_tool(self, messages: Iterator[Any], context: Any) -> Iterator[Any]:
        """A call whose tool reads inputs; whether it streams is in the request."""
        first: Any = next(messages, None)
        if first is None or first.WhichOneof("input") != "request":
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the first message has to hold the request"
            )
        request = first.request
        sink = StreamSink()
        call = self._call(request, context, sink, stream=request.stream)
        call.inputs = inputs = GrpcInputs(messages, sink.want, self._native)
        # After the callback that cancels the call.
        if not context.add_callback(inputs.close):
            inputs.close()
        self._runner.submit(call)
        sent = 0
        while True:
            item = sink.take()
            if isinstance(item, Reply):
                break
            if isinstance(item, int):
                yield self._pb2.ToolOutput(input_credit=item)
                continue
            sent += 1
            yield self._pb2.ToolOutput(chunk=self._chunk(call, sent, item))
        if item.cancelled:
            self._abort_cancelled(context)
        yield self._pb2.ToolOutput(response=self._response(item))

    def _chunk(self, call: Call, number: int, chunk: Chunk) -> Any:
        data, final, metadata = chunk
        field = "data_cbor" if isinstance(data, Cbor) else "data"
        return self._pb2.ToolChunk(
            chunk_id=f"{call.tool}-{number}",
            is_final=final,
            metadata=metadata,
            **{field: data},
        )

    def _call(self, request: Any, context: Any, sink: Sink, stream: bool) -> Call:
        headers = dict(context.invocation_metadata() or ())
        metadata = dict(request.metadata)
        if CORRELATION_HEADER in headers:
            metadata.setdefault("correlation_id", headers[CORRELATION_HEADER])
        remaining = context.time_remaining()
        bounded = remaining is not None and remaining < _FOREVER_S
        kind = CborCall if request.arguments_cbor else Call
        call = kind(
            request.tool_name,
            request.session_id,
            metadata,
            lambda: _parameters(request, self._native),
            sink,
            stream=stream,
            key=headers.get(CALL_ID_HEADER, ""),
            deadline=time.monotonic() + remaining if bounded else None,
        )
        if isinstance(call, CborCall) and self._native is not None:
            call.encode = self._native.encode
        # Called at the end of every RPC; for calls that are over it does nothing.
        if not context.add_callback(lambda: self._runner.cancel(call)):
            call.cancelled = True
        return call

    def _abort_cancelled(self, context: Any) -> None:
        if self._runner.closed:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the worker is stopping")
        context.abort(grpc.StatusCode.CANCELLED, "the call was cancelled")

    def _response(self, reply: Reply) -> Any:
        response = self._pb2.ExecuteToolResponse(execution_time_ms=reply.elapsed_ms)
        if reply.error is not None:
            response.error_message = reply.error
            return response
        response.success = True
        if isinstance(reply.value, Cbor):
            response.result_cbor = reply.value
        elif reply.value is not None:
            response.result.type_url = TYPE_PREFIX + reply.kind
            response.result.value = reply.value
        if reply.binary:
            response.binary_result = reply.binary
        return response

    # ---- the rest ---------------------------------------------------------

    def ping(self, request: Any, context: Any) -> Any:
        """With the await header: answers once that call is neither queued nor running."""
        for key, value in context.invocation_metadata() or ():
            if key == AWAIT_HEADER:
                over = threading.Event()
                if context.add_callback(over.set):
                    self._runner.when_over(value, over.set)
                    over.wait()
        response = self._pb2.PingResponse(
            message=request.message, accepts_cbor=self._native is not None
        )
        response.server_time.GetCurrentTime()
        return response

    def heartbeat(self, request: Any, context: Any) -> Any:
        """Answered here when no BEAM is known: then the worker's word is all there is."""
        if not self._known_beam:
            response = self._pb2.HeartbeatResponse(session_valid=True)
            response.server_time.GetCurrentTime()
            return response
        return self._forward("Heartbeat", request, context)

    def initialize_session(self, request: Any, context: Any) -> Any:
        return self._forward("InitializeSession", request, context)

    def cleanup_session(self, request: Any, context: Any) -> Any:
        return self._forward("CleanupSession", request, context)

    def get_session(self, request: Any, context: Any) -> Any:
        return self._forward("GetSession", request, context)

    def _forward(self, method: str, request: Any, context: Any) -> Any:
        if not self._known_beam:
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{method} is the BEAM's to answer and its address is not known; "
                "start the worker with --elixir-address HOST:PORT",
            )
        try:
            return getattr(self._connect(), method)(request, timeout=_FORWARD_TIMEOUT_S)
        except grpc.RpcError as error:
            return context.abort(error.code(), error.details() or "")


def _find_native() -> Optional[Extension]:
    """The extension, where CBOR is to be offered: it is what reads and writes it."""
    if os.environ.get(ENCODING_VARIABLE, "").strip().lower() == "json":
        return None
    native = _native.load()
    if native is not None:
        local_values.configure(native)
    return native


def _arguments(data: bytes, native: Optional[Extension]) -> dict[str, Any]:
    if native is None:
        raise DecodeError("the arguments are CBOR, which this worker did not offer to take")
    arguments = native.decode(data)
    if not isinstance(arguments, dict):
        raise DecodeError("the arguments are not a map")
    return arguments


def _parameters(request: Any, native: Optional[Extension]) -> dict[str, Any]:
    """All parameters; binary ones replace others of the same name."""
    decoded: dict[str, Any] = {}
    if request.arguments_cbor:
        decoded = _arguments(request.arguments_cbor, native)
    for name, value in request.parameters.items():
        try:
            decoded[name] = TypeSerializer.decode_any(value)
        except (DecodeError, ValueError) as error:
            raise DecodeError(f"parameter {name!r}: {error}") from None
    for name, data in request.binary_parameters.items():
        if request.metadata.get(f"binary_format:{name}") == "pickle":
            data = unpickle(data, f"parameter {name!r}")
        decoded[name] = data
    return decoded


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
