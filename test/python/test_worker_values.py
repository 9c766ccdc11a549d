"""Values through a real worker."""

from __future__ import annotations

import math
import random
from typing import Any, Callable

import pytest
from harness import STRING_URL, ToolFailed
from samples import EDGE_CASES, EDGE_IDS, exactly_equal, random_value


@pytest.mark.parametrize("value", EDGE_CASES, ids=EDGE_IDS)
def test_edge_cases_come_back_exactly(tools: Any, value: Any) -> None:
    assert exactly_equal(tools.call("value", {"value": value}), value)


def test_random_values_come_back_exactly(tools: Any) -> None:
    source = random.Random(20260102)
    for _ in range(300):
        value = random_value(source)
        assert exactly_equal(tools.call("value", {"value": value}), value), value


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"),
        (True, "boolean"),
        (1, "integer"),
        (2**80, "integer"),
        (1.5, "float"),
        ("x", "string"),
        ([1], "list"),
        ({"a": 1}, "map"),
    ],
)
def test_results_name_their_type(tools: Any, value: Any, kind: str) -> None:
    reply = tools.reply("value", {"value": value})
    assert reply.result.type_url == f"type.googleapis.com/snakepit.{kind}"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1, "int:1"),
        (1.0, "float:1.0"),
        (b"\x00", "bytes:b'\\x00'"),
        ((1, [2]), "tuple:(1, [2])"),
        ({1: "a"}, "dict:{1: 'a'}"),
    ],
)
def test_arguments_arrive_as_they_were(tools: Any, value: Any, shown: str) -> None:
    assert tools.call("kind", {"value": value}) == shown


def test_floats_that_json_lacks(tools: Any) -> None:
    reply = tools.reply("value", {"value": None})
    assert reply.result.value == b"null"
    request = tools.request("value")
    request.parameters["value"].type_url = "type.googleapis.com/snakepit.float"
    request.parameters["value"].value = b'"Infinity"'
    reply = tools.stub.ExecuteTool(request)
    assert reply.result.type_url.endswith("snakepit.float")
    assert reply.result.value == b'"Infinity"'
    assert tools.call("value", {"value": [math.nan, -math.inf]}) == ["NaN", "-Infinity"]


def test_binary_parameters_arrive_as_bytes_and_win(tools: Any) -> None:
    shown = tools.call("kind", {"value": "text"}, binaries={"value": b"\x01"})
    assert shown == "bytes:b'\\x01'"


def test_binary_results(tools: Any) -> None:
    reply = tools.reply("binary", binaries={"data": b"abc"})
    assert reply.binary_result == b"cba"
    assert reply.result.value == b'{"size":3}'
    reply = tools.reply("binary_only")
    assert (reply.binary_result, reply.result.value) == (b"\x00\x01", b"{}")


def test_a_large_binary_passes(tools: Any) -> None:
    data = bytes(range(256)) * (200 * 1024 * 4)  # 200 MiB, above the published limit
    reply = tools.reply("binary", binaries={"data": data})
    assert reply.binary_result == data[::-1]


def test_pickle_is_refused_unless_allowed(tools: Any, start_worker: Callable[..., Any]) -> None:
    import pickle

    data = pickle.dumps({"a": (1, 2)})
    extra = {"metadata": {"binary_format:value": "pickle"}, "binaries": {"value": data}}
    with pytest.raises(ToolFailed, match="SNAKEPIT_ALLOW_PICKLE=1"):
        tools.call("value", **extra)
    worker = start_worker("tools", env={"SNAKEPIT_ALLOW_PICKLE": "1"})
    assert worker.call("value", **extra) == {"a": (1, 2)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"__snakepit_type__":"bytes","d":"!"}', "not base64"),
        (b'{"__snakepit_type__":"strange"}', "unknown or malformed"),
        (b'{"__snakepit_type__":"map","d":[[1]]}', "not a [key, value] pair"),
        (b'{"__snakepit_type__":"map","d":[[[],1]]}', "cannot be a key"),
    ],
)
def test_bad_parameters_are_errors_of_the_call(tools: Any, text: bytes, expected: str) -> None:
    request = tools.request("value")
    request.parameters["value"].type_url = STRING_URL
    request.parameters["value"].value = text
    reply = tools.stub.ExecuteTool(request)
    assert not reply.success
    with pytest.raises(ToolFailed) as error:
        raise ToolFailed(reply.error_message)
    assert "parameter 'value'" in error.value.report["message"]
    assert expected in error.value.report["message"]


def test_results_that_cannot_be_sent(tools: Any) -> None:
    with pytest.raises(ToolFailed, match="lone surrogate"):
        tools.call("surrogate")
    with pytest.raises(ToolFailed, match="contains itself"):
        tools.call("recursive")
