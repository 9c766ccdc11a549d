"""A bare module of functions."""

from __future__ import annotations

from os.path import join
from typing import Any

_private = join


def double(x: float) -> float:
    return x * 2


def pairs(ctx: Any, **named: Any) -> Any:
    return {"session": ctx.session_id, "named": named}


def count(to: int) -> Any:
    yield from range(to)
