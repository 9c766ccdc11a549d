"""Functions that know nothing of Snakepit."""

from __future__ import annotations

from collections.abc import Iterator

__thread_safe__ = True  # the suite runs them in threads as well


def double(x: float) -> float:
    return x * 2


async def triple(x: float) -> float:
    return x * 3


def count(to: int) -> Iterator[int]:
    yield from range(to)


async def count_async(to: int):  # type: ignore[no-untyped-def]
    for n in range(to):
        yield n
