"""Handlers that register commands, as adapters and as programs."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
from adapters.words import Words
from harness import HERE, PATIENCE, ToolFailed, Worker, environment

from snakepit_bridge import BaseCommandHandler
from snakepit_bridge.errors import UnknownToolError

COUNTS = {"word_count": 3, "char_count": 5, "unique_words": 2}


def test_as_an_adapter(start_worker: Callable[..., Any]) -> None:
    worker = start_worker("words.Words")
    assert worker.call("uppercase", {"text": "abc"}) == {"result": "ABC"}
    assert worker.call("word_count", {"text": "a b a"}) == COUNTS
    assert worker.call("greet", {"name": "Ann"}) == "hello Ann! 1"
    assert worker.call("greet", {"name": "Bob", "mark": "?"}) == "hello Bob? 2"
    assert worker.call("later", {"x": 1}, session="s") == ["s", {"x": 1}]
    assert [c.data for c in worker.stream("spell", {"text": "ab"})] == [b"a", b"b", b""]
    with pytest.raises(ToolFailed, match="did you mean 'uppercase'"):
        worker.call("upercase")
    with pytest.raises(ToolFailed, match="has no command '_run'"):
        worker.call("_run")


def test_as_a_program(proto_path: str, tmp_path: Path) -> None:
    worker = Worker("words", tmp_path, script=str(HERE / "adapters" / "words.py"))
    try:
        worker.connect()
        assert worker.call("greet", {"name": "Ann"}) == "good day Ann! 1"
        assert worker.call("greet", {"name": "Ann"}) == "good day Ann! 2"
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(PATIENCE) == 0
    finally:
        worker.kill()


def test_without_a_worker() -> None:
    words = Words()
    assert words.get_supported_commands() == [
        "greet",
        "later",
        "spell",
        "uppercase",
        "word_count",
    ]
    assert words.process_command("uppercase", {"text": "x"}) == {"result": "X"}
    with pytest.raises(UnknownToolError, match="it has: greet, later"):
        words.process_command("zzz")


def test_commands_that_cannot_be() -> None:
    handler = BaseCommandHandler()
    with pytest.raises(UnknownToolError, match="it has: none"):
        handler.process_command("x")
    for name in ("", 5, None):
        with pytest.raises(ValueError, match="name of a command"):
            handler.register_command(name, print)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be called"):
        handler.register_command("x", 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("unbuffered", "status"), [("", 0), ("1", 1)])
def test_a_reader_that_leaves_is_not_complained_about(unbuffered: str, status: int) -> None:
    code = (
        "import sys; from snakepit_bridge.core import setup_broken_pipe_suppression as s; s();"
        "sys.stdin.read(); sys.stdout.write('x' * 100)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(PYTHONUNBUFFERED=unbuffered),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, said = process.communicate(b"", timeout=PATIENCE)
        assert (process.returncode, said) == (status, b"")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_a_signal_before_it_serves() -> None:
    code = (
        "import os, signal; from snakepit_bridge.core import setup_graceful_shutdown as s; s();"
        "os.kill(os.getpid(), signal.SIGTERM); os._exit(9)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment(), timeout=PATIENCE, check=False
    )
    assert ended.returncode == 0
