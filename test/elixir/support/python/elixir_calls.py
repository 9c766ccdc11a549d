"""Tools that call back to Elixir."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any, Optional

from snakepit_bridge import BaseAdapter, tool
from snakepit_bridge.base_adapter_threaded import ThreadSafeAdapter
from snakepit_bridge.errors import ElixirToolError


def _report(error: BaseException) -> dict[str, Any]:
    report: dict[str, Any] = {"class": type(error).__name__, "message": str(error)}
    report["bases"] = [base.__name__ for base in type(error).__mro__]
    if isinstance(error, ElixirToolError):
        for name in ("tool", "type", "kind", "stacktrace", "python_type", "python_traceback"):
            report[name] = getattr(error, name)
        report["cause"] = str(error.__cause__ or "")
    return report


class _Tools:
    @tool("The number of this process")
    def pid(self) -> int:
        return os.getpid()

    @tool("Calls an Elixir tool")
    def call(self, ctx: Any, name: str, args: Optional[dict[str, Any]] = None) -> Any:
        return ctx.call_elixir_tool(name, args)

    @tool("Calls an Elixir tool, from a coroutine")
    async def call_async(self, ctx: Any, name: str, args: Optional[dict[str, Any]] = None) -> Any:
        return await ctx.call_elixir_tool_async(name, args)

    @tool("What Python makes of the failure of an Elixir tool")
    def failure(self, ctx: Any, name: str, args: Optional[dict[str, Any]] = None) -> Any:
        try:
            return {"returned": ctx.call_elixir_tool(name, args)}
        except Exception as error:
            return _report(error)

    @tool("What Python makes of it in a coroutine")
    async def failure_async(
        self, ctx: Any, name: str, args: Optional[dict[str, Any]] = None
    ) -> Any:
        try:
            return {"returned": await ctx.call_elixir_tool_async(name, args)}
        except Exception as error:
            return _report(error)

    @tool("All ways to write a call")
    async def forms(self, ctx: Any) -> list[Any]:
        return [
            ctx.call_elixir_tool("pair", {"a": 1, "b": 2}),
            ctx.call_elixir_tool("pair", a=1, b=2),
            ctx.call_elixir_tool("pair", {"a": 1}, b=2),
            ctx.elixir.pair(a=1, b=2),
            ctx.elixir["pair"]({"a": 1, "b": 2}),
            await ctx.elixir.pair.call_async(a=1, b=2),
            await ctx.call_elixir_tool_async("pair", {"a": 1, "b": 2}),
        ]

    @tool("The tools that Elixir exposes")
    def listed(self, ctx: Any) -> Any:
        return {"tools": ctx.elixir_tools, "names": dir(ctx.elixir)}

    @tool("What the context says")
    def context(self, ctx: Any) -> dict[str, Any]:
        return {
            "session_id": ctx.session_id,
            "correlation_id": ctx.correlation_id,
            "remaining": ctx.remaining(),
            "time_remaining": ctx.time_remaining(),
            "has_deadline": ctx.deadline is not None,
            "cancelled": ctx.cancelled,
        }

    @tool("Many calls at the same time, in coroutines")
    async def gather(self, ctx: Any, name: str, count: int) -> list[Any]:
        calls = (ctx.call_elixir_tool_async(name, i=i, n=count) for i in range(count))
        return await asyncio.gather(*calls)

    @tool("The first of two wins, and the other is cancelled")
    async def race(self, ctx: Any, winner: str, loser: str) -> Any:
        tasks = [
            asyncio.ensure_future(ctx.call_elixir_tool_async(name)) for name in (winner, loser)
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        tasks[1].cancel()
        await asyncio.gather(tasks[1], return_exceptions=True)
        return [task.result() for task in done]

    @tool("Many calls at the same time, in threads of the tool's own")
    def threads(self, ctx: Any, name: str, count: int) -> list[Any]:
        results: list[Any] = [None] * count

        def run(i: int) -> None:
            results[i] = ctx.call_elixir_tool(name, i=i, n=count)

        workers = [threading.Thread(target=run, args=(i,)) for i in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return results

    @tool("Calls the Elixir tool of that name, which calls this again")
    def descend(self, ctx: Any, name: str, left: int) -> Any:
        return ctx.call_elixir_tool(name, left=left) if left > 0 else 0

    @tool("Raises")
    def fail(self, text: str) -> None:
        raise KeyError(text)

    @tool("Through the stub, as SnakeBridge does")
    def by_stub(self, ctx: Any, name: str, value: str) -> Any:
        import snakepit_bridge_pb2 as pb2

        request = pb2.ExecuteElixirToolRequest(session_id=ctx.session_id, tool_name=name)
        request.parameters["value"].type_url = "type.googleapis.com/google.protobuf.StringValue"
        request.parameters["value"].value = value.encode()
        answer = ctx.stub.ExecuteElixirTool(
            request, timeout=60, metadata=(("x-snakepit-correlation-id", "by-stub"),)
        )
        return {"success": answer.success, "value": answer.result.value, "ms": answer.metadata}

    @tool("The other methods of the stub")
    def service(self, ctx: Any) -> dict[str, Any]:
        import snakepit_bridge_pb2 as pb2

        stub, session = ctx.stub, ctx.session_id + "-own"
        began = stub.InitializeSession(pb2.InitializeSessionRequest(session_id=session))
        alive = stub.Heartbeat(pb2.HeartbeatRequest(session_id=session))
        got = stub.GetSession(pb2.GetSessionRequest(session_id=session))
        ended = stub.CleanupSession(pb2.CleanupSessionRequest(session_id=session))
        try:
            stub.GetSession(pb2.GetSessionRequest(session_id=session))
            code = None
        except Exception as error:
            code = error.code().name  # type: ignore[attr-defined]
        return {
            "pong": stub.Ping(pb2.PingRequest()).message,
            "began": began.success,
            "valid": alive.session_valid,
            "same": got.session_id == session,
            "ended": ended.success,
            "code": code,
        }

    @tool("A stub's time-out")
    def stub_times_out(self, ctx: Any, name: str, seconds: float) -> str:
        import snakepit_bridge_pb2 as pb2

        request = pb2.ExecuteElixirToolRequest(session_id=ctx.session_id, tool_name=name)
        import grpc

        try:
            ctx.stub.ExecuteElixirTool(request, timeout=seconds)
        except grpc.RpcError as error:
            return error.code().name  # type: ignore[no-any-return]
        return "no error"

    @tool("Registers the tools of this adapter")
    def register(self, ctx: Any) -> list[str]:
        return sorted(self.register_with_session(ctx.session_id, ctx.stub))  # type: ignore[attr-defined]

    @tool("Adds")
    def add(self, a: int, b: int) -> int:
        return a + b


class ElixirCalls(_Tools, BaseAdapter):
    __thread_safe__ = True  # the suite runs it in threads as well


class ThreadedElixirCalls(_Tools, ThreadSafeAdapter):
    pass
