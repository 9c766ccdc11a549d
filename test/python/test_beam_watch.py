"""What a gRPC worker does when the BEAM does not answer."""

from __future__ import annotations

import json
import threading
from typing import Any, Callable, Optional

import pytest
from harness import PATIENCE

from snakepit_bridge._heartbeat_config import HeartbeatConfig
from snakepit_bridge.worker import options
from snakepit_bridge.worker.beam_watch import BeamWatch

QUICK = HeartbeatConfig(interval_ms=1, timeout_ms=100, max_missed_heartbeats=3)


class Stub:
    """Answers as long as ``answers`` says so."""

    def __init__(self, answers: Callable[[int], bool]) -> None:
        self._answers = answers
        self.asked = 0

    def Ping(self, request: Any, timeout: float, wait_for_ready: bool) -> Any:
        self.asked += 1
        if not self._answers(self.asked):
            raise ConnectionError("no answer")
        return request


def watch(stub: Stub, config: HeartbeatConfig, on_lost: Callable[[], None]) -> BeamWatch:
    result = BeamWatch(lambda: stub, config, on_lost)
    assert result.start()
    return result


def test_so_many_misses_in_a_row_are_the_end(proto_path: str) -> None:
    lost = threading.Event()
    # Two, then one that is answered, then three.
    stub = Stub(lambda n: n == 3)
    beat = watch(stub, QUICK, lost.set)
    assert lost.wait(PATIENCE)
    beat.join()
    assert stub.asked == 6


def test_an_independent_worker_goes_on(proto_path: str) -> None:
    often = threading.Event()

    def answers(n: int) -> bool:
        if n > 10:
            often.set()
        return False

    def on_lost() -> None:
        raise AssertionError("it is independent")

    config = HeartbeatConfig(
        interval_ms=1, timeout_ms=100, max_missed_heartbeats=2, dependent=False
    )
    beat = watch(Stub(answers), config, on_lost)
    assert often.wait(PATIENCE)
    beat.stop()
    beat.join()


def test_a_stopped_watch_tells_nobody(proto_path: str) -> None:
    asked = threading.Event()
    gate = threading.Event()

    def answers(n: int) -> bool:
        asked.set()
        return not gate.wait(PATIENCE)

    def on_lost() -> None:
        raise AssertionError("it was stopped")

    beat = watch(Stub(answers), HeartbeatConfig(interval_ms=1, max_missed_heartbeats=1), on_lost)
    assert asked.wait(PATIENCE)
    beat.stop()
    gate.set()
    beat.join()


def test_disabled_does_not_start() -> None:
    assert not BeamWatch(lambda: None, HeartbeatConfig(enabled=False)).start()


@pytest.mark.parametrize(
    ("flags", "environment", "expected"),
    [
        ([], None, HeartbeatConfig()),
        (["--heartbeat-interval-ms", "5"], None, HeartbeatConfig(interval_ms=5)),
        (["--heartbeat-max-missed", "7"], None, HeartbeatConfig(max_missed_heartbeats=7)),
        (["--heartbeat-independent"], None, HeartbeatConfig(dependent=False)),
        (["--heartbeat-dependent"], {"dependent": False}, HeartbeatConfig(dependent=False)),
        (["--heartbeat-interval-ms", "5"], {"intervalMs": 6}, HeartbeatConfig(interval_ms=6)),
        ([], {"enabled": "off", "unknown": 1}, HeartbeatConfig(enabled=False)),
        ([], "no json", HeartbeatConfig()),
        ([], [1], HeartbeatConfig()),
        ([], {"timeout_ms": -1}, HeartbeatConfig()),
    ],
)
def test_the_environment_goes_before_flags(
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    environment: Optional[Any],
    expected: HeartbeatConfig,
) -> None:
    monkeypatch.delenv("SNAKEPIT_HEARTBEAT_CONFIG", raising=False)
    if environment is not None:
        text = environment if isinstance(environment, str) else json.dumps(environment)
        monkeypatch.setenv("SNAKEPIT_HEARTBEAT_CONFIG", text)
    assert options.heartbeat(options.parse(["--adapter", "a", *flags])) == expected
