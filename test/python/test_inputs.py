"""Tools that read inputs: how they declare it, and both carriers without a BEAM."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from harness import PATIENCE, ToolFailed, Worker
from local_peer import ANSWER, CHUNK, INPUT, INPUT_CREDIT, LocalWorker, build_extension

from snakepit_bridge import BaseAdapter, Inputs, _values, tool
from snakepit_bridge.dispatch import find_tool
from snakepit_bridge.errors import ToolArgumentError
from snakepit_bridge.registration import registrations

# ---- declarations --------------------------------------------------------------


class Adapter(BaseAdapter):
    @tool
    def named(self, window: int, inputs: Any) -> Any:
        return [window, inputs]

    @tool
    def annotated(self, ctx: Any, rows: Inputs, limit: int = 3) -> Any:
        return [ctx, rows, limit]

    @tool
    def renamed(self, rows: Optional[int] = None, *, more: Inputs) -> Any:
        return [rows, more]

    @tool(inputs=True)
    def declared(self, ctx: Any) -> Any:
        return ctx

    @tool(inputs=True)
    def both(self, inputs: Any) -> Any:
        return inputs

    @tool
    def optional(self, inputs: Optional[Inputs] = None) -> Any:
        return inputs

    @tool
    def optional_rows(self, rows: Optional[Inputs] = None) -> Any:
        return rows

    @tool
    def tables(self, rows: dict[str, Inputs]) -> Any:
        """Not what is declared."""
        return rows

    @tool
    def none(self, a: int) -> int:
        return a

    @tool
    def anything(self, **arguments: Any) -> Any:
        return arguments

    def execute_command(self, args: dict[str, Any], inputs: Any) -> Any:
        return [args, inputs]


class Source:
    """Inputs from a list, where None is one that has not come yet."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.waits = 0

    def poll_input(self, none: Any) -> Any:
        if not self.items:
            raise StopIteration
        value = self.items.pop(0)
        return none if value is None else value

    def await_input(self) -> None:
        self.waits += 1


def make(items: list[Any]) -> tuple[Inputs, Source]:
    source = Source(items)
    return Inputs(source, lambda wait: wait(), lambda: None), source


def call(name: str, inputs: Optional[Inputs] = None, /, **arguments: Any) -> Any:
    return find_tool(Adapter(), name).call(arguments, "context", None, None, inputs)


def test_a_parameter_takes_the_inputs() -> None:
    inputs, _ = make([])
    assert call("named", inputs, window=5) == [5, inputs]
    assert call("annotated", inputs) == ["context", inputs, 3]
    assert call("renamed", inputs, rows=1) == [1, inputs]
    assert call("declared", inputs) == "context"
    assert call("both", inputs) is inputs
    assert call("optional", inputs) is inputs
    assert call("optional_rows", inputs) is inputs
    assert call("command", inputs, a=1) == [{"a": 1}, inputs]


def test_without_inputs_the_name_is_an_ordinary_one() -> None:
    assert call("named", window=5, inputs=[1]) == [5, [1]]
    assert call("optional") is None
    assert call("optional_rows") is None
    assert call("declared") == "context"


@pytest.mark.parametrize("name", ["annotated", "renamed", "both"])
def test_declared_inputs_have_to_come(name: str) -> None:
    with pytest.raises(ToolArgumentError, match="option inputs:"):
        call(name)


@pytest.mark.parametrize("name", ["none", "anything", "tables"])
def test_who_declares_none_gets_none(name: str) -> None:
    with pytest.raises(ToolArgumentError, match="reads no inputs"):
        call(name, make([])[0], a=1)


def test_an_argument_of_that_name_as_well() -> None:
    with pytest.raises(ToolArgumentError, match="'inputs'"):
        call("named", make([])[0], window=1, inputs=[2])
    with pytest.raises(ToolArgumentError, match="'rows'"):
        call("annotated", rows=[2])


def test_a_parameter_that_does_not_fit_is_still_told() -> None:
    with pytest.raises(ToolArgumentError, match="'window'"):
        call("named", make([])[0])
    with pytest.raises(ToolArgumentError, match="'other'"):
        call("both", make([])[0], other=1)


def test_what_is_registered(proto_path: str) -> None:
    parameters = {
        found.name: [p.name for p in found.parameters] for found in registrations(Adapter())
    }
    assert parameters["annotated"] == ["limit"]
    assert parameters["renamed"] == ["rows"]
    assert parameters["both"] == []
    # By its name alone it may be an argument.
    assert parameters["named"] == ["window", "inputs"]


# ---- reading -------------------------------------------------------------------


def test_reading_waits_and_ends() -> None:
    inputs, source = make([1, None, 2, None, None, 3])
    assert list(inputs) == [1, 2, 3]
    assert source.waits == 3
    assert list(inputs) == []


def test_reading_in_a_coroutine() -> None:
    async def read(inputs: Inputs) -> list[Any]:
        return [value async for value in inputs]

    inputs, source = make([1, None, 2, None, 3])
    assert asyncio.run(read(inputs)) == [1, 2, 3]
    assert source.waits == 2


# ---- over shared memory --------------------------------------------------------


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory, proto_path: str) -> str:
    return build_extension(tmp_path_factory.mktemp("extension"))


@pytest.fixture
def local(extension: str, tmp_path: Path) -> Iterator[LocalWorker]:
    worker = LocalWorker("inputs:Tools", tmp_path, proto_path=extension)
    yield worker
    worker.kill()


def test_asks_as_it_takes(local: LocalWorker) -> None:
    number = local.start("total", {}, inputs=True)
    assert local.wanted(number) == 16
    for n in range(16):
        local.input(number, n)
    assert local.wanted(number) == 8
    assert local.wanted(number) == 8
    local.end_inputs(number)
    assert local.value(number) == 120
    assert number not in local.frames


def test_asks_for_none_when_it_does_not_read(local: LocalWorker) -> None:
    number = local.start("ignores", {}, inputs=True)
    assert local.take(number)[0] == ANSWER


def test_a_tool_without_inputs_says_so(local: LocalWorker) -> None:
    with pytest.raises(ToolFailed, match="reads no inputs"):
        local.value(local.start("plain", {}, inputs=True))


def test_an_input_that_is_no_value_is_the_tools_exception(local: LocalWorker) -> None:
    number = local.start("total", {}, inputs=True)
    assert local.wanted(number) == 16
    local.send(INPUT, number, b"\xa2\x06\x01\x1c")
    with pytest.raises(ToolFailed, match="DecodeError"):
        local.value(number)


def test_cancellation_reaches_the_read(local: LocalWorker) -> None:
    number = local.start("total", {}, inputs=True)
    assert local.wanted(number) == 16
    local.input(number, 1)
    local.cancel(number)
    assert not local.answer(number).success
    assert local.call("last_end") == "ToolCancelled"


def test_inputs_for_calls_that_are_over_are_dropped(local: LocalWorker) -> None:
    number = local.start("ignores", {}, inputs=True)
    assert local.take(number)[0] == ANSWER
    local.input(number, 1)
    local.end_inputs(number)
    local.input(777, 1)
    assert local.call("last_end") == "none"


@pytest.mark.parametrize("wrong", ["unasked", "too_many", "after_the_end", "garbage"])
def test_a_beam_that_breaks_the_rules_loses_the_worker(local: LocalWorker, wrong: str) -> None:
    if wrong == "unasked":
        number = local.start("plain_wait", {}, inputs=True, stream=True)
        assert local.take(number)[0] == CHUNK
        local.input(number, 1)
    else:
        number = local.start("asks", {}, inputs=True)
        assert local.take(number)[0] == INPUT_CREDIT
        if wrong == "too_many":
            for n in range(17):
                local.input(number, n)
        elif wrong == "after_the_end":
            local.input(number, 1)
            local.end_inputs(number)
            local.input(number, 1)
        else:
            local.send(INPUT, number, b"\xff\xff")
    assert local.end() == 1
    assert "an input that is no ToolChunk or was not asked for" in local.log


def test_a_wait_that_is_left_behind_ends_with_its_call(local: LocalWorker) -> None:
    for _ in range(3):
        number = local.start("leaves_a_wait", {}, inputs=True)
        assert local.wanted(number) == 16
        assert local.value(number) == "left"
    assert local.call("last_end") == "none"
    local.process.terminate()
    assert local.end() == 0


# ---- over gRPC -----------------------------------------------------------------


class Messages:
    """What is sent, as it is put in."""

    def __init__(self, worker: Worker, tool_name: str, stream: bool = False) -> None:
        self.pb2 = worker.pb2
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        request = worker.request(tool_name)
        request.stream = stream
        self.queue.put(self.pb2.ToolInput(request=request))
        self.call = worker.stub.ExecuteInteractiveTool(
            iter(self.queue.get, None), timeout=PATIENCE
        )

    def input(self, value: Any) -> None:
        chunk = self.pb2.ToolChunk(data=_values.dumps(value))
        self.queue.put(self.pb2.ToolInput(chunk=chunk))

    def end(self) -> None:
        self.queue.put(self.pb2.ToolInput(chunk=self.pb2.ToolChunk(is_final=True)))
        self.queue.put(None)

    def next(self) -> Any:
        output = next(self.call)
        return getattr(output, output.WhichOneof("output"))


@pytest.fixture
def remote(tmp_path: Path, proto_path: str) -> Iterator[Worker]:
    worker = Worker("inputs:Tools", tmp_path, env={"SNAKEPIT_PROTO_PATH": proto_path})
    yield worker.connect()
    worker.kill()


def test_grpc_asks_as_it_takes(remote: Worker) -> None:
    call = Messages(remote, "total")
    assert call.next() == 16
    for n in range(16):
        call.input(n)
    asked = 0
    while asked < 16:
        asked += call.next()
    assert asked == 16
    call.end()
    response = call.next()
    assert response.success
    assert _values.loads(response.result.value) == 120
    assert list(call.call) == []


def test_grpc_chunks_and_the_end(remote: Worker) -> None:
    call = Messages(remote, "each", stream=True)
    assert call.next() == 16
    call.input({"a": [1]})
    assert _values.loads(call.next().data) == {"a": [1]}
    call.input(None)
    call.end()
    final = [call.next() for _ in range(3)]
    assert [final[0].data, final[1].is_final, final[2].success] == [b"", True, True]
    assert list(call.call) == []


def test_grpc_errors(remote: Worker) -> None:
    call = Messages(remote, "plain")
    response = call.next()
    assert not response.success
    assert "reads no inputs" in response.error_message


def test_grpc_cancellation_is_no_end(remote: Worker) -> None:
    call = Messages(remote, "total")
    assert call.next() == 16
    call.input(1)
    call.call.cancel()
    call.queue.put(None)
    assert remote.call("last_end") == "ToolCancelled"


def test_grpc_messages_that_just_end_are_no_end(remote: Worker) -> None:
    call = Messages(remote, "total")
    assert call.next() == 16
    call.input(1)
    call.queue.put(None)
    response = call.next()
    assert not response.success
    assert "broke off" in response.error_message


def test_grpc_without_a_request(remote: Worker) -> None:
    call = remote.stub.ExecuteInteractiveTool(iter([]), timeout=PATIENCE)
    with pytest.raises(Exception, match="the first message has to hold the request"):
        next(call)
