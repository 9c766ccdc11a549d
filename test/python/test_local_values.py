"""Values through the extension, checked against a codec of the tests' own."""

from __future__ import annotations

import dataclasses
import enum
import gc
import importlib
import math
import os
import random
import subprocess
import sys
import sysconfig
from collections import OrderedDict, defaultdict, deque, namedtuple
from pathlib import Path
from typing import Any

import cbor
import pytest
from local_peer import build_extension, native_module

from snakepit_bridge import ZeroCopyRef, _native, _native_file
from snakepit_bridge.errors import DecodeError, EncodeError
from snakepit_bridge.worker import local_values


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return native_module(tmp_path_factory.mktemp("extension"))


PLAIN = [
    None,
    True,
    False,
    0,
    -1,
    23,
    24,
    255,
    256,
    65535,
    65536,
    2**31,
    2**32,
    -(2**31),
    2**63 - 1,
    -(2**63),
    2**63,
    -(2**63) - 1,
    2**64 - 1,
    2**64,
    -(2**64) - 1,
    2**4000 + 17,
    -(3**2000),
    0.0,
    -0.0,
    1.5,
    1.1,
    1e300,
    -5e-324,
    math.inf,
    -math.inf,
    "",
    "text",
    "ünï\0cödé 😀",
    "x" * 70000,
    b"",
    b"\0\xff",
    b"y" * 70000,
    [],
    [1, [2, [3, []]]],
    (),
    (1, "a", (2,)),
    [(), ((),)],
    {},
    {"a": 1, "b": {"c": [1, 2]}},
    {"a" * 40: 1},
    {1: "int", 2.5: "float", None: "none", (1, 2): "tuple", b"b": "bytes"},
    set(),
    {1, "a", (2, 3)},
    list(range(1000)),
    {str(n): n for n in range(1000)},
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:30])
def test_round_trip(native: Any, value: Any) -> None:
    data = native.encode(value)
    assert _same(cbor.loads(data), value)
    assert _same(native.decode(data), value)
    assert _same(native.decode(cbor.dumps(value)), value)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other and repr(one) == repr(other)


def test_nan(native: Any) -> None:
    assert native.encode(math.nan).hex() == "f97e00"
    assert math.isnan(native.decode(bytes.fromhex("f97e00")))


def test_other_bytes_and_sets_are_sent_as_such(native: Any) -> None:
    value = [bytearray(b"a"), memoryview(b"bcd")[::2], frozenset((1,))]
    assert native.decode(native.encode(value)) == [b"a", b"bd", {1}]


class Colour(enum.IntEnum):
    RED = 3


class Text(str):
    __slots__ = ()


class Real(float):
    pass


@dataclasses.dataclass
class Point:
    x: int

    def to_dict(self) -> dict[str, Any]:
        return {"x": self.x}


class Odd:
    pass


Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, 3),
        (Text("t"), "t"),
        (Real(2.5), 2.5),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(int, a=1), {"a": 1}),
        (deque([1, 2]), [1, 2]),
        (range(3), [0, 1, 2]),
        (Pair(1, 2), {"left": 1, "right": 2}),
        (Point(7), {"x": 7}),
        ({1: 2}.keys(), {1}),
        (ZeroCopyRef({"kind": "x"}), {"kind": "x", "__snakepit_zero_copy__": True}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_objects_become_plain(native: Any, value: Any, expected: Any) -> None:
    assert cbor.loads(native.encode(value)) == expected
    assert cbor.loads(native.encode({"in": [value]})) == {"in": [expected]}


def test_what_cannot_be_sent_becomes_a_marker(native: Any) -> None:
    sent = cbor.loads(native.encode([Odd()]))[0]
    assert sent["__ffi_unserializable__"] is True
    assert sent["__type__"].endswith("Odd")


def test_numpy(native: Any) -> None:
    numpy = pytest.importorskip("numpy")
    value = {"a": numpy.float64(1.5), "b": numpy.int32(7), "c": numpy.arange(3)}
    assert cbor.loads(native.encode(value)) == {"a": 1.5, "b": 7, "c": [0, 1, 2]}


def test_a_handle_comes_back_as_one(native: Any) -> None:
    handle = ZeroCopyRef({"kind": "x"})
    back = native.decode(native.encode({"h": handle}))["h"]
    assert isinstance(back, ZeroCopyRef)
    assert back.kind == "x"
    plain = {"__snakepit_zero_copy__": False}
    assert native.decode(native.encode(plain)) == plain


# ---- what is refused ----------------------------------------------------------


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_depth(native: Any) -> None:
    assert native.decode(native.encode(nested(512))) == nested(512)
    with pytest.raises(EncodeError, match="nested too deeply"):
        native.encode(nested(513))
    with pytest.raises(DecodeError, match=r"deep|nest"):
        native.decode(b"\x81" * 513 + b"\x01")
    deep: Any = 1
    for _ in range(512):
        deep = (deep,)
    assert native.decode(native.encode(deep)) == deep


def test_cycles(native: Any) -> None:
    loop: list[Any] = []
    loop.append(loop)
    table: dict[str, Any] = {}
    table["self"] = [table]
    for value in (loop, table):
        with pytest.raises(EncodeError, match="contains itself"):
            native.encode(value)


def test_surrogates(native: Any) -> None:
    for value in ("a\udc80", {"\udfff": 1}):
        with pytest.raises(EncodeError, match=r"lone surrogate \('\\ud"):
            native.encode(value)


@pytest.mark.parametrize(
    "data", ["", "18", "61", "62ff", "8201", "a1", "a101", "ff", "1c", "0000", "c0", "61ff", "5f"]
)
def test_malformed(native: Any, data: str) -> None:
    with pytest.raises(DecodeError, match=r"not CBOR: .* at byte"):
        native.decode(bytes.fromhex(data))


def test_keys_that_python_has_not(native: Any) -> None:
    with pytest.raises(DecodeError, match="a map key of type <class 'list'>"):
        native.decode(bytes.fromhex("a18001"))
    with pytest.raises(DecodeError, match="a member of a set of type <class 'dict'>"):
        native.decode(bytes.fromhex("d9010281a0"))


def test_tags_without_a_meaning_here(native: Any) -> None:
    assert native.decode(cbor.dumps(cbor.Tag(55799, "self-described"))) == "self-described"
    assert native.decode(cbor.dumps(cbor.Tag(76, b"reserved"))) == b"reserved"
    assert native.decode(bytes.fromhex("9f0102ff")) == [1, 2]
    assert native.decode(bytes.fromhex("bf616101ff")) == {"a": 1}
    assert native.decode(bytes.fromhex("f7")) is None


class Shrinks:
    """Changes what it is in while it is encoded."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def to_dict(self) -> dict[str, Any]:
        self.owner.clear()
        return {}


def test_a_value_that_changes_meanwhile(native: Any) -> None:
    values: list[Any] = []
    values.extend([Shrinks(values), 1, 2])
    table: dict[str, Any] = {}
    table.update(a=Shrinks(table), b=1)
    for value in (values, table):
        with pytest.raises(EncodeError, match="changed while"):
            native.encode(value)


def test_an_error_of_an_object_is_passed_on(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad:
        def __iter__(self) -> Any:
            raise AssertionError

    monkeypatch.setattr(local_values._graceful, "convert", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        native.encode([Bad()])


# ---- at random -----------------------------------------------------------------


def some_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(10 if depth < 4 else 6)
    size = rng.randrange(5)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind in (1, 2):
        return rng.randrange(-(2 ** rng.randrange(1, 90)), 2 ** rng.randrange(1, 90))
    if kind == 3:
        return rng.uniform(-1e6, 1e6)
    if kind == 4:
        return "".join(chr(rng.choice([97, 228, 8364, 0x1F600])) for _ in range(size * 5))
    if kind == 5:
        return rng.randbytes(size * 9) if hasattr(rng, "randbytes") else bytes(size)
    if kind == 6:
        return [some_value(rng, depth + 1) for _ in range(size)]
    if kind == 7:
        return tuple(some_value(rng, depth + 1) for _ in range(size))
    if kind == 8:
        return {rng.randrange(100) for _ in range(size)}
    return {f"k{rng.randrange(99)}": some_value(rng, depth + 1) for _ in range(size)}


def test_random_values(native: Any) -> None:
    rng = random.Random(20)
    for _ in range(2000):
        value = some_value(rng)
        data = native.encode(value)
        assert cbor.loads(data) == value
        assert native.decode(data) == value


def test_random_bytes_end_in_values_or_errors(native: Any) -> None:
    rng = random.Random(21)
    for _ in range(5000):
        data = bytearray(native.encode(some_value(rng)))
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            native.decode(bytes(data[: rng.randrange(len(data) + 1)]))
        except DecodeError:
            continue


def test_references_are_balanced(native: Any) -> None:
    value = [some_value(random.Random(n)) for n in range(50)] + [{"k": ("v", 1.5, b"x", {3})}]
    key, item = "some long key that nobody else has", object
    holder = {key: [item.__name__, 10**30]}
    for _ in range(3):
        native.decode(native.encode(value))
    gc.collect()
    before = len(gc.get_objects()), sys.getrefcount(value), sys.getrefcount(key)
    for _ in range(200):
        native.decode(native.encode(value))
        native.encode(holder)
        with pytest.raises(EncodeError):
            native.encode([key, nested(600)])
        with pytest.raises(DecodeError):
            native.decode(native.encode(value)[:-1])
    gc.collect()
    after = len(gc.get_objects()), sys.getrefcount(value), sys.getrefcount(key)
    assert after[1:] == before[1:]
    assert after[0] - before[0] < 50


# ---- finding it -----------------------------------------------------------------


def test_nothing_is_found_where_there_is_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SNAKEPIT_PROTO_PATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "_snakepit_native", raising=False)
    monkeypatch.setattr(sys, "path", [])
    importlib.invalidate_caches()
    assert _native.load() is None
    (tmp_path / _native_file.file_name()).write_bytes(b"not a library")
    assert _native.load() is None


GIL = [".cpython-313-x86_64-linux-gnu.so", ".abi3.so", ".so"]
FREE = [".cpython-313t-x86_64-linux-gnu.so", ".abi3.so", ".so"]


@pytest.mark.parametrize(
    ("flags", "suffixes", "name"),
    [
        ("", GIL, "_snakepit_native.abi3.so"),
        ("d", GIL, "_snakepit_native.abi3.so"),
        ("t", FREE, "_snakepit_native.cpython-313t-x86_64-linux-gnu.so"),
        ("td", FREE, "_snakepit_native.cpython-313t-x86_64-linux-gnu.so"),
    ],
)
def test_free_threaded_interpreters_have_a_file_of_their_own(
    flags: str, suffixes: list[str], name: str
) -> None:
    assert _native_file.file_name(flags, suffixes) == name


def test_the_build_is_told_the_file_and_the_headers() -> None:
    script = _native_file.__file__
    said = subprocess.run(
        [sys.executable, "-I", script], capture_output=True, text=True, check=True
    ).stdout
    include = sysconfig.get_paths()["include"]
    assert said == f"{_native_file.file_name()} {include}\n"


@pytest.mark.parametrize("found", ["build", "installed"])
def test_a_free_threaded_interpreter_is_given_no_other_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: str
) -> None:
    """Which it would load, and crash."""
    monkeypatch.setattr(_native, "file_name", lambda: f"_snakepit_native{FREE[0]}")
    monkeypatch.delitem(sys.modules, "_snakepit_native", raising=False)
    built = Path(build_extension(tmp_path)) / _native_file.file_name()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "_snakepit_native.abi3.so").write_bytes(built.read_bytes())
    monkeypatch.setenv(
        "SNAKEPIT_PROTO_PATH", str(tmp_path / ("here" if found == "build" else "nowhere"))
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path / "here")] if found == "installed" else [])
    importlib.invalidate_caches()
    assert _native.load() is None


def test_an_installed_one_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "_snakepit_native", raising=False)
    path = build_extension(tmp_path)
    monkeypatch.setenv("SNAKEPIT_PROTO_PATH", str(tmp_path / "nowhere"))
    monkeypatch.setattr(sys, "path", [path])
    importlib.invalidate_caches()
    module = _native.load()
    assert module is not None
    assert module.__file__ == os.path.join(path, _native_file.file_name())
