"""The way back to the BEAM: alone, and from a tool in a worker."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Iterator
from typing import Any, Callable

import beam as beams
import grpc
import pytest
from harness import PATIENCE, ToolFailed
from samples import EDGE_CASES, EDGE_IDS, exactly_equal

from snakepit_bridge import SessionContext
from snakepit_bridge.elixir_tools import ToolAnswer, failed
from snakepit_bridge.errors import BridgeError, ElixirToolError
from snakepit_bridge.worker.beam import BeamLink


@pytest.fixture
def beam(proto_path: str) -> Iterator[beams.Beam]:
    with beams.serving() as served:
        yield served


@pytest.fixture
def context(beam: beams.Beam) -> Iterator[SessionContext]:
    link = BeamLink(beam.address)
    yield SessionContext(None, "s1", {"correlation_id": "sp-7"}, connect=link.stub)
    link.close()


def test_both_forms_of_a_call(context: SessionContext, beam: beams.Beam) -> None:
    assert context.call_elixir_tool("add", {"a": 1, "b": 2}) == 3
    assert context.call_elixir_tool("add", a=1, b=2) == 3
    assert context.call_elixir_tool("add", {"a": 1}, b=2**80) == 2**80 + 1
    assert context.call_elixir_tool("echo", {"name": 1}, arguments=2) == {
        "name": 1,
        "arguments": 2,
    }
    assert beam.requests[-1].session_id == "s1"
    assert beam.headers[-1]["x-snakepit-correlation-id"] == "sp-7"
    assert beam.names() == ["ExecuteElixirToolRequest"] * 4  # nothing is asked before


@pytest.mark.parametrize("value", EDGE_CASES, ids=EDGE_IDS)
def test_values_pass_exactly(context: SessionContext, value: Any) -> None:
    answer = context.call_elixir_tool("echo", {"value": value})
    assert exactly_equal(answer, {"value": value})


def test_binary_results(context: SessionContext) -> None:
    assert context.call_elixir_tool("bytes") == b"\0"


def test_failures(context: SessionContext) -> None:
    with pytest.raises(RuntimeError, match="'fail' failed: it is broken"):
        context.call_elixir_tool("fail")
    with pytest.raises(ValueError, match=r"exposes no tool 'none' .* add, bytes, echo, fail"):
        context.call_elixir_tool("none")


def test_elixir_tools(context: SessionContext, beam: beams.Beam) -> None:
    assert context.elixir_tools["add"] == {
        "name": "add",
        "description": "adds",
        "parameters": {"a": {"type": "number", "description": "", "required": True}},
    }
    assert len(context.elixir_tools) == 4
    assert len(beam.requests) == 1


def test_without_a_beam(proto_path: str) -> None:
    nowhere = SessionContext(None, "s1")
    assert nowhere.elixir_tools == {}
    with pytest.raises(BridgeError, match="no connection to the BEAM"):
        nowhere.call_elixir_tool("add")
    nowhere.cleanup()
    unknown = SessionContext(None, "s1", connect=BeamLink("").stub)
    with pytest.raises(BridgeError, match="--elixir-address"):
        unknown.call_elixir_tool("add")
    refused = SessionContext(None, "s1", connect=BeamLink("127.0.0.1:1").stub)
    with pytest.raises(RuntimeError, match="tool 'add': UNAVAILABLE"):
        refused.call_elixir_tool("add")


def test_context_manager_deletes_the_session(context: SessionContext, beam: beams.Beam) -> None:
    with context as same:
        assert same is context
    assert beam.names() == ["CleanupSessionRequest"]


def test_deadline_and_cancellation() -> None:
    plain = SessionContext(None, "s1")
    assert plain.time_remaining() is None
    assert plain.cancelled is False
    assert plain.correlation_id == ""
    bounded = SessionContext(
        None, "s1", deadline=time.monotonic() + 1000, is_cancelled=lambda: True
    )
    remaining = bounded.time_remaining()
    assert remaining is not None
    assert 0 < remaining <= 1000
    assert bounded.cancelled is True
    assert SessionContext(None, "s1", deadline=time.monotonic() - 1).time_remaining() == 0.0


# ---- from a worker --------------------------------------------------------------


def test_a_worker_dials_only_when_a_tool_calls(
    start_worker: Callable[..., Any], beam: beams.Beam
) -> None:
    worker = start_worker("snakepit_bridge.adapters.showcase", "--elixir-address", beam.address)
    worker.call("ping")
    assert beam.requests == []
    answer = worker.call("call_elixir_demo", {"tool_name": "add", "a": 1, "b": 2}, session="mine")
    assert answer == {"tool": "add", "result": 3}
    assert beam.requests[-1].session_id == "mine"
    assert worker.call("list_elixir_tools") == {"tools": ["add", "bytes", "echo", "fail"]}
    with pytest.raises(ToolFailed, match="ElixirToolError: Elixir tool 'fail' failed"):
        worker.call("call_elixir_demo", {"tool_name": "fail"})


def test_a_worker_forwards_what_is_the_beams(
    start_worker: Callable[..., Any], beam: beams.Beam
) -> None:
    worker = start_worker("tools", env={"SNAKEPIT_GRPC_ADDRESS": beam.address})
    pb2, stub = worker.pb2, worker.stub
    assert stub.InitializeSession(
        pb2.InitializeSessionRequest(session_id="s"), timeout=PATIENCE
    ).success
    assert stub.CleanupSession(
        pb2.CleanupSessionRequest(session_id="s"), timeout=PATIENCE
    ).resources_cleaned
    beam.valid = False
    answer = stub.Heartbeat(pb2.HeartbeatRequest(session_id="s"), timeout=PATIENCE)
    assert answer.session_valid is False
    with pytest.raises(grpc.RpcError) as error:
        stub.GetSession(pb2.GetSessionRequest(session_id="s"), timeout=PATIENCE)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    assert error.value.details() == "no such session"


def test_only_adapters_with_their_own_registration_register(
    start_worker: Callable[..., Any], beam: beams.Beam
) -> None:
    worker = start_worker("registers", "--elixir-address", beam.address)
    for _ in range(3):
        assert worker.call("hello", session="a") == "hello"
    assert worker.call("hello", session="b") == "hello"
    assert beam.names() == ["RegisterToolsRequest"] * 2
    assert [request.session_id for request in beam.requests] == ["a", "b"]
    # A session's tools end with it.
    assert worker.call("snakepit.sessions.end", {"sessions": ["a", "never", 7]}) == 0
    for session in ["a", "b", "a"]:
        assert worker.call("hello", session=session) == "hello"
    assert [request.session_id for request in beam.requests] == ["a", "b", "a"]


# ---- what failures say ------------------------------------------------------------


def failed_with(details: Any) -> ElixirToolError:
    answer = ToolAnswer(False, message="m", details=details)
    return failed("t", answer)


def test_the_details_of_a_failure() -> None:
    error = failed_with(
        '{"type":"ArgumentError","kind":"error","message":"m","stacktrace":["a.ex:1: A.b/1"],'
        '"python":{"type":"KeyError","message":"k","traceback":"Traceback\\nKeyError: k\\n"}}'
    )
    assert str(error) == "Elixir tool 't' failed: ArgumentError: m"
    assert (error.tool, error.type, error.kind) == ("t", "ArgumentError", "error")
    assert error.stacktrace == ["a.ex:1: A.b/1"]
    assert (error.python_type, error.python_traceback) == ("KeyError", "Traceback\nKeyError: k\n")
    text = "".join(traceback.format_exception(type(error), error, None))
    assert "KeyError: k" in text
    assert "a.ex:1: A.b/1" in text


@pytest.mark.parametrize(
    "details", ["", "{", "[]", "1", '{"stacktrace":1,"python":[]}', '{"type":null,"kind":7}']
)
def test_details_that_are_none(details: str) -> None:
    error = failed_with(details)
    assert str(error).startswith("Elixir tool 't' failed: ")
    assert error.stacktrace == []
    assert error.__cause__ is None


def test_answers_of_tools() -> None:
    assert ToolAnswer(True, 1).result() == 1
    assert ToolAnswer(True, None, b"x").result() == b"x"
    assert ToolAnswer(True, {}, b"x").result() == b"x"
    assert ToolAnswer(True, {"a": 1}, b"x").result() == (b"x", {"a": 1})


def test_tools_as_attributes(context: SessionContext) -> None:
    assert context.elixir.add(a=1, b=2) == 3
    assert context.elixir["add"]({"a": 1, "b": 2}) == 3
    assert dir(context.elixir) == ["add", "bytes", "echo", "fail"]
    assert repr(context.elixir.add) == "<Elixir tool 'add'>"
    with pytest.raises(AttributeError):
        _ = context.elixir.__wrapped__


def test_coroutines_over_grpc(context: SessionContext) -> None:
    async def run() -> list[Any]:
        calls = (context.call_elixir_tool_async("add", a=i, b=1) for i in range(20))
        return await asyncio.gather(*calls, context.elixir.add.call_async(a=20, b=1))

    assert asyncio.run(run()) == list(range(1, 22))

    async def fails() -> None:
        await context.call_elixir_tool_async("fail")

    with pytest.raises(ElixirToolError, match="it is broken"):
        asyncio.run(fails())
