"""What a worker tells of its tools before it serves."""

from __future__ import annotations

import importlib
from typing import Any, Callable

import beam
import cbor
import pytest
from harness import HERE
from local_peer import LocalWorker
from test_local import Start, extension, start  # noqa: F401
from test_local_requests import Asked, asked

from snakepit_bridge import BaseAdapter, tool
from snakepit_bridge.tool_specs import declared


class Made(BaseAdapter):
    def __init__(self) -> None:
        raise AssertionError("it was made to look at it")

    def __del__(self) -> None:
        raise AssertionError("half of one was made")

    @property
    def costly(self) -> Any:
        raise AssertionError("a property was asked")

    @tool(description="Adds")
    def add(self, ctx: Any, a: int, b: float = 0.5, *more: int, **named: int) -> float:
        return a + b

    @tool
    async def default(self, x: Any = print) -> None:
        """Has a default that is no data."""

    def execute_old(self, args: dict[str, Any]) -> Any:
        return args

    def helper(self, x: int) -> int:
        return x


class OnDict(dict):  # type: ignore[type-arg]
    @tool
    def add(self) -> None: ...


class Slots:
    __slots__ = ("x",)

    @tool
    def add(self) -> None: ...


class Dispatches:
    def execute_tool(self, tool_name: str, arguments: Any, context: Any) -> Any: ...

    def helper(self) -> None: ...


def test_nothing_of_a_class_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    add, default, old = declared(Made)
    assert add == {
        "name": "add",
        "description": "Adds",
        "parameters": [
            {"name": "a", "type": "int", "required": True},
            {
                "name": "b",
                "type": "float",
                "required": False,
                "validation_json": '{"default": 0.5}',
            },
        ],
        "metadata": {
            "adapter_class": "Made",
            "module": __name__,
            "required_variables": "",
        },
        "supports_streaming": False,
    }
    assert default["description"] == "Has a default that is no data."
    assert "__ffi_unserializable__" in default["parameters"][0]["validation_json"]
    assert old["name"] == "old"
    assert declared(Made) is declared(Made)
    assert "was made" not in capsys.readouterr().err


def test_adapters_of_other_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [spec["name"] for spec in declared(Slots)] == ["add"]
    assert declared(OnDict) == ()
    assert declared(Dispatches) == ()
    monkeypatch.syspath_prepend(str(HERE / "adapters"))
    functions = importlib.import_module("functions")
    names = [spec["name"] for spec in declared(functions)]
    assert names
    assert all(callable(getattr(functions, name)) for name in names)


def test_a_grpc_worker_tells_before_it_is_ready(start_worker: Callable[..., Any]) -> None:
    with beam.serving() as served:
        arguments = ("--elixir-address", served.address)
        worker = start_worker("lives.Session", *arguments, env=_named("w7"))
        # The BEAM of this test knows no such tool: the worker serves all the same.
        first = served.requests[0]
        assert first.tool_name == "snakepit.worker"
        assert first.metadata["worker_id"] == "w7"
        assert first.parameters["keeps_sessions"].value == b"true"
        assert b'"name":"count"' in first.parameters["tools"].value
        assert worker.call("count", session="a") == [1, 1, "a"]


def test_without_a_name_there_is_nobody_to_tell(start_worker: Callable[..., Any]) -> None:
    with beam.serving() as served:
        worker = start_worker("lives.Process", "--elixir-address", served.address, env=_named(""))
        assert worker.call("count", session="a") == [1, 1, "a"]
        assert "ExecuteElixirToolRequest" not in served.names()


def _named(worker_id: str) -> dict[str, str]:
    return {"SNAKEPIT_WORKER_ID": worker_id, "LIVES_LOG": "/dev/null"}


def test_a_local_worker_asks_again_until_the_beam_listens(
    start: Start,  # noqa: F811
) -> None:
    worker: LocalWorker = start("lives.Session", env=_named("w7"))
    for _ in range(3):
        asked(worker).refuse(14, "nobody serves the worker")
    request: Asked = asked(worker)
    assert request.tool.tool_name == "snakepit.worker"
    told = request.arguments()
    assert told["keeps_sessions"] is True
    assert {spec["name"] for spec in told["tools"]} >= {"count", "fail"}
    call = worker.start("count", {})
    request.reply(request.pb2.ExecuteElixirToolResponse(success=True, result_cbor=cbor.dumps({})))
    assert worker.value(call)[:2] == [1, 1]


def test_what_cannot_be_told_is_left_out(
    start: Start,  # noqa: F811
) -> None:
    worker: LocalWorker = start("odd_text.Odd", env=_named("w7"))
    request = asked(worker)
    assert request.arguments() == {"tools": [], "keeps_sessions": False}
    request.reply(request.pb2.ExecuteElixirToolResponse(success=True, result_cbor=cbor.dumps({})))
    assert worker.call("one") == 1
