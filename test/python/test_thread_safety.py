"""What finds adapters that are not thread-safe, and what counts their calls."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from snakepit_bridge import BaseAdapter
from snakepit_bridge import thread_safety_checker as checking
from snakepit_bridge.base_adapter_threaded import ThreadSafeAdapter, thread_safe_method
from snakepit_bridge.thread_safety_checker import ThreadSafetyChecker, ThreadSafetyError

_shared: deque[int] = deque()
_total = 0


class Careless(ThreadSafeAdapter):
    cache: dict[str, int] = {}

    def add(self, n: int) -> None:
        global _total
        _total += n

    def note(self, n: int) -> None:
        _shared.append(n)

    def careful(self, n: int) -> None:
        with self.acquire_lock():
            _shared.append(n)


class Undeclared(BaseAdapter):
    pass


def in_two_threads(checker: ThreadSafetyChecker, name: str, safe: bool = False) -> None:
    """This thread enters a method in which another one is."""
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with checker.track_execution(name, safe):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=stay)
    thread.start()
    try:
        assert inside.wait(60)
        with checker.track_execution(name, safe):
            pass
    finally:
        leave.set()
        thread.join(60)


def test_one_thread_at_a_time_is_no_access_by_several() -> None:
    checker = ThreadSafetyChecker()
    with checker.track_execution("m"), checker.track_execution("m"):
        assert checker.check_method_access("m")
    report = checker.get_report()
    assert report["tracked_methods"] == 1
    assert report["warnings_issued"] == 0
    assert report["concurrent_accesses"] == {}
    assert report["methods"]["m"] == {
        "calls": 3,
        "threads": 1,
        "most_at_once": 1,
        "concurrent_accesses": 0,
    }


def test_several_threads_are_told_once() -> None:
    checker = ThreadSafetyChecker()
    for _ in range(3):
        in_two_threads(checker, "A.m")
    report = checker.get_report()
    assert report["concurrent_accesses"] == {"A.m": 3}
    assert report["warnings_issued"] == 1
    assert report["warnings"][0].startswith("A.m runs in 2 threads at once")
    checker.reset()
    assert checker.get_report()["tracked_methods"] == 0


def test_what_is_marked_is_counted_and_not_told() -> None:
    checker = ThreadSafetyChecker()
    in_two_threads(checker, "A.m", safe=True)
    report = checker.get_report()
    assert (report["warnings_issued"], report["concurrent_accesses"]) == (0, {"A.m": 1})


def test_a_strict_one_raises() -> None:
    with pytest.raises(ThreadSafetyError, match="runs in 2 threads"):
        in_two_threads(ThreadSafetyChecker(strict_mode=True), "A.m")
    with pytest.raises(ThreadSafetyError, match="pandas"):
        ThreadSafetyChecker(strict_mode=True).check_library_safety("pandas")


def test_one_that_is_off_does_nothing() -> None:
    checker = ThreadSafetyChecker(enabled=False, strict_mode=True)
    in_two_threads(checker, "A.m")
    assert not checker.check_library_safety("sqlite3")
    assert checker.get_report()["tracked_methods"] == 0


@pytest.mark.parametrize("name", ["matplotlib", "matplotlib.pyplot", "sqlite3", "pandas"])
def test_libraries_that_are_not_safe(name: str) -> None:
    checker = ThreadSafetyChecker()
    assert not checker.check_library_safety(name)
    assert name in checker.get_report()["warnings"][0]
    assert checker.check_library_safety("numpy")


def test_pitfalls() -> None:
    found = checking.check_common_pitfalls(Careless)
    assert len(found) == 3
    assert found[0].startswith("Careless.cache is a dict")
    assert "Careless.add sets the global '_total'" in found[1]
    assert "Careless.note uses the global '_shared', a deque" in found[2]
    assert checking.validate_adapter_thread_safety(Careless()) == found


def test_an_adapter_has_to_declare_itself() -> None:
    [why] = checking.validate_adapter_thread_safety(Undeclared)
    assert "does not declare itself" in why
    assert checking.require_thread_safe_adapter(Careless) is Careless
    with pytest.raises(ValueError, match="Undeclared is not thread-safe"):
        checking.require_thread_safe_adapter(Undeclared)


def test_the_global_one(capsys: pytest.CaptureFixture[str]) -> None:
    @checking.check_thread_safe
    def work() -> int:
        return 7

    checker = checking.get_global_checker()
    checker.reset()
    assert work() == 7
    assert checker.get_report()["tracked_methods"] == 0
    try:
        assert checking.enable_checking(strict_mode=True) is checker
        assert work() == 7
        assert checker.get_report()["strict_mode"]
        checking.print_thread_safety_report()
    finally:
        checking.disable_checking()
        checker.reset()
    assert "work: 1 calls, 1 threads, at most 1 at once" in capsys.readouterr().err


class Counted(ThreadSafeAdapter):
    @thread_safe_method
    async def coroutine(self) -> Any:
        await asyncio.sleep(0)
        return self.get_stats()["tracker"]["total_active_requests"]

    @thread_safe_method
    def generator(self) -> Iterator[Any]:
        yield self.get_stats()["tracker"]["total_active_requests"]

    @thread_safe_method
    async def items(self) -> AsyncIterator[Any]:
        yield self.get_stats()["tracker"]["total_active_requests"]


def active() -> int:
    return int(Counted().get_stats()["tracker"]["total_active_requests"])


def test_marked_methods_stay_what_they_are() -> None:
    adapter = Counted()
    assert inspect.iscoroutinefunction(adapter.coroutine)
    assert inspect.isgeneratorfunction(adapter.generator)
    assert inspect.isasyncgenfunction(adapter.items)
    assert asyncio.run(adapter.coroutine()) == 1  # type: ignore[arg-type]
    assert list(adapter.generator()) == [1]

    async def first() -> Any:
        items = adapter.items()
        value = await items.__anext__()
        await items.aclose()  # type: ignore[attr-defined]
        return value

    assert asyncio.run(first()) == 1
    assert active() == 0
