"""Logging, errors as JSON, thread-safe adapters, options."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import snakepit_bridge
from snakepit_bridge import configure_logging, get_logger
from snakepit_bridge.base_adapter_threaded import (
    ExampleThreadSafeAdapter,
    ThreadLocalStorage,
    ThreadSafeAdapter,
    require_thread_safe,
    thread_safe_method,
    validate_thread_safety,
)
from snakepit_bridge.logging_config import correlation_id
from snakepit_bridge.worker import failure, options


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_exports() -> None:
    assert snakepit_bridge.__version__ == "2.0.0"
    for name in snakepit_bridge.__all__:
        assert getattr(snakepit_bridge, name) is not None
        assert name in dir(snakepit_bridge)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = snakepit_bridge.nothing


def test_logger_names() -> None:
    assert get_logger("snakepit_bridge.heartbeat").name == "snakepit.bridge.heartbeat"
    assert get_logger("snakepit_bridge").name == "snakepit.bridge"
    assert get_logger("mine").name == "snakepit.mine"
    assert get_logger("snakepit.x").name == "snakepit.x"


@pytest.mark.parametrize(
    ("text", "level"), [("debug", 10), ("WARNING", 30), ("none", 60), ("junk", 40)]
)
def test_levels(
    root_logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, text: str, level: int
) -> None:
    monkeypatch.setenv("SNAKEPIT_LOG_LEVEL", text)
    configure_logging(force=True)
    assert root_logger.level == level
    assert len(root_logger.handlers) == 1
    configure_logging()
    assert len(root_logger.handlers) == 1


def test_records_carry_the_correlation_id(
    root_logger: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SNAKEPIT_LOG_LEVEL", "info")
    configure_logging(force=True)
    token = correlation_id.set("sp-42")
    get_logger("x").info("hello")
    correlation_id.reset(token)
    assert "snakepit.x INFO [sp-42] hello" in capsys.readouterr().err


# ---- errors -----------------------------------------------------------------------


DOCUMENTED = {"type", "message", "stacktrace", "traceback", "context", "bases"}


def caught(depth: int = 0, message: str = "m") -> Exception:
    def raise_at(level: int) -> None:
        if level:
            raise_at(level - 1)
        raise ValueError(message)

    try:
        raise_at(depth)
    except ValueError as error:
        return error
    raise AssertionError


def test_reports_fit_their_limit() -> None:
    for error in (
        caught(100),
        caught(0, "ü𝄞" * 10_000),
        caught(3, '\\"\n' * 5000),
        type("N" * 300, (ValueError,), {})("x"),
    ):
        report = failure.describe(error, "t" * 1000, "s" * 1000, {"library": "l" * 5000})
        text = failure.to_json(report, failure.MAX_DETAILS)
        assert len(text) <= failure.MAX_DETAILS
        assert text.isascii()
        # What is documented stays; what else there is makes room for it.
        assert set(json.loads(text)) >= DOCUMENTED
        assert len(failure.to_json(report)) > len(text) or "N" in report["type"]


def test_short_reports_are_whole() -> None:
    report = failure.describe(caught(), "t", "s")
    assert json.loads(failure.to_json(report, failure.MAX_DETAILS)) == report
    assert report["message"] == "m"
    assert "raise_at" in report["traceback"]


# ---- threads ------------------------------------------------------------------------


def in_threads(count: int, work: Any) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_the_lock_holds_over_instances() -> None:
    start = ExampleThreadSafeAdapter().increment(by=0)["count"]

    def work() -> None:
        for _ in range(500):
            ExampleThreadSafeAdapter().increment()

    in_threads(16, work)
    assert ExampleThreadSafeAdapter().increment(by=0)["count"] == start + 8000
    stats = ExampleThreadSafeAdapter().get_stats()
    assert stats["adapter_class"] == "ExampleThreadSafeAdapter"
    assert stats["tracker"]["total_requests"] >= 8002
    assert stats["tracker"]["active_threads"] == 0


class Mine(ThreadSafeAdapter):
    @thread_safe_method
    def nested(self) -> Any:
        with self.track_request("id") as request_id:
            assert request_id == "id"
            return self.get_stats()["tracker"]


class Other(ThreadSafeAdapter):
    pass


def test_classes_do_not_share() -> None:
    assert Mine._shared_lock is not Other._shared_lock
    assert Mine()._shared_lock is Mine()._shared_lock
    before = Other().get_stats()["tracker"]
    inside = Mine().nested()
    assert inside["total_active_requests"] == 2
    assert inside["active_threads"] == 1
    assert Other().get_stats()["tracker"] == before


def test_thread_local_values_last_and_are_seen_by_their_thread_only() -> None:
    Mine().set_thread_local("x", 1)
    assert Mine().get_thread_local("x") == 1
    seen: list[Any] = []
    in_threads(1, lambda: seen.append(Mine().get_thread_local("x", "none")))
    assert seen == ["none"]
    Mine().set_thread_local("y", 2)
    Mine().clear_thread_local("x")
    assert (Mine().get_thread_local("x"), Mine().get_thread_local("y")) == (None, 2)
    Mine().clear_thread_local()
    assert Mine().get_thread_local("y") is None
    storage = ThreadLocalStorage()
    storage.set("k", 1)
    storage.clear("absent")
    assert storage.get("k") == 1


def test_declarations() -> None:
    assert validate_thread_safety(Mine)
    assert not validate_thread_safety(object)

    @require_thread_safe
    def wants(adapter: Any) -> str:
        return "yes"

    assert wants(Mine()) == "yes"
    with pytest.raises(ValueError, match="object is not thread-safe"):
        wants(object())
    assert thread_safe_method(lambda self: 1).__thread_safe__ is True  # type: ignore[attr-defined]


# ---- options --------------------------------------------------------------------------


def test_published_flags_are_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    given = options.parse(
        [
            "--adapter",
            "a.B",
            "--port",
            "0",
            "--elixir-address",
            "h:1",
            "--snakepit-run-id",
            "abc1234",
            "--snakepit-instance-name",
            "n",
            "--snakepit-instance-token",
            "t",
            "--heartbeat-enabled",
            "--heartbeat-interval-ms",
            "1",
            "--heartbeat-timeout-ms",
            "2",
            "--heartbeat-max-missed",
            "3",
            "--heartbeat-initial-delay-ms",
            "4",
            "--heartbeat-dependent",
            "--max-workers",
            "4",
            "--thread-safety-check",
            "--mode",
            "threaded",
        ]
    )
    assert (given.adapter, given.elixir_address, given.mode) == ("a.B", "h:1", "threaded")
    assert (given.max_workers, given.snakepit_run_id) == (4, "abc1234")
    assert capsys.readouterr().err == ""


def test_addresses_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNAKEPIT_GRPC_ADDRESS", raising=False)
    monkeypatch.setenv("SNAKEPIT_ELIXIR_ADDRESS", "b:2")
    assert options.parse(["--adapter", "a"]).elixir_address == "b:2"
    monkeypatch.setenv("SNAKEPIT_GRPC_ADDRESS", "a:1")
    assert options.parse(["--adapter", "a"]).elixir_address == "a:1"
    assert options.parse(["--adapter", "a", "--elixir-address", "c:3"]).elixir_address == "c:3"
    assert options.parse(["--adapter", "a"]).host == "127.0.0.1"
    monkeypatch.setenv("SNAKEPIT_BIND_HOST", "0.0.0.0")
    assert options.parse(["--adapter", "a"]).host == "0.0.0.0"
