"""A worker as a real process, driven by plain grpcio and generated code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

from snakepit_bridge import _values

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent.parent / "priv" / "python"
STRING_URL = "type.googleapis.com/google.protobuf.StringValue"
PATIENCE = 60.0


class ToolFailed(Exception):
    """A reply with success=false; ``report`` is its JSON."""

    def __init__(self, text: str) -> None:
        self.report = json.loads(text)
        super().__init__(f"{self.report['type']}: {self.report['message']}")


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"waited {PATIENCE} s for {what}")


def environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join((str(PACKAGE), str(HERE / "adapters")))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("GRPC_")}
    return {**inherited, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **extra}


def run_python(*arguments: str, **env: str) -> Any:
    """Runs a program to its end."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def run_script(*arguments: str, script: str = "grpc_server.py", **env: str) -> Any:
    """Runs the entry script to its end."""
    return run_python(str(PACKAGE / script), *arguments, **env)


class Worker:
    def __init__(
        self,
        adapter: str,
        directory: Path,
        arguments: tuple[str, ...] = (),
        script: str = "grpc_server.py",
        env: Optional[dict[str, str]] = None,
    ) -> None:
        self.ready_file = directory / "ready"
        self.log_file = directory / "log"
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(PACKAGE / script), "--adapter", adapter, *arguments],
                env=environment(SNAKEPIT_READY_FILE=str(self.ready_file), **(env or {})),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.channel: Any = None

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def port(self) -> int:
        return int(self.ready_file.read_text())

    def connect(self) -> Worker:
        import grpc  # not there for every interpreter: shared memory does without
        import snakepit_bridge_pb2
        import snakepit_bridge_pb2_grpc

        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the worker ended at start:\n{self.log}")
            return self.ready_file.exists()

        wait_until(ready, "the ready file")
        self.pb2 = snakepit_bridge_pb2
        options = (
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_http_proxy", 0),
        )
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options)
        self.stub = snakepit_bridge_pb2_grpc.BridgeServiceStub(self.channel)
        return self

    def kill(self) -> None:
        if self.channel is not None:
            self.channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def request(
        self,
        tool: str,
        arguments: Optional[dict[str, Any]] = None,
        session: str = "session_1",
        metadata: Optional[dict[str, str]] = None,
        binaries: Optional[dict[str, bytes]] = None,
    ) -> Any:
        request = self.pb2.ExecuteToolRequest(
            session_id=session,
            tool_name=tool,
            metadata=metadata or {},
            binary_parameters=binaries or {},
        )
        for name, value in (arguments or {}).items():
            request.parameters[name].type_url = STRING_URL
            request.parameters[name].value = _values.dumps(value)
        return request

    def reply(self, tool: str, arguments: Optional[dict[str, Any]] = None, **extra: Any) -> Any:
        return self.stub.ExecuteTool(self.request(tool, arguments, **extra), timeout=PATIENCE)

    def call(self, tool: str, arguments: Optional[dict[str, Any]] = None, **extra: Any) -> Any:
        """The value, or ToolFailed."""
        reply = self.reply(tool, arguments, **extra)
        if not reply.success:
            raise ToolFailed(reply.error_message)
        return _values.loads(reply.result.value)

    def start(
        self,
        tool: str,
        arguments: Optional[dict[str, Any]] = None,
        call_id: str = "",
        **extra: Any,
    ) -> Any:
        """A unary call in flight."""
        return self.stub.ExecuteTool.future(
            self.request(tool, arguments, **extra), timeout=PATIENCE, metadata=_header(call_id)
        )

    def stream(
        self,
        tool: str,
        arguments: Optional[dict[str, Any]] = None,
        call_id: str = "",
        **extra: Any,
    ) -> Any:
        """The call of a stream: iterate for chunks."""
        request = self.request(tool, arguments, **extra)
        request.stream = True
        return self.stub.ExecuteStreamingTool(
            request, timeout=PATIENCE, metadata=_header(call_id)
        )

    def items(self, tool: str, arguments: Optional[dict[str, Any]] = None, **extra: Any) -> Any:
        """Values of all chunks; checks ids and that exactly the last one is final."""
        chunks = list(self.stream(tool, arguments, **extra))
        assert [c.chunk_id for c in chunks] == [f"{tool}-{n}" for n in range(1, len(chunks) + 1)]
        assert [c.is_final for c in chunks] == [False] * (len(chunks) - 1) + [True]
        return [_values.loads(c.data) for c in chunks if c.data]

    def ping_when_over(self, call_id: str) -> Any:
        return self.stub.Ping(
            self.pb2.PingRequest(message="over"),
            timeout=PATIENCE,
            metadata=(("x-snakepit-await-call", call_id),),
        )


def first(stream: Any) -> Any:
    """The first chunk: then the tool runs."""
    return _values.loads(next(stream).data)


def values_of(stream: Iterator[Any]) -> list[Any]:
    return [_values.loads(chunk.data) for chunk in stream if chunk.data]


def _header(call_id: str) -> tuple[tuple[str, str], ...]:
    return (("x-snakepit-call-id", call_id),) if call_id else ()
