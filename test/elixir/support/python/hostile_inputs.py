"""Workers over gRPC that ask for inputs as they should not, as the tool's name says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from snakepit_test_tools import TestTools

from snakepit_bridge.worker.grpc_service import BridgeService


def _badly(self: Any, messages: Iterator[Any], context: Any) -> Iterator[Any]:
    output = self._pb2.ToolOutput
    request = next(messages).request
    done = self._pb2.ExecuteToolResponse(success=True)
    if request.tool_name == "max":
        yield output(input_credit=2**32 - 1)
        next(messages)  # nothing comes
    elif request.tool_name == "seventeen":
        yield output(input_credit=17)
        while True:
            next(messages)
    elif request.tool_name == "blindly":
        while context.is_active():  # and reads none
            yield output(input_credit=1)
    elif request.tool_name == "strays":
        for _ in range(1000):
            yield output(input_credit=0)
            yield output(chunk=self._pb2.ToolChunk(data=b"1"))
            yield output()
        yield output(response=done)
        yield output(response=self._pb2.ExecuteToolResponse(error_message="twice"))
        yield output(input_credit=16)
    elif request.tool_name == "no_response":
        yield output(input_credit=1)


BridgeService.execute_interactive_tool = _badly  # type: ignore[method-assign]


class Tools(TestTools):
    pass
