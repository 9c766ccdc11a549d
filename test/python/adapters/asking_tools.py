"""Tools that call Elixir, for the tests of the local carrier alone."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any, Optional

from snakepit_bridge import BaseAdapter, tool
from snakepit_bridge.base_adapter_threaded import ThreadSafeAdapter


class _Tools:
    @tool
    def pid(self) -> int:
        return os.getpid()

    @tool
    def ask(self, ctx: Any, name: str, args: Optional[dict[str, Any]] = None) -> Any:
        return ctx.call_elixir_tool(name, args)

    @tool
    async def ask_async(self, ctx: Any, name: str, args: Optional[dict[str, Any]] = None) -> Any:
        return await ctx.call_elixir_tool_async(name, args)

    @tool
    def ask_in_thread(self, ctx: Any, name: str) -> Any:
        result: list[Any] = []
        thread = threading.Thread(target=lambda: result.append(ctx.call_elixir_tool(name)))
        thread.start()
        thread.join()
        return result[0]

    @tool
    def ask_itself(self, ctx: Any, name: str) -> Any:
        cycle: list[Any] = []
        cycle.append(cycle)
        return ctx.call_elixir_tool(name, value=cycle)

    @tool
    def ask_later(self, ctx: Any, name: str, path: str) -> None:
        def run() -> None:
            while not os.path.exists(path + ".go"):
                time.sleep(0.001)
            answer = ctx.call_elixir_tool(name)
            with open(path + ".tmp", "w", encoding="utf-8") as file:
                file.write(answer)
            os.rename(path + ".tmp", path)

        threading.Thread(target=run, daemon=True).start()

    @tool
    def wait_for(self, path: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.001)
        with open(path, encoding="utf-8") as file:
            return file.read()

    @tool
    async def gather(self, ctx: Any, name: str, count: int) -> list[Any]:
        calls = (ctx.call_elixir_tool_async(name, i=i) for i in range(count))
        return list(await asyncio.gather(*calls))

    @tool
    def threads(self, ctx: Any, name: str, count: int) -> list[Any]:
        results: list[Any] = [None] * count

        def run(i: int) -> None:
            results[i] = ctx.call_elixir_tool(name, i=i)

        workers = [threading.Thread(target=run, args=(i,)) for i in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return results

    @tool
    def ping_by_stub(self, ctx: Any, timeout: Optional[float] = None) -> str:
        import snakepit_bridge_pb2 as pb2

        try:
            return str(ctx.stub.Ping(pb2.PingRequest(message="hello"), timeout=timeout).message)
        except Exception as error:
            return f"{error.code().name}: {error.details()}"  # type: ignore[attr-defined]


class AskingTools(_Tools, BaseAdapter):
    pass


class ThreadedAskingTools(_Tools, ThreadSafeAdapter):
    pass
