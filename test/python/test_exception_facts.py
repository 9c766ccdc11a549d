"""What is told of an exception: frames, causes, notes, attributes, groups."""

from __future__ import annotations

import json
import os
import pathlib
import sys
import threading
from typing import Any

import pytest

from snakepit_bridge.worker import exception_facts, failure


def described(error: BaseException) -> dict[str, Any]:
    report = failure.describe(error, "t", "s")
    parsed: dict[str, Any] = json.loads(failure.to_json(report))
    return parsed


def caught(raise_it: Any, *arguments: Any) -> BaseException:
    try:
        raise_it(*arguments)
    except BaseException as error:
        return error
    raise AssertionError


def fail(error: BaseException) -> None:
    raise error


class Custom(ValueError):
    def __init__(self, text: str, **attributes: Any) -> None:
        super().__init__(text)
        self.__dict__.update(attributes)


def test_frames_name_file_line_function_and_code() -> None:
    report = described(caught(fail, Custom("x")))
    line = fail.__code__.co_firstlineno + 1
    frame = report["frames"][-1]
    assert frame == {"file": __file__, "line": line, "function": "fail", "code": "raise error"}
    assert [f["function"] for f in report["frames"]] == ["caught", "fail"]
    assert report["module"] == Custom.__module__


def test_deep_tracebacks_keep_both_ends() -> None:
    def down(left: int) -> None:
        if left == 0:
            raise KeyError("deep")
        down(left - 1)

    frames = described(caught(down, 500))["frames"]
    assert len(frames) == exception_facts.MAX_FRAMES
    assert frames[0]["function"] == "caught"
    assert frames[-1]["code"] == 'raise KeyError("deep")'


def test_chains_of_causes() -> None:
    def chain() -> None:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise TypeError("second")  # noqa: B904
        except TypeError as error:
            raise RuntimeError("third") from error

    report = described(caught(chain))
    second = report["cause"]
    assert (second["relation"], second["type"], second["message"]) == (
        "cause",
        "TypeError",
        "second",
    )
    first = second["cause"]
    assert (first["relation"], first["type"]) == ("context", "KeyError")
    assert first["bases"] == ["LookupError", "Exception", "BaseException"]
    assert first["frames"][-1]["code"] == 'raise KeyError("first")'
    assert "cause" not in first


def test_suppressed_and_circular_contexts() -> None:
    def suppress() -> None:
        try:
            raise KeyError
        except KeyError:
            raise ValueError("only this") from None

    assert "cause" not in described(caught(suppress))
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert "cause" not in described(one)["cause"]


def test_long_chains_end() -> None:
    error = ValueError("last")
    for n in range(100):
        outer = ValueError(str(n))
        outer.__cause__ = error
        error = outer
    report, depth = described(error), 0
    while "cause" in report:
        report, depth = report["cause"], depth + 1
    assert depth == exception_facts.MAX_CHAIN


def test_notes() -> None:
    error = ValueError("x")
    error.__notes__ = ["first", 2, "second"] + ["n"] * 100  # type: ignore[attr-defined,list-item]
    notes = described(error)["notes"]
    assert notes[:2] == ["first", "second"]
    assert len(notes) <= exception_facts.MAX_NOTES


def test_attributes_that_are_data() -> None:
    error = Custom(
        "x",
        code=7,
        ratio=0.5,
        infinite=float("inf"),
        ok=True,
        names=["a", ("b",)],
        where={"line": 1, "path": pathlib.Path("/tmp")},
        long="t" * 10_000,
        lock=threading.Lock(),
        half=[1, threading.Lock()],
        keys={1: "one"},
        huge=list(range(10_000)),
        big=10**1000,
        nothing=None,
        _private=1,
    )
    attributes = described(error)["attributes"]
    assert attributes.pop("long") == "t" * exception_facts.MAX_TEXT + "..."
    assert attributes == {
        "code": 7,
        "ratio": 0.5,
        "infinite": "inf",
        "ok": True,
        "names": ["a", ["b"]],
        "where": {"line": 1, "path": "/tmp"},
    }


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (
            FileNotFoundError(2, "No such file", "/none"),
            {"errno": 2, "strerror": "No such file", "filename": "/none"},
        ),
        (ModuleNotFoundError("no module", name="none"), {"name": "none"}),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
            {"encoding": "utf-8", "start": 0, "end": 1, "reason": "bad"},
        ),
        (KeyError("k"), {"args": ["k"]}),
        (ValueError("a", 2), {"args": ["a", 2]}),
        (SystemExit(3), {"code": 3}),
    ],
)
def test_attributes_of_built_in_exceptions(
    error: BaseException, attributes: dict[str, Any]
) -> None:
    assert described(error)["attributes"] == attributes


def test_plain_exceptions_have_no_attributes() -> None:
    for error in (ValueError("x"), ValueError(), RuntimeError("text")):
        assert "attributes" not in described(error)


def test_members_of_a_group() -> None:
    class Group(Exception):
        exceptions = tuple(ValueError(str(n)) for n in range(20))

    group: BaseException = Group("many")
    if sys.version_info >= (3, 11):
        group = ExceptionGroup("many", [ValueError(str(n)) for n in range(20)])  # noqa: F821
    members = described(group)["exceptions"]
    assert [member["message"] for member in members] == [
        str(n) for n in range(exception_facts.MAX_GROUP)
    ]


def test_hostile_classes() -> None:
    class Hostile(OSError):
        @property
        def errno(self) -> int:  # type: ignore[override]
            raise RuntimeError("no")

        def __str__(self) -> str:
            raise RuntimeError("no")

    report = described(caught(fail, Hostile()))
    assert report["type"] == "Hostile"
    assert report["bases"] == ["OSError", "Exception", "BaseException"]


def test_what_has_no_room_goes() -> None:
    def chain() -> None:
        try:
            raise KeyError("inner" * 500)
        except KeyError as error:
            raise Custom("outer", a="a" * 2000, b="b" * 2000) from error

    report = failure.describe(caught(chain), "t", "s")
    text = failure.to_json(report, failure.MAX_DETAILS)
    assert len(text) <= failure.MAX_DETAILS
    short = json.loads(text)
    assert (short["type"], short["message"]) == ("Custom", "outer")
    assert "attributes" not in short
    assert short["cause"]["type"] == "KeyError"
    assert set(short["cause"]) == {"relation", "type", "message", "bases"}


def test_nothing_of_it_fails_without_a_traceback() -> None:
    report = described(OSError(os.strerror(2)))
    assert "frames" not in report
