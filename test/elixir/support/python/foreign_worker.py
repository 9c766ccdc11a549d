"""A worker that knows only the protocol: each tool's name says how it answers."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

sys.path.append(os.environ["SNAKEPIT_PROTO_PATH"])
pb2: Any = importlib.import_module("snakepit_bridge_pb2")
pb2_grpc: Any = importlib.import_module("snakepit_bridge_pb2_grpc")

FAILURES = {
    "structured": '{"type": "KeyError", "message": "k", "traceback": "T", "stacktrace": ["T"]}',
    "bare": '{"type": "KeyError", "message": "k"}',
    "odd": '{"type": "OddError", "message": "m", "bases": 5, "frames": [1, {"line": "x"}], '
    '"cause": {"type": 1}, "notes": {}, "attributes": [], "context": "c", "stacktrace": "s"}',
    "deep": '{"type": "A", "message": "m", "cause": ' * 200 + "null" + "}" * 200,
    "no_type": '{"message": "k"}',
    "number": '{"type": 1, "message": 2}',
    "cut": '{"type": "KeyError", "mess',
    "text": "it did not work",
    "empty": "",
}


class Foreign(pb2_grpc.BridgeServiceServicer):  # type: ignore[misc,name-defined]
    def Ping(self, request: Any, context: Any) -> Any:
        return pb2.PingResponse(message=request.message)

    def InitializeSession(self, request: Any, context: Any) -> Any:
        return pb2.InitializeSessionResponse(success=True)

    def Heartbeat(self, request: Any, context: Any) -> Any:
        return pb2.HeartbeatResponse(session_valid=True)

    def ExecuteTool(self, request: Any, context: Any) -> Any:
        kind, _, what = request.tool_name.partition(":")
        if kind == "status":
            code = next(c for c in grpc.StatusCode if c.value[0] == int(what))
            context.abort(code, f"status {what}")
        if kind == "failure":
            return pb2.ExecuteToolResponse(success=False, error_message=FAILURES[what])
        response = pb2.ExecuteToolResponse(success=True)
        if kind == "any":
            response.result.type_url = "type.googleapis.com/snakepit.float"
            response.result.value = what.encode()
        if kind == "packed":
            from google.protobuf.wrappers_pb2 import StringValue

            response.result.Pack(StringValue(value=what))
        if kind == "binary":
            response.binary_result = what.encode()
        return response

    def ExecuteStreamingTool(self, request: Any, context: Any) -> Iterator[Any]:
        kind, _, what = request.tool_name.partition(":")
        yield pb2.ToolChunk(chunk_id="1", data=b'{"n": 1}')
        if kind == "failure":
            context.abort(grpc.StatusCode.INTERNAL, FAILURES[what])
        if kind == "status":
            context.abort(
                next(c for c in grpc.StatusCode if c.value[0] == int(what)), f"status {what}"
            )
        if kind == "data":
            yield pb2.ToolChunk(chunk_id="2", data=what.encode(), is_final=True)


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(4))
    pb2_grpc.add_BridgeServiceServicer_to_server(Foreign(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    path = os.environ["SNAKEPIT_READY_FILE"]
    with open(path + ".tmp", "w", encoding="ascii") as file:
        file.write(str(port))
    os.rename(path + ".tmp", path)
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    os._exit(0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])
    main()
