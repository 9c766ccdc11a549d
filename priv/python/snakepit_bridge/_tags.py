"""Values that travel under a tag of CBOR, or as a marker of JSON with the same payload."""

from __future__ import annotations

import datetime
import math
import os
import re
import struct
import sys
from array import array
from typing import Any, NamedTuple, Optional

from .errors import DecodeError

DATES_VARIABLE = "SNAKEPIT_DATES"

# As in c_src/core/sp_value.h.
DATETIME = 0
EPOCH = 1
DECIMAL = 4
DAYS = 100
SET = 258
DECIMAL_EXTRA = 268
DATE = 1004
TUPLE = 40000
NAIVE = 40001
TIME = 40002
_ARRAYS = range(64, 88)

MARKERS = {
    "date": DATE,
    "time": TIME,
    "naive": NAIVE,
    "datetime": DATETIME,
    "decimal": DECIMAL,
    "set": SET,
}
MARKER_OF = {number: name for name, number in MARKERS.items()}
MARKER_OF[DECIMAL_EXTRA] = "decimal"

_EXTRAS = ("0", "-0", "Infinity", "-Infinity", "NaN", "-NaN")
_FIRST_DAY = datetime.date(1970, 1, 1).toordinal()
_UTC = datetime.timezone.utc
_MICRO = datetime.timedelta(microseconds=1)

_DATE_TEXT = r"(\d{4})-(\d\d)-(\d\d)"
_TIME_TEXT = r"(\d\d):(\d\d):(\d\d)(?:\.(\d+))?"
_TEXTS = {
    DATE: re.compile(_DATE_TEXT, re.ASCII),
    TIME: re.compile(_TIME_TEXT, re.ASCII),
    NAIVE: re.compile(f"{_DATE_TEXT}[Tt ]{_TIME_TEXT}", re.ASCII),
    DATETIME: re.compile(
        f"{_DATE_TEXT}[Tt ]{_TIME_TEXT}(?:[Zz]|([+-])(\\d\\d):([0-5]\\d))", re.ASCII
    ),
}


class Tagged(NamedTuple):
    """What the extension sends as a tagged item."""

    number: int
    payload: Any


def dates() -> str:
    """``text``: as published, in both directions. ``typed``: none is text. Else as they are
    documented: arguments typed, results text."""
    return os.environ.get(DATES_VARIABLE, "").strip().lower()


# ---- from Python ----------------------------------------------------------------


def tagged(value: Any) -> Optional[Tagged]:
    """The tag and payload of a value that has them."""
    if isinstance(value, array):
        return _array_tag(value)
    decimal = sys.modules.get("decimal")
    if decimal is not None and isinstance(value, decimal.Decimal):
        return _decimal_tag(value, decimal)
    if isinstance(value, (datetime.date, datetime.time)) and dates() == "typed":
        return _time_tag(value)
    return None


def _array_tag(value: array[Any]) -> Optional[Tagged]:
    code, size = value.typecode, value.itemsize
    if code in "uw":
        return None
    real = code in "fd"
    number = 64 + (16 if real else 8 if code.islower() else 0)
    number += (size.bit_length() - 1) - real
    if size > 1 and sys.byteorder == "little":
        number += 4
    return Tagged(number, value.tobytes())


def _decimal_tag(value: Any, decimal: Any) -> Tagged:
    negative = value.is_signed()
    if value.is_nan():
        return Tagged(DECIMAL_EXTRA, [0, 0, 4 + negative])
    if value.is_infinite():
        return Tagged(DECIMAL_EXTRA, [0, 0, 2 + negative])
    parts = value.as_tuple()
    # By way of a Decimal: text of many digits is refused by int().
    mantissa = int(decimal.Decimal(parts._replace(exponent=0)))
    if mantissa == 0 and negative:
        return Tagged(DECIMAL_EXTRA, [parts.exponent, 0, 1])
    return Tagged(DECIMAL, [parts.exponent, mantissa])


def _time_tag(value: Any) -> Optional[Tagged]:
    """Of subclasses only what their base has. None for what there is no mapping for."""
    if isinstance(value, datetime.datetime):
        if value != value:  # pandas has a date-time that is none
            return None
        offset = value.utcoffset()
        if offset is None:
            return Tagged(NAIVE, datetime.datetime.isoformat(value.replace(tzinfo=None)))
        if offset % datetime.timedelta(minutes=1):
            value = value.astimezone(_UTC)
        return Tagged(DATETIME, datetime.datetime.isoformat(value))
    if isinstance(value, datetime.date):
        return Tagged(DATE, datetime.date.isoformat(value))
    return Tagged(TIME, datetime.time.isoformat(value)) if value.tzinfo is None else None


# ---- to Python --------------------------------------------------------------------


def untag(number: int, payload: Any) -> Any:
    """The value of a tagged item; the payload where the tag has no meaning here."""
    if number in _TEXTS:
        if not isinstance(payload, str):
            raise DecodeError(f"tag {number} is for text, not a {type(payload).__name__}")
        return payload if dates() == "text" else _time(number, payload)
    if number in _ARRAYS:
        return _array(number, payload)
    if number in (DECIMAL, DECIMAL_EXTRA):
        return _decimal(payload)
    if number in (EPOCH, DAYS):
        return _counted(number, payload)
    if number == SET:
        return _set(payload)
    if number == TUPLE:
        raise DecodeError(f"a tuple is an array, not a {type(payload).__name__}")
    return payload


def freeze(value: Any) -> Any:
    """The same value as it can be a key or a member of a set."""
    if isinstance(value, set):
        return frozenset(map(freeze, value))
    if isinstance(value, tuple):
        return tuple(map(freeze, value))
    return value


def _set(payload: Any) -> set[Any]:
    if not isinstance(payload, list):
        raise DecodeError(f"a set is an array, not a {type(payload).__name__}")
    result = set()
    for item in map(freeze, payload):
        try:
            twice = item in result
        except TypeError:
            raise DecodeError(
                f"a member of a set of type {type(item)} cannot be one in Python"
            ) from None
        if twice:
            raise DecodeError(f"a set has the member {item!r} twice")
        result.add(item)
    return result


def _time(number: int, text: str) -> Any:
    found = _TEXTS[number].fullmatch(text)
    if found is None:
        raise DecodeError(f"{text!r} is not the text of a {MARKER_OF[number]}")
    parts = found.groups()
    try:
        if number == DATE:
            return datetime.date(*map(int, parts))
        if number == TIME:
            return _clock(parts)
        date = datetime.date(*map(int, parts[:3]))
        moment = datetime.datetime.combine(date, _clock(parts[3:7]))
        return moment if number == NAIVE else moment.replace(tzinfo=_zone(parts[7:]))
    except ValueError as error:
        raise DecodeError(f"{text!r}: {error}") from None


def _clock(parts: tuple[str, ...]) -> datetime.time:
    hour, minute, second, fraction = parts
    micro = f"{fraction or ''}000000"[:6]
    return datetime.time(int(hour), int(minute), int(second), int(micro))


def _zone(parts: tuple[str, ...]) -> datetime.timezone:
    sign, hours, minutes = parts
    if not sign:
        return _UTC
    offset = datetime.timedelta(hours=int(hours), minutes=int(minutes))
    return datetime.timezone(offset if sign == "+" else -offset) if offset else _UTC


def _counted(number: int, payload: Any) -> Any:
    try:
        if number == DAYS:
            return datetime.date.fromordinal(_FIRST_DAY + payload)
        micros = round(payload * 1_000_000)
        return datetime.datetime(1970, 1, 1, tzinfo=_UTC) + micros * _MICRO
    except (TypeError, ValueError, OverflowError) as error:
        raise DecodeError(f"tag {number}: {payload!r}: {error}") from None


def _decimal(payload: Any) -> Any:
    import decimal

    if not isinstance(payload, list) or len(payload) not in (2, 3) or not _all_ints(payload):
        raise DecodeError("a decimal is [exponent, mantissa]")
    exponent, mantissa, *extra = payload
    if extra and not (0 <= extra[0] < len(_EXTRAS) and mantissa >= 0):
        raise DecodeError(f"there is no decimal of kind {extra[0]}")
    if extra and extra[0] > 1:
        return decimal.Decimal(_EXTRAS[extra[0]])
    sign = extra[0] if extra else int(mantissa < 0)
    digits = decimal.Decimal(mantissa).as_tuple().digits
    try:
        return decimal.Decimal((sign, digits, exponent))
    except (ValueError, OverflowError, decimal.DecimalException):
        raise DecodeError(f"Python has no decimal with the exponent {exponent}") from None


def _all_ints(items: list[Any]) -> bool:
    return all(type(item) is int for item in items)


# ---- typed arrays (RFC 8746) --------------------------------------------------------


def _array_codes() -> dict[tuple[str, int], str]:
    codes: dict[tuple[str, int], str] = {}
    for code in "BHILQbhilqfd":
        kind = "f" if code in "fd" else "i" if code.islower() else "u"
        codes.setdefault((kind, array(code).itemsize), code)
    return codes


_CODES = _array_codes()
_CLAMPED = 68


def _array(number: int, data: Any) -> Any:
    if number == 76:
        return data  # reserved
    if not isinstance(data, bytes):
        raise DecodeError(f"a typed array is bytes, not a {type(data).__name__}")
    real, signed = number & 16, number & 8
    size = 1 << (number & 3) + bool(real)
    byteorder = "little" if number & 4 and number != _CLAMPED else "big"
    if len(data) % size:
        raise DecodeError(f"{len(data)} bytes are no array of numbers of {size} bytes")
    if real and size == 2:
        mark = "<" if byteorder == "little" else ">"
        return array("f", struct.unpack(f"{mark}{len(data) // 2}e", data))
    if real and size == 16:
        return array("d", (_quad(data[i : i + 16], byteorder) for i in range(0, len(data), 16)))
    result = array(_CODES["f" if real else "i" if signed else "u", size])
    result.frombytes(data)
    if size > 1 and byteorder != sys.byteorder:
        result.byteswap()
    return result


def _quad(data: bytes, byteorder: Any) -> float:
    bits = int.from_bytes(data, byteorder)
    sign = -1.0 if bits >> 127 else 1.0
    exponent, mantissa = bits >> 112 & 0x7FFF, bits & (1 << 112) - 1
    if exponent == 0x7FFF:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * 0.0  # far below the smallest double
    try:
        return sign * math.ldexp(mantissa | 1 << 112, exponent - 16383 - 112)
    except OverflowError:
        return sign * math.inf
