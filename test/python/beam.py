"""A BEAM for the tests: serves BridgeService with plain grpcio."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any, Optional

import grpc

from snakepit_bridge import _values

JSON_URL = "type.googleapis.com/google.protobuf.StringValue"


class Beam:
    """Tools: ``add`` and ``echo`` work, ``fail`` fails, ``bytes`` answers with bytes."""

    def __init__(self) -> None:
        import snakepit_bridge_pb2 as pb2

        self.pb2 = pb2
        self.requests: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.valid: Optional[bool] = True
        self.address = ""

    def names(self) -> list[str]:
        return [type(request).__name__ for request in self.requests]

    def _note(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.headers.append(dict(context.invocation_metadata()))

    def GetExposedElixirTools(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        parameter = self.pb2.ParameterSpec(name="a", type="number", required=True)
        return self.pb2.GetExposedElixirToolsResponse(
            tools=[
                self.pb2.ToolSpec(name="add", description="adds", parameters=[parameter]),
                *(self.pb2.ToolSpec(name=name) for name in ("echo", "fail", "bytes")),
            ]
        )

    def ExecuteElixirTool(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        arguments = {k: _values.loads(v.value) for k, v in request.parameters.items()}
        assert all(v.type_url == JSON_URL for v in request.parameters.values())
        if request.tool_name not in ("add", "echo", "fail", "bytes"):
            return self.pb2.ExecuteElixirToolResponse(error_message="there is no such tool")
        if request.tool_name == "fail":
            return self.pb2.ExecuteElixirToolResponse(error_message="it is broken")
        if request.tool_name == "bytes":
            response = self.pb2.ExecuteElixirToolResponse(success=True, binary_result=b"\0")
            response.result.value = b"{}"
            return response
        result = arguments["a"] + arguments["b"] if request.tool_name == "add" else arguments
        response = self.pb2.ExecuteElixirToolResponse(success=True)
        response.result.type_url = JSON_URL
        response.result.value = _values.dumps(result)
        return response

    def Heartbeat(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        if self.valid is None:
            context.abort(grpc.StatusCode.INTERNAL, "told to fail")
        return self.pb2.HeartbeatResponse(session_valid=self.valid)

    def CleanupSession(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        return self.pb2.CleanupSessionResponse(success=True, resources_cleaned=1)

    def InitializeSession(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        return self.pb2.InitializeSessionResponse(success=True)

    def GetSession(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        return context.abort(grpc.StatusCode.NOT_FOUND, "no such session")

    def RegisterTools(self, request: Any, context: Any) -> Any:
        self._note(request, context)
        ids = {t.name: f"{request.session_id}:{t.name}" for t in request.tools}
        return self.pb2.RegisterToolsResponse(success=True, tool_ids=ids)


@contextmanager
def serving() -> Iterator[Beam]:
    import snakepit_bridge_pb2_grpc

    beam = Beam()
    server = grpc.server(futures.ThreadPoolExecutor(4))

    class Servicer(snakepit_bridge_pb2_grpc.BridgeServiceServicer):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            return getattr(beam, name, None) or super().__getattribute__(name)

    snakepit_bridge_pb2_grpc.add_BridgeServiceServicer_to_server(Servicer(), server)
    beam.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield beam
    finally:
        server.stop(0).wait()
