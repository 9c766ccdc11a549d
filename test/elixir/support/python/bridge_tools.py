"""Tools for clients of the BEAM's gRPC server, and clients inside a worker."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snakepit_bridge import BaseAdapter, auth, tool


class BridgeTools(BaseAdapter):
    @tool("Registers all of these in the session")
    def register(self, ctx: Any) -> list[str]:
        return sorted(self.register_with_session(ctx.session_id, ctx.stub))

    @tool("What a worker is told of the server")
    def told(self) -> list[Any]:
        return [os.environ.get("SNAKEPIT_GRPC_ADDRESS"), auth.token(), list(auth.metadata())]

    @tool("Calls an Elixir tool")
    def call(self, ctx: Any, name: str) -> Any:
        return ctx.call_elixir_tool(name)

    @tool("Runs a client of its own, in a process below this one, without the token")
    def stand_alone(self, program: str, session: str, path: str, scenario: str) -> list[Any]:
        environment = {**os.environ, "PYTHONPATH": path}
        del environment["SNAKEPIT_GRPC_TOKEN"]
        address = environment["SNAKEPIT_GRPC_ADDRESS"]
        done = subprocess.run(
            [sys.executable, program, address, session, scenario],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return [done.returncode, done.stdout]

    @tool("Gives back what it got")
    def plain(self, x: Any) -> Any:
        return x

    @tool("Chunks of all kinds", supports_streaming=True)
    def various(self) -> Iterator[Any]:
        yield {"a": [1, 2.5, None]}
        yield [1]
        yield 3
        yield "text"
        yield b"\x00\xff"
        yield None

    @tool("Many chunks", supports_streaming=True)
    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    @tool("Fails after a chunk", supports_streaming=True)
    def breaks(self) -> Iterator[int]:
        yield 1
        raise ValueError("on purpose")

    @tool("Does not end", supports_streaming=True)
    def endless(self, path: str) -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            Path(path).touch()
