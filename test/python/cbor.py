"""CBOR in a few lines, so that the extension is not checked against itself."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple


class Tag(NamedTuple):
    """A tagged item that has no type of its own."""

    number: int
    value: Any


def dumps(value: Any) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value]
    if isinstance(value, Tag):
        return _head(6, value.number) + dumps(value.value)
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode()
        return _head(3, len(text)) + text
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(map(dumps, value))
    if isinstance(value, tuple):
        return dumps(Tag(40000, list(value)))
    if isinstance(value, (set, frozenset)):
        return dumps(Tag(258, list(value)))
    if isinstance(value, dict):
        items = (dumps(k) + dumps(v) for k, v in value.items())
        return _head(5, len(value)) + b"".join(items)
    raise TypeError(type(value))


def loads(data: bytes) -> Any:
    value, end = _load(data, 0)
    assert end == len(data), "bytes after the value"
    return value


def _integer(value: int) -> bytes:
    major, number = (0, value) if value >= 0 else (1, -1 - value)
    if number < 1 << 64:
        return _head(major, number)
    big = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return _head(6, 2 + major) + _head(2, len(big)) + big


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for width, code, form in ((1, 24, ">B"), (2, 25, ">H"), (4, 26, ">I"), (8, 27, ">Q")):
        if number < 1 << (8 * width):
            return bytes([major << 5 | code]) + struct.pack(form, number)
    raise OverflowError(number)


def _load(data: bytes, at: int) -> tuple[Any, int]:
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        return _simple(data, at, info)
    if info >= 24:
        width = 1 << (info - 24)
        number = int.from_bytes(data[at : at + width], "big")
        at += width
    else:
        number = info
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if major in (2, 3):
        raw = data[at : at + number]
        assert len(raw) == number
        return (raw if major == 2 else raw.decode()), at + number
    if major == 4:
        return _items(data, at, number)
    if major == 5:
        flat, at = _items(data, at, 2 * number)
        return dict(zip(flat[::2], flat[1::2])), at
    value, at = _load(data, at)
    return _tagged(number, value), at


def _items(data: bytes, at: int, count: int) -> tuple[list[Any], int]:
    items = []
    for _ in range(count):
        item, at = _load(data, at)
        items.append(item)
    return items, at


def _simple(data: bytes, at: int, info: int) -> tuple[Any, int]:
    if info in (20, 21, 22):
        return {20: False, 21: True, 22: None}[info], at
    width, form = {25: (2, ">e"), 26: (4, ">f"), 27: (8, ">d")}[info]
    return struct.unpack(form, data[at : at + width])[0], at + width


def _tagged(number: int, value: Any) -> Any:
    if number == 2:
        return int.from_bytes(value, "big")
    if number == 3:
        return -1 - int.from_bytes(value, "big")
    if number == 258:
        return set(value)
    return tuple(value) if number == 40000 else Tag(number, value)
