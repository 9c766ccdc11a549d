"""Tools of every style, hooks, errors and streams through a real worker."""

from __future__ import annotations

import json
from typing import Any, Callable

import grpc
import pytest
from harness import PATIENCE, ToolFailed, values_of


def test_styles_of_tools(tools: Any) -> None:
    assert tools.call("by_dict", {"b": 1, "a": 2}) == ["a", "b"]
    assert tools.call("coroutine", {"value": 1}) == 2
    assert tools.call("old_style", {"x": 1}) == {"old": {"x": 1}}
    assert tools.call("with_ctx", {"batch_size": 3}, session="s9") == {
        "batch_size": 3,
        "session": "s9",
    }


def test_the_context_knows_the_call(tools: Any) -> None:
    context = tools.call("context", session="mine", metadata={"correlation_id": "sp-1"})
    assert context == {
        "session_id": "mine",
        "own": "mine",
        "metadata": {"correlation_id": "sp-1"},
        "correlation_id": "sp-1",
        "cancelled": False,
        "has_deadline": True,
        "initialized": True,
    }


def test_correlation_id_from_the_header(tools: Any) -> None:
    reply = tools.stub.ExecuteTool(
        tools.request("context"), metadata=(("x-snakepit-correlation-id", "sp-2"),)
    )
    assert json.loads(reply.result.value)["correlation_id"] == "sp-2"
    assert json.loads(reply.result.value)["has_deadline"] is False


def test_execution_time_is_told(showcase: Any) -> None:
    reply = showcase.reply("sleep_task", {"duration_ms": 20})
    assert reply.execution_time_ms >= 19


def test_published_adapter_and_the_order_of_its_hooks(
    start_worker: Callable[..., Any],
) -> None:
    worker = start_worker("published.PublishedAdapter")
    hooks = ["__init__", "set_session_context", "initialize", "execute_tool"]
    assert worker.call("calls") == hooks
    assert worker.items("generator", {"count": 3}) == [0, 1, 2]
    assert worker.items("calls") == [hooks]
    chunks = list(worker.stream("text"))
    assert [c.data for c in chunks] == [b"abc", b""]
    with pytest.raises(ToolFailed, match="'generator' streams"):
        worker.call("generator", {"count": 3})
    with pytest.raises(ToolFailed, match="Unknown tool: other"):
        worker.call("other")


def test_an_adapter_may_add_to_the_dispatch(start_worker: Callable[..., Any]) -> None:
    worker = start_worker("published:OverridingAdapter")
    assert worker.call("own") == {"own": True}
    assert worker.call("later", {"x": 3}) == 3
    assert [c.data for c in worker.stream("sends", {"n": 2})] == [b"0", b"1", b"done"]
    with pytest.raises(ToolFailed, match="'sends' streams"):
        worker.call("sends", {"n": 2})
    with pytest.raises(ToolFailed, match="did you mean 'later'"):
        worker.call("latre")


def test_module_of_functions(start_worker: Callable[..., Any]) -> None:
    worker = start_worker("functions")
    assert worker.call("double", {"x": 2.5}) == 5.0
    assert worker.call("pairs", {"a": 1}) == {"session": "session_1", "named": {"a": 1}}
    assert worker.items("count", {"to": 3}) == [0, 1, 2]
    with pytest.raises(ToolFailed, match="no tool 'join'"):
        worker.call("join")


def test_streams_are_told_by_declaration(tools: Any) -> None:
    assert tools.call("reader") == {"rows": 3}
    assert tools.items("reader") == [{"rows": 3}]
    assert tools.items("declared_iterator") == [1, 2]
    with pytest.raises(ToolFailed, match="'declared_iterator' streams"):
        tools.call("declared_iterator")
    # A generator can be nothing else.
    assert tools.items("made_generator") == [0, 1]
    with pytest.raises(ToolFailed, match="'made_generator' streams"):
        tools.call("made_generator")


# ---- errors -----------------------------------------------------------------


def report_of(worker: Any, tool: str, arguments: Any = None, **extra: Any) -> Any:
    with pytest.raises(ToolFailed) as error:
        worker.call(tool, arguments, **extra)
    return error.value.report


def test_an_exception_is_described(tools: Any) -> None:
    report = report_of(tools, "raises", {"kind": "missing"}, session="s3")
    assert report["type"] == "ModuleNotFoundError"
    assert report["message"] == "no module"
    assert report["bases"] == ["ImportError", "Exception", "BaseException"]
    assert report["context"] == {"tool_name": "raises", "session_id": "s3"}
    assert report["traceback"] == "".join(report["stacktrace"])
    assert "tools.py" in report["traceback"]
    assert "snakepit_bridge" not in report["traceback"]


def test_known_arguments_are_in_the_context(tools: Any) -> None:
    report = report_of(
        tools, "nothing", {"library": "numpy", "function": "mean", "other": 1, "call_type": "m"}
    )
    assert report["context"]["library"] == "numpy"
    assert report["context"]["function"] == "mean"
    assert report["context"]["call_type"] == "m"
    assert "other" not in report["context"]


def test_a_chained_exception_names_its_cause(tools: Any) -> None:
    report = report_of(tools, "raises", {"kind": "chained"})
    assert (report["type"], report["message"]) == ("RuntimeError", "outer")
    cause = report["cause"]
    assert (cause["type"], cause["message"], cause["relation"]) == (
        "KeyError",
        "'inner'",
        "cause",
    )
    assert cause["attributes"] == {"args": ["inner"]}
    assert [frame["function"].rpartition(".")[2] for frame in cause["frames"]] == ["raises"]


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("unprintable", "Unprintable", "<Unprintable whose text cannot be had>"),
        ("exit", "SystemExit", "7"),
        ("surrogate", "ValueError", "bad \\udc80 text"),
        ("cancelled", "ToolCancelled", "not really"),
    ],
)
def test_odd_exceptions_are_errors_of_the_call(
    tools: Any, kind: str, name: str, message: str
) -> None:
    report = report_of(tools, "raises", {"kind": kind})
    assert (report["type"], report["message"]) == (name, message)
    assert tools.call("value", {"value": 1}) == 1


def test_unknown_tool_suggests_names(tools: Any) -> None:
    report = report_of(tools, "valeu")
    assert report["message"] == "Tools has no tool 'valeu'; did you mean 'value'?"
    assert "AttributeError" in report["bases"]
    assert "not_a_tool" not in report_of(tools, "q" * 50)["message"]
    report_of(tools, "not_a_tool")
    report_of(tools, "__init__")
    report_of(tools, "initialize")
    report_of(tools, "")


def test_arguments_that_do_not_fit(tools: Any) -> None:
    message = report_of(tools, "meet", {"name": "x"})["message"]
    assert message == "tool 'meet' needs the argument 'parties'; given: name"
    message = report_of(tools, "coroutine", {"value": 1, "extra": 2})["message"]
    assert message == "tool 'coroutine' does not take the argument 'extra'; it takes: value"


# ---- streams ------------------------------------------------------------------


def test_streams_of_every_kind(tools: Any) -> None:
    assert tools.items("async_stream", {"count": 3}) == [0, 1, 2]
    assert len(tools.items("many", {"count": 1000})) == 1000


def test_declaration_decides_what_streams(tools: Any) -> None:
    assert tools.items("plain_list") == [["a", "b"]]
    assert tools.items("declared_value") == [{"not": "iterated"}]
    assert tools.items("value", {"value": {"x": 1}}) == [{"x": 1}]
    for tool in ("chunks", "async_stream"):
        with pytest.raises(ToolFailed, match="streams: call it with execute_stream"):
            tools.call(tool, {"count": 1} if tool == "async_stream" else {})


def test_chunks_of_every_kind(tools: Any) -> None:
    chunks = list(tools.stream("chunks"))
    assert [c.data for c in chunks] == [b"\x00raw", b"text", b"", b'{"last":true}']
    assert [c.is_final for c in chunks] == [False, False, False, True]
    assert dict(chunks[0].metadata) == {"n": "1"}
    assert "after final" not in tools.call("log")


def test_an_unserializable_chunk_does_not_end_the_stream(tools: Any) -> None:
    [item] = tools.items("unserializable_chunk")
    assert item == {"lock": {"__ffi_unserializable__": True, "__type__": "_thread.lock"}}


def test_an_error_in_a_stream_carries_the_report(tools: Any) -> None:
    stream = tools.stream("fails_later")
    assert json.loads(next(stream).data) == 1
    with pytest.raises(grpc.RpcError) as error:
        list(stream)
    assert error.value.code() == grpc.StatusCode.INTERNAL
    details = error.value.details()
    assert len(details) < 6 * 1024
    report = json.loads(details)
    assert report["type"] == "KeyError"
    assert "[cut]" in report["message"]


def test_a_slow_reader_slows_the_tool_down(showcase: Any) -> None:
    stream = showcase.stream("infinite_stream", call_id="slow")
    read = [json.loads(next(stream).data)["index"] for _ in range(1000)]
    assert read == list(range(1000))
    stream.cancel()
    showcase.ping_when_over("slow")
    assert values_of(showcase.stream("stream_data", {"count": 1}))[0]["index"] == 0


def test_sessions_are_the_beams_business(tools: Any) -> None:
    with pytest.raises(grpc.RpcError) as error:
        tools.stub.GetSession(tools.pb2.GetSessionRequest(session_id="s"), timeout=PATIENCE)
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(grpc.RpcError) as error:
        tools.stub.RegisterTools(tools.pb2.RegisterToolsRequest(), timeout=PATIENCE)
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
