"""Random values of every kind that crosses the border exactly."""

from __future__ import annotations

import math
import random
from typing import Any

EDGE_CASES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    2**64,
    10**5000,
    -(10**40),
    0.0,
    -0.0,
    1.0,
    0.1,
    5e-324,
    1.7976931348623157e308,
    1e16,
    -1.5e-7,
    "",
    "text",
    "äöü €  𝄞",
    '\x00\x01\x1f\x7f"\\/\u2028\u2029',
    "__snakepit_type__",
    b"",
    b"\x00\xff\xfe",
    bytes(range(256)),
    (),
    (1, (2, (3,))),
    [],
    [[[]]],
    {},
    {"": ""},
    {"__snakepit_type__": "bytes", "d": "AA=="},
    {"__snakepit_type__": 1},
    {7: "int", None: "none", True: "bool", 2.5: "float", (1, 2): "tuple", b"b": "bytes"},
    {"nested": {1: {"x": (b"y", [None, 2**70])}}},
]

EDGE_IDS = [f"{type(value).__name__}{n}" for n, value in enumerate(EDGE_CASES)]


def random_value(source: random.Random, depth: int = 0) -> Any:
    kinds = "nbifsSBx" if depth > 4 else "nbifsSBxltdmltdm"
    kind = source.choice(kinds)
    if kind == "l":
        return [random_value(source, depth + 1) for _ in range(source.randrange(5))]
    if kind == "t":
        return tuple(random_value(source, depth + 1) for _ in range(source.randrange(5)))
    if kind == "d":
        return {
            random_text(source): random_value(source, depth + 1)
            for _ in range(source.randrange(5))
        }
    if kind == "m":
        return {
            random_key(source): random_value(source, depth + 1)
            for _ in range(source.randrange(5))
        }
    return random_scalar(source, kind)


def random_scalar(source: random.Random, kind: str) -> Any:
    if kind == "b":
        return source.random() < 0.5
    if kind == "i":
        return source.randrange(-1000, 1000)
    if kind == "x":
        return source.getrandbits(source.randrange(1, 300)) * source.choice((1, -1))
    if kind == "f":
        return math.ldexp(source.uniform(-1, 1), source.randrange(-1000, 1000))
    if kind in "sS":
        return random_text(source)
    if kind == "B":
        return bytes(source.getrandbits(8) for _ in range(source.randrange(20)))
    return None


def random_text(source: random.Random) -> str:
    points = []
    while len(points) < source.randrange(8):
        point = source.choice((source.randrange(128), source.randrange(0x11000)))
        if not 0xD800 <= point < 0xE000:
            points.append(chr(point))
    return "".join(points)


def random_key(source: random.Random) -> Any:
    kind = source.choice("nbifsBxt")
    if kind == "t":
        return tuple(random_scalar(source, k) for k in source.choices("ifsB", k=2))
    return random_scalar(source, kind)


def exactly_equal(a: Any, b: Any) -> bool:
    """Equality that tells 1 from 1.0 and True, and 0.0 from -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(exactly_equal, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            exactly_equal(k1, k2) and exactly_equal(v1, v2)
            for (k1, v1), (k2, v2) in zip(a.items(), b.items())
        )
    return bool(a == b)
