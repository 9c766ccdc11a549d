"""Values under tags and markers: dates, decimals, sets, typed arrays."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import random
import struct
import uuid
from array import array
from typing import Any, Callable

import cbor
import pytest
from local_peer import native_module

from snakepit_bridge import _values
from snakepit_bridge.errors import DecodeError
from snakepit_bridge.serialization import GracefulJSONEncoder

UTC = datetime.timezone.utc
Decimal = decimal.Decimal


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return native_module(tmp_path_factory.mktemp("extension"))


@pytest.fixture(params=["cbor", "json"])
def there_and_back(request: pytest.FixtureRequest, native: Any) -> Callable[[Any], Any]:
    if request.param == "cbor":
        return lambda value: native.decode(native.encode(value))
    return lambda value: _values.loads(_values.dumps(value))


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNAKEPIT_DATES", "typed")


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and repr(one) == repr(other)


# ---- dates --------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        datetime.date(1, 1, 1),
        datetime.date(9999, 12, 31),
        datetime.time(0),
        datetime.time(23, 59, 59, 999999),
        datetime.datetime(2024, 1, 2, 3, 4, 5),
        datetime.datetime(2024, 1, 2, 3, 4, 5, 6),
        datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        datetime.datetime(
            2024, 1, 2, 3, tzinfo=datetime.timezone(datetime.timedelta(hours=5, minutes=30))
        ),
        datetime.datetime(
            2024, 1, 2, 3, tzinfo=datetime.timezone(-datetime.timedelta(hours=3, minutes=30))
        ),
    ],
    ids=str,
)
def test_dates(typed: None, there_and_back: Callable[[Any], Any], value: Any) -> None:
    assert same(there_and_back(value), value)
    assert same(there_and_back({"in": [value]}), {"in": [value]})


def test_dates_are_text_unless_asked_for(there_and_back: Callable[[Any], Any]) -> None:
    value = [datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, tzinfo=UTC)]
    assert there_and_back(value) == ["2024-01-02", "2024-01-02T00:00:00+00:00"]


def test_arguments_may_be_text_too(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = cbor.dumps([cbor.Tag(1004, "2024-01-02"), cbor.Tag(0, "2024-01-02T03:04:05Z")])
    assert native.decode(data) == [
        datetime.date(2024, 1, 2),
        datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
    ]
    monkeypatch.setenv("SNAKEPIT_DATES", "text")
    assert native.decode(data) == ["2024-01-02", "2024-01-02T03:04:05Z"]


def test_rare_dates(typed: None, native: Any) -> None:
    odd = datetime.timezone(datetime.timedelta(minutes=19, seconds=32))
    value = datetime.datetime(1930, 1, 1, 0, 19, 32, tzinfo=odd)
    assert native.decode(native.encode(value)) == value
    # There is no tag for these.
    assert native.decode(native.encode(datetime.time(1, tzinfo=UTC))) == "01:00:00+00:00"


class NoTime(datetime.datetime):
    """As pandas has one."""

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    def isoformat(self, *_args: Any, **_more: Any) -> str:
        return "NaT"


def test_a_date_that_is_none(typed: None, native: Any) -> None:
    assert native.decode(native.encode(NoTime(1, 1, 1))) == "NaT"


def test_counted_dates(native: Any) -> None:
    assert native.decode(bytes.fromhex("c11a514b67b0")) == datetime.datetime(
        2013, 3, 21, 20, 4, tzinfo=UTC
    )
    assert native.decode(bytes.fromhex("c1fb41d452d9ec200000")).microsecond == 500000
    assert native.decode(bytes.fromhex("d8643929b3")) == datetime.date(1940, 10, 9)


@pytest.mark.parametrize(
    "tagged",
    [
        cbor.Tag(0, "2024-01-02"),
        cbor.Tag(0, "2024-01-02T03:04:05"),
        cbor.Tag(0, "2024-01-02T03:04:60Z"),
        cbor.Tag(0, "2024-01-02T03:04:05+24:00"),
        cbor.Tag(0, "0000-01-02T03:04:05Z"),
        cbor.Tag(0, 1),
        cbor.Tag(1, "text"),
        cbor.Tag(1, math.nan),
        cbor.Tag(1, 2**70),
        cbor.Tag(100, 2**40),
        cbor.Tag(100, 0.5),
        cbor.Tag(1004, "2023-02-29"),
        cbor.Tag(1004, "2023-02-2\u0668"),
        cbor.Tag(40001, "2024-01-02T03:04:05Z"),
        cbor.Tag(40002, "25:00:00"),
        cbor.Tag(40000, "no list"),
        cbor.Tag(258, {}),
        cbor.Tag(4, [1]),
        cbor.Tag(4, [1, 2, 3, 4]),
        cbor.Tag(4, [1, 2.5]),
        cbor.Tag(4, [2**70, 1]),
        cbor.Tag(4, "1.5"),
        cbor.Tag(268, [0, 0, 6]),
        cbor.Tag(268, [0, -1, 1]),
        cbor.Tag(65, b"\1"),
        cbor.Tag(64, "text"),
        cbor.Tag(83, b"\0" * 15),
    ],
    ids=str,
)
def test_what_a_tag_does_not_allow(native: Any, tagged: cbor.Tag) -> None:
    with pytest.raises(DecodeError):
        native.decode(cbor.dumps(tagged))


# ---- decimals -----------------------------------------------------------------


WORDS = "0 -0 0.00 -0.0 1.50 -12E+30 1E-400 Infinity -Infinity NaN -NaN"


@pytest.mark.parametrize("text", [*WORDS.split(), "9" * 5000 + ".5"], ids=lambda text: text[:12])
def test_decimals(there_and_back: Callable[[Any], Any], text: str) -> None:
    value = Decimal(text)
    assert same(there_and_back(value), value)
    assert same(there_and_back([value]), [value])


def test_decimals_do_not_mind_the_context(there_and_back: Callable[[Any], Any]) -> None:
    value = Decimal("1.23456789")
    with decimal.localcontext() as context:
        context.prec = 2
        assert same(there_and_back(value), value)


def test_a_signalling_nan_is_a_nan(native: Any) -> None:
    assert native.decode(native.encode(Decimal("sNaN"))).is_qnan()


def test_decimals_by_their_tag(native: Any) -> None:
    assert native.encode(Decimal("273.15")).hex() == "c48221196ab3"
    assert cbor.loads(native.encode(Decimal("-0"))) == cbor.Tag(268, [0, 0, 1])


# ---- sets ---------------------------------------------------------------------


def test_sets(there_and_back: Callable[[Any], Any]) -> None:
    for value in (set(), {1, "a", b"b"}, {(1, (2,))}):
        assert same(sorted(there_and_back(value), key=repr), sorted(value, key=repr))
        assert isinstance(there_and_back(value), set)
    inner = frozenset((1, frozenset((2,))))
    assert there_and_back({inner}) == {inner}
    assert there_and_back({(inner, 1)}) == {(inner, 1)}
    assert there_and_back({inner: 1}) == {inner: 1}


def test_what_is_there_twice(native: Any) -> None:
    for data in ("d90102820101", "d901028201f5", "a201020103", "a201020103"):
        with pytest.raises(DecodeError, match="twice"):
            native.decode(bytes.fromhex(data))
    for text in ('"set","d":[1,1]', '"map","d":[[1,2],[1,3]]'):
        with pytest.raises(DecodeError, match="twice"):
            _values.loads(f'{{"__snakepit_type__":{text}}}'.encode())
    # JSON of others: the last one, as ever.
    assert _values.loads(b'{"a":1,"a":2}') == {"a": 2}


# ---- typed arrays -------------------------------------------------------------


@pytest.mark.parametrize("code", list("BHILQbhilqfd"))
def test_arrays(native: Any, code: str) -> None:
    lowest = 0 if code.isupper() else -1
    value = array(code, [lowest, 1, 100])
    back = native.decode(native.encode(value))
    assert (back.tolist(), back.itemsize) == (value.tolist(), value.itemsize)
    assert native.decode(native.encode(array(code))) == array(code)
    assert _values.loads(_values.dumps(value)) == value.tolist()


FORMS = "BHIQBHIQbhiqxhiqefdxefdx"


@pytest.mark.parametrize("tag", [tag for tag in range(64, 88) if tag not in (76, 83, 87)])
def test_every_type_is_read(native: Any, tag: int) -> None:
    little = tag & 4 and tag != 68
    form = FORMS[tag - 64] if tag < 80 else FORMS[16 + (tag - 80)]
    numbers = [0, 1, 100] if form.isupper() else [0, -1, 100]
    data = struct.pack(f"{'<' if little else '>'}3{form}", *numbers)
    assert native.decode(cbor.dumps(cbor.Tag(tag, data))).tolist() == numbers


@pytest.mark.parametrize(("tag", "byteorder"), [(83, "big"), (87, "little")])
def test_quads(native: Any, tag: int, byteorder: Any) -> None:
    bits = {
        1.5: 0x3FFF8 << 108,
        -2.0: 0xC000 << 112,
        math.inf: 0x7FFF << 112,
        1.1: 0x3FFF199999999999999999999999999A,
        0.0: 1,
        1e999: 0x7FFE << 112,
    }
    data = b"".join(value.to_bytes(16, byteorder) for value in bits.values())
    assert native.decode(cbor.dumps(cbor.Tag(tag, data))).tolist() == list(bits)
    nan = (0x7FFF << 112 | 1).to_bytes(16, byteorder)
    assert math.isnan(native.decode(cbor.dumps(cbor.Tag(tag, nan)))[0])


def test_arrays_that_are_text_and_views(native: Any) -> None:
    assert native.decode(native.encode(memoryview(array("d", [1.0])))) == struct.pack("=d", 1.0)
    assert native.decode(native.encode(array("u", "ab"))) == ["a", "b"]


# ---- objects ------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    WHEN = datetime.date(2024, 1, 2)


class Verbose(enum.Enum):
    ON = 1

    def to_dict(self) -> dict[str, Any]:
        return {"on": self.value}


def test_objects_with_a_plain_form(there_and_back: Callable[[Any], Any]) -> None:
    number = uuid.uuid5(uuid.NAMESPACE_DNS, "example.org")
    assert there_and_back([number, Colour.RED, Colour.WHEN]) == [str(number), "red", "2024-01-02"]
    # What is documented comes first.
    assert there_and_back(Verbose.ON) == {"on": 1}
    for value in (1j, datetime.timedelta(1)):
        assert there_and_back(value)["__ffi_unserializable__"] is True


def test_the_json_encoder_for_users_keeps_lists() -> None:
    import json

    assert json.loads(json.dumps({"a": {2, 1}}, cls=GracefulJSONEncoder)) == {"a": [1, 2]}


def test_random_bytes_under_tags(native: Any) -> None:
    source = random.Random(5)
    numbers = [0, 1, 4, 100, 258, 268, 1004, 40000, 40001, 40002, *range(64, 88)]
    for _ in range(5000):
        item = source.choice(
            [
                "2024-01-02T03:04:05Z"[source.randrange(10) : source.randrange(10, 21)],
                bytes(source.getrandbits(8) for _ in range(source.randrange(20))),
                [source.randrange(-5, 5) for _ in range(source.randrange(4))],
                source.getrandbits(70) - 2**69,
                source.uniform(-1e15, 1e15),
            ]
        )
        try:
            native.decode(cbor.dumps(cbor.Tag(source.choice(numbers), item)))
        except DecodeError:
            continue
