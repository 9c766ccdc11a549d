"""How long adapters live, through real workers."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, Callable

import pytest
from harness import PATIENCE, ToolFailed, run_script


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "lives"


@pytest.fixture
def start(start_worker: Callable[..., Any], log: Path) -> Callable[..., Any]:
    def started(name: str, *arguments: str) -> Any:
        return start_worker(f"lives.{name}", *arguments, env={"LIVES_LOG": str(log)})

    return started


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines()


def test_by_default_an_adapter_serves_one_request(start: Callable[..., Any], log: Path) -> None:
    worker = start("Request")
    assert worker.call("count", session="a") == [1, 1, "a"]
    assert worker.call("count", session="a") == [2, 1, "a"]
    assert worker.call("later") is True
    hooks = ("init", "initialize", "cleanup")
    assert lines(log) == [f"{hook} {n}" for n in (1, 2, 3) for hook in hooks]


def test_one_for_the_process(start: Callable[..., Any], log: Path) -> None:
    worker = start("Process")
    assert worker.call("count", session="a") == [1, 1, "a"]
    with pytest.raises(ToolFailed, match="failed"):
        worker.call("fail", session="a")
    assert worker.call("count", session="b") == [1, 2, "b"]
    assert worker.call("later", session="c") is True
    assert lines(log) == ["init 1", "initialize 1"]
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(PATIENCE) == 0
    assert lines(log) == ["init 1", "initialize 1", "cleanup 1"]


def test_one_for_each_session(start: Callable[..., Any], log: Path) -> None:
    worker = start("Session")
    assert worker.call("count", session="a") == [1, 1, "a"]
    assert worker.call("count", session="b") == [2, 1, "b"]
    assert worker.call("count", session="a") == [1, 2, "a"]
    # A third one ends the one that was not used the longest.
    assert worker.call("count", session="c") == [3, 1, "c"]
    assert lines(log)[-1] == "cleanup 2"
    assert worker.call("count", session="a") == [1, 3, "a"]
    assert worker.call("count", session="b") == [4, 1, "b"]
    assert lines(log)[-1] == "cleanup 3"
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(PATIENCE) == 0
    assert sorted(lines(log)[-2:]) == ["cleanup 1", "cleanup 4"]


def test_sessions_end_when_the_beam_says_so(start: Callable[..., Any], log: Path) -> None:
    worker = start("Session")
    assert worker.call("count", session="a") == [1, 1, "a"]
    assert worker.call("count", session="b") == [2, 1, "b"]
    end = "snakepit.sessions.end"
    assert worker.call(end, {"sessions": ["b", "none", None, ["b"]]}) == 1
    assert lines(log)[-1] == "cleanup 2"
    assert worker.call(end, {"sessions": "a"}) == 0
    assert worker.call(end) == 0
    assert worker.call("count", session="a") == [1, 2, "a"]
    assert worker.call("count", session="b") == [3, 1, "b"]
    # Where none are kept it is a name like any other.
    with pytest.raises(ToolFailed, match="UnknownToolError"):
        start("Process").call(end, {"sessions": ["a"]})


def test_sessions_end_when_nobody_uses_them(start: Callable[..., Any], log: Path) -> None:
    worker = start("ShortSession")
    assert worker.call("count", session="a") == [1, 1, "a"]
    assert worker.call("count", session="a") == [1, 2, "a"]
    worker.call("count", session="b")
    assert "cleanup 1" in lines(log)


def test_an_adapter_that_cannot_begin_is_not_kept(start: Callable[..., Any], log: Path) -> None:
    worker = start("Process")
    broken = Path(f"{log}.fail")
    broken.touch()
    for _ in range(2):
        with pytest.raises(ToolFailed, match="no model"):
            worker.call("count")
    broken.unlink()
    assert worker.call("count", session="a") == [3, 1, "a"]
    assert worker.call("count", session="a") == [3, 2, "a"]
    assert lines(log) == [
        *("init 1", "cleanup 1", "init 2", "cleanup 2"),
        *("init 3", "initialize 3"),
    ]


def test_calls_at_the_same_time_share_it(start: Callable[..., Any], log: Path) -> None:
    worker = start("Threads", "--mode", "threaded", "--max-workers", "8")
    calls = [
        worker.start("together", {"name": "x", "parties": 8}, session=f"s{n}") for n in range(8)
    ]
    for n, call in enumerate(calls):
        reply = call.result()
        assert reply.success, reply.error_message
        assert reply.result.value == f'[1,"s{n}","s{n}"]'.encode()
    assert lines(log) == ["init 1", "initialize 1"]


@pytest.mark.parametrize("same_session", [True, False])
@pytest.mark.parametrize("name", ["AsyncProcess", "AsyncSession"])
def test_coroutines_at_the_same_time_share_it(
    start: Callable[..., Any], log: Path, name: str, same_session: bool
) -> None:
    worker = start(name, "--concurrency", "8")
    sessions = ["s" if same_session else f"s{n}" for n in range(8)]
    calls = [
        worker.start("together_async", {"name": "x", "parties": 8}, session=session)
        for session in sessions
    ]
    numbers = set()
    for session, call in zip(sessions, calls):
        reply = call.result()
        assert reply.success, reply.error_message
        number, before, after = json.loads(reply.result.value)
        assert (before, after) == (session, session)
        numbers.add(number)
    assert len(numbers) == (8 if name == "AsyncSession" and not same_session else 1)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(PATIENCE) == 0
    assert sorted(lines(log)) == sorted(
        f"{hook} {n}" for n in numbers for hook in ("init", "initialize", "cleanup")
    )


def test_adapters_that_inherit_nothing(start: Callable[..., Any]) -> None:
    worker = start("Plain")
    assert worker.call("x", session="a") == ["a"]
    assert worker.call("x", session="b") == ["a", "b"]
    assert start("OtherMeaning").call("x") == "x"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Unknown", "one of 'request', 'session', 'process'"),
        ("BadLimit", "max_sessions is 0"),
    ],
)
def test_declarations_that_mean_nothing(name: str, text: str) -> None:
    ended = run_script("--adapter", f"lives.{name}", LIVES_LOG=os.devnull)
    assert ended.returncode == 1
    assert text in ended.stderr
