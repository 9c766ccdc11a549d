"""_values and _graceful without a worker."""

from __future__ import annotations

import datetime
import json
import math
import random
import threading
from collections import OrderedDict, UserDict, deque, namedtuple
from enum import IntEnum
from typing import Any

import pytest
from samples import EDGE_CASES, EDGE_IDS, exactly_equal, random_value

from snakepit_bridge import _graceful, _values
from snakepit_bridge.errors import DecodeError, EncodeError
from snakepit_bridge.zero_copy import ZeroCopyRef


@pytest.fixture(params=["orjson", "json"], autouse=True)
def encoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test with both encoders; where orjson is absent, twice with json."""
    if request.param == "json":
        monkeypatch.setattr(_values, "_fast_dumps", None)
    return str(request.param)


def sent(value: Any) -> Any:
    return json.loads(_values.dumps(value))


@pytest.mark.parametrize("value", EDGE_CASES, ids=EDGE_IDS)
def test_edge_cases(value: Any) -> None:
    assert exactly_equal(_values.loads(_values.dumps(value)), value)


def test_random_values() -> None:
    source = random.Random(7)
    for _ in range(2000):
        value = random_value(source)
        assert exactly_equal(_values.loads(_values.dumps(value)), value), value


def test_floats_without_a_word() -> None:
    assert sent(math.nan) == "NaN"
    assert sent([1.0, math.inf]) == [1.0, "Infinity"]
    assert sent({"a": [1, -math.inf]}) == {"a": [1, "-Infinity"]}
    assert sent((math.nan,)) == {"__snakepit_type__": "tuple", "d": ["NaN"]}


class Level(IntEnum):
    LOW = 1


class Text(str):
    pass


def test_subclasses_are_sent_as_their_base() -> None:
    point = namedtuple("point", "x y")
    assert sent([Level.LOW, Text("t"), OrderedDict(a=1)]) == [1, "t", {"a": 1}]
    assert sent(point(1, (2,))) == {"x": 1, "y": {"__snakepit_type__": "tuple", "d": [2]}}
    assert sent(UserDict({1: 2})) == {"__snakepit_type__": "map", "d": [[1, 2]]}
    assert sent({Text("k"): Text("v")}) == {"k": "v"}


def test_sets_are_marked_and_sequences_lists() -> None:
    assert sent([{3, 1, 2}, frozenset("ba"), range(3), deque([1])]) == [
        {"__snakepit_type__": "set", "d": [1, 2, 3]},
        {"__snakepit_type__": "set", "d": ["a", "b"]},
        [0, 1, 2],
        [1],
    ]
    assert sorted(sent({1, "a"})["d"], key=str) == [1, "a"]


def test_bytes_like_objects() -> None:
    expected = {"__snakepit_type__": "bytes", "d": "AAE="}
    assert sent([bytearray(b"\0\1"), memoryview(b"\0\1")]) == [expected, expected]


def test_depth_is_limited() -> None:
    deep: Any = 1
    for _ in range(_values.MAX_DEPTH):
        deep = [deep]
    assert _values.loads(_values.dumps(deep)) == deep
    with pytest.raises(EncodeError, match="too deeply"):
        _values.dumps([deep])
    with pytest.raises(EncodeError, match="too deeply"):
        _values.dumps([(deep,)])
    loop: dict[str, Any] = {}
    loop["self"] = loop
    with pytest.raises(EncodeError, match="contains itself"):
        _values.dumps(loop)


def test_lone_surrogates_are_refused() -> None:
    for value in ("\ud800", {"\udfff": 1}, [b"", "\udc80"]):
        with pytest.raises(EncodeError, match="lone surrogate"):
            _values.dumps(value)


def test_zero_copy_references_pass() -> None:
    ref = ZeroCopyRef({"kind": "dlpack", "shape": [2], "owner": None})
    back = _values.loads(_values.dumps([ref]))[0]
    assert isinstance(back, ZeroCopyRef)
    assert (back.kind, back.shape, back.copy, back.metadata) == ("dlpack", [2], False, {})
    assert "owner" not in back.payload


def test_junk_is_a_decode_error() -> None:
    source = random.Random(1)
    text = _values.dumps({"a": [(1, b"x"), {1: 2.5}], "b": "text"})
    for _ in range(3000):
        broken = bytearray(text)
        for _ in range(source.randrange(1, 4)):
            broken[source.randrange(len(broken))] = source.randrange(256)
        try:
            _values.loads(bytes(broken))
        except DecodeError:
            continue


# ---- objects ------------------------------------------------------------------


class Dumps:
    def model_dump(self) -> Any:
        return {"when": datetime.date(2026, 1, 2)}

    def to_dict(self) -> Any:
        raise AssertionError("model_dump comes first")


class ToDict:
    def to_dict(self) -> Any:
        return {"a": (1,)}


class Raises:
    def model_dump(self) -> Any:
        raise RuntimeError

    def to_dict(self) -> Any:
        return "not a mapping"

    def isoformat(self) -> str:
        return "iso"


class Secret:
    def __repr__(self) -> str:
        return (
            "Secret(api_key='abc', Authorization: Bearer xyz.123, key=sk-abcdefghijkl, "
            'password="p w", plain=1)'
        )


class NoRepr:
    def __repr__(self) -> str:
        raise ValueError


class Endless:
    def to_dict(self) -> Any:
        return {"again": Endless()}


def test_order_of_conversions() -> None:
    assert sent([Dumps(), ToDict(), Raises()]) == [
        {"when": "2026-01-02"},
        {"a": {"__snakepit_type__": "tuple", "d": [1]}},
        "iso",
    ]
    assert sent(datetime.datetime(2026, 1, 2, 3, 4, 5)) == "2026-01-02T03:04:05"


def test_endless_conversions_end() -> None:
    with pytest.raises(EncodeError, match="too deeply"):
        _values.dumps(Endless())


def test_what_is_left_becomes_a_marker() -> None:
    assert sent(threading.Lock()) == {"__ffi_unserializable__": True, "__type__": "_thread.lock"}
    assert sent([int]) == [{"__ffi_unserializable__": True, "__type__": "builtins.type"}]
    assert sent(Dumps)["__type__"] == "builtins.type"


def test_detail_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{__name__}.Secret"
    monkeypatch.setenv("SNAKEPIT_UNSERIALIZABLE_DETAIL", "type")
    assert sent(Secret())["__repr__"] == f"<{name}>"
    monkeypatch.setenv("SNAKEPIT_UNSERIALIZABLE_DETAIL", "repr_truncated")
    assert sent(Secret())["__repr__"] == repr(Secret())
    monkeypatch.setenv("SNAKEPIT_UNSERIALIZABLE_DETAIL", "repr_redacted_truncated")
    shown = sent(Secret())["__repr__"]
    for hidden in ("abc", "xyz", "p w"):
        assert hidden not in shown
    assert "plain=1" in shown
    assert shown.count("[REDACTED]") == 4
    monkeypatch.setenv("SNAKEPIT_UNSERIALIZABLE_REPR_MAXLEN", "10")
    assert len(sent(Secret())["__repr__"]) == 10
    monkeypatch.setenv("SNAKEPIT_UNSERIALIZABLE_REPR_MAXLEN", "99999")
    assert "__repr__" in sent(NoRepr())
    monkeypatch.setenv("SNAKEPIT_UNSERIALIZABLE_DETAIL", "none")
    assert "__repr__" not in sent(Secret())


class Array:
    """Looks like an array, and must not be asked for its items when too large."""

    def __init__(self, items: Any, shape: tuple[int, ...]) -> None:
        self.items = items
        self.shape = shape

    def tolist(self) -> Any:
        assert len(self.items) < 100
        return self.items


def test_size_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sent(Array([1, 2], (2,))) == [1, 2]
    assert sent(Array(range(100), (1001, 1000)))["__ffi_unserializable__"] is True
    monkeypatch.setenv("SNAKEPIT_TOLIST_MAX_ELEMENTS", "3")
    assert sent(Array([1, 2, 3], (3,))) == [1, 2, 3]
    assert sent(Array([1, 2], (4,)))["__ffi_unserializable__"] is True
    # The shape may lie: what comes out is counted too.
    assert sent(Array([[1, 2], [3, 4]], ()))["__ffi_unserializable__"] is True


def test_redaction_leaves_other_text() -> None:
    assert _graceful.redact("tokens used: 5, skill=sk-1") == "tokens used: 5, skill=sk-1"


def test_numpy_values() -> None:
    import numpy

    assert sent(numpy.int64(5)) == 5
    assert sent(numpy.float32(0.5)) == 0.5
    assert sent(numpy.float64("nan")) == "NaN"
    assert sent(numpy.bool_(True)) is True
    assert sent(numpy.arange(6).reshape(2, 3)) == [[0, 1, 2], [3, 4, 5]]
    assert sent({"a": numpy.array([1.5, math.inf])}) == {"a": [1.5, "Infinity"]}
    assert sent({numpy.int64(1): 2}) == {"__snakepit_type__": "map", "d": [[1, 2]]}
    assert sent(numpy.datetime64("2026-01-02")) == "2026-01-02"
