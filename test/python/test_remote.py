"""Any Python without an adapter, without a BEAM: see also test/elixir/python_test.exs."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import gc
import math
import os
import weakref
from typing import Any

import pytest

from snakepit_bridge import ZeroCopyRef, remote
from snakepit_bridge.errors import EncodeError, ToolCancelled


class Call:
    """A call whose reply is what was to be sent."""

    def __init__(self, command: str, **arguments: Any) -> None:
        self.tool = f"snakepit.python.{command}"
        self.cancelled = False
        self._arguments = {"key": "secret", "as": ["t0"], "return": "auto", **arguments}

    def parameters(self) -> dict[str, Any]:
        return self._arguments

    def result(self, value: Any) -> Any:
        if "\\ud800" in str(value):
            raise EncodeError("a lone surrogate")
        return value


class NoLane:
    def disarm(self) -> None:
        """Nothing interrupts."""

    def run_coroutine(self, coroutine: Any) -> Any:
        raise AssertionError("not awaited here")


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> remote.Remote:
    monkeypatch.setenv("SNAKEPIT_WORKER_ID", "w1")
    return remote.Remote("secret")


def run(objects: remote.Remote, command: str, **arguments: Any) -> Any:
    return objects.run(Call(command, **arguments), NoLane())


def call(objects: remote.Remote, name: str, *args: Any, **arguments: Any) -> Any:
    return run(objects, "call", name=name, args=list(args), kwargs={}, **arguments)


def marker(token: str) -> dict[str, str]:
    return {"__snakepit_ref__": token}


# ---- names ------------------------------------------------------------------------


def test_what_names_stand_for() -> None:
    assert remote.find("len") is len
    assert remote.find("math.pi") == math.pi
    assert remote.find("os.path.join") is os.path.join
    assert remote.find("collections.Counter.most_common") is collections.Counter.most_common
    assert remote.find("xml.dom.minidom.parseString").__name__ == "parseString"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("no_such_builtin", AttributeError),
        ("no_such_module.x", ModuleNotFoundError),
        ("math.no_such_name", AttributeError),
        ("xml.no_such_module", AttributeError),
        ("", AttributeError),
        (".", ValueError),
        ("math.", AttributeError),
        ("math..pi", AttributeError),
    ],
)
def test_names_of_nothing(name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        remote.find(name)


# ---- what is copied ---------------------------------------------------------------


class Colour(enum.IntEnum):
    RED = 1


class Shared(bytes):
    """As those that lie in shared memory are."""


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**100,
        1.5,
        "text",
        b"bytes",
        Shared(b"bytes"),
        ZeroCopyRef({"kind": "dlpack"}),
        [1, [2, {"a": (3, {4})}]],
        datetime.date(2024, 2, 29),
        decimal.Decimal("1.5"),
        Colour.RED,
        [],
    ],
)
def test_data(value: Any) -> None:
    assert remote.is_data(value)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        len,
        math,
        int,
        iter([]),
        range(3),
        1j,
        collections.Counter(),
        Pair(1, 2),
        fractions.Fraction(1, 2),
        [1, object()],
        {"a": {"b": object()}},
        {object(): 1},
    ],
)
def test_what_is_no_data(value: Any) -> None:
    assert not remote.is_data(value)


def test_a_list_that_holds_itself_ends() -> None:
    loop: list[Any] = []
    loop += [loop, loop]
    assert remote.is_data(loop)


def test_numbers_of_numpy() -> None:
    numpy = pytest.importorskip("numpy")
    assert remote.is_data(numpy.float32(1.5))
    assert remote.is_data([numpy.int64(1), numpy.bool_(True)])
    assert not remote.is_data(numpy.zeros(3))


def test_what_cannot_be_sent_stays(objects: remote.Remote) -> None:
    answer = call(objects, "str", "\ud800")
    assert answer["ref"]["type"] == "str"
    with pytest.raises(EncodeError):
        call(objects, "str", "\ud800", **{"return": "value"})


# ---- objects ----------------------------------------------------------------------


def test_an_object_stays_until_it_is_released(objects: remote.Remote) -> None:
    answer = call(objects, "collections.Counter", "aab")["ref"]
    assert (answer["type"], answer["worker"], answer["token"]) == (
        "collections.Counter",
        "w1",
        "t0",
    )
    length = {"args": [marker("t0")], "kwargs": {}, "name": "len", "refs": True}
    assert run(objects, "call", **length)["value"] == 2
    assert run(objects, "release", tokens=["t0", "no"], sessions=[]) == {"value": 1}
    assert run(objects, "call", **length) == {"refused": "released"}
    length["args"] = [[(marker("no"),)]]
    assert run(objects, "call", **length) == {"refused": "unknown"}
    assert run(objects, "call", **length, process="other") == {"refused": "process"}


def test_nothing_is_left_of_a_session(objects: remote.Remote) -> None:
    code = "class C: pass\nkept = C()"
    run(objects, "exec", code=code, vars={}, session="s", **{"return": "ref"})
    kept = run(objects, "eval", code="kept", vars={}, session="s", **{"as": ["t1"]})
    assert kept["ref"]["type"] == "snakepit_session.C"
    watched = weakref.ref(objects._entries["t1"].value)
    assert run(objects, "release", tokens=[], sessions=["s", "other"])["value"] >= 3
    gc.collect()
    assert watched() is None
    with pytest.raises(NameError):
        run(objects, "eval", code="kept", vars={}, session="s")


def test_what_a_cancelled_call_made_does_not_stay(objects: remote.Remote) -> None:
    given = Call("call", name="object", args=[], kwargs={})
    given.cancelled = True
    with pytest.raises(ToolCancelled):
        objects.run(given, NoLane())
    assert not objects._entries


def test_a_finaliser_may_call_back(objects: remote.Remote) -> None:
    class Calls:
        def __del__(self) -> None:
            run(objects, "release", tokens=["other"], sessions=[])

    objects._entries["t0"] = remote._Entry(Calls(), None)
    assert run(objects, "release", tokens=["t0"], sessions=[]) == {"value": 1}


@pytest.mark.parametrize("key", [None, "", "secreT", 7, "geheim\u00e4"])
def test_nothing_without_the_key(objects: remote.Remote, key: Any) -> None:
    for command in ("call", "release", "no_such_command"):
        with pytest.raises(PermissionError, match="python_calls"):
            run(objects, command, name="len", args=[[]], kwargs={}, key=key)
    with pytest.raises(PermissionError):
        run(objects, "no_such_command")


def test_the_key_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(remote.KEY_VARIABLE, "secret")
    assert remote.take_key() is not None
    assert remote.KEY_VARIABLE not in os.environ
    assert remote.take_key() is None


def test_iterators_go_on_as_far_as_asked(objects: remote.Remote) -> None:
    def three() -> Any:
        yield 1
        yield object()
        raise LookupError("after two")

    objects._entries["it"] = remote._Entry(three(), None)
    answer = run(objects, "next", iterator=marker("it"), **{"as": ["a", "b", "c"]})
    assert answer["items"][0] == {"value": 1}
    assert answer["items"][1]["ref"]["token"] == "b"
    assert answer["more"] is True
    with pytest.raises(LookupError, match="after two"):
        run(objects, "next", iterator=marker("it"))
    assert run(objects, "next", iterator=marker("it")) == {"items": [], "more": False}
    objects._entries["no"] = remote._Entry(5, None)
    with pytest.raises(TypeError):
        run(objects, "next", iterator=marker("no"))
