"""Logging for the BEAM: one line of JSON each, whatever is logged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import Any

from harness import PATIENCE, environment

PROGRAM = """
import logging, warnings
from snakepit_bridge.logging_config import configure_logging, correlation_id
configure_logging()
log = logging.getLogger("shop")
"""


def run(code: str, level: str = "debug", **env: str) -> Any:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM + code],
        env=environment(SNAKEPIT_LOG_RECORDS="1", SNAKEPIT_LOG_LEVEL=level, **env),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


def records(output: bytes) -> list[dict[str, Any]]:
    found = []
    for line in output.splitlines():
        assert line.startswith(b"\x1e"), line
        found.append(json.loads(line[1:]))
    return found


def test_what_a_record_holds() -> None:
    result = run("correlation_id.set('sp-1')\nlog.warning('of %s\\n\\x1e%s', 'tea', '\\ud800')")
    [record] = records(result.stderr)
    assert record["level"] == 30
    assert record["logger"] == "shop"
    assert record["message"] == "of tea\n\x1e\ud800"
    assert record["correlation_id"] == "sp-1"
    assert record["file"] == "<string>"
    assert record["line"] == 7
    assert record["thread"] == "MainThread"
    assert result.stdout == b""


def test_the_level_of_the_environment() -> None:
    code = "for n in (10, 20, 30, 40, 50): log.log(n, 'x')"
    levels = {
        name: [record["level"] for record in records(run(code, name).stderr)]
        for name in ("debug", "warning", "error", "none")
    }
    assert levels == {
        "debug": [10, 20, 30, 40, 50],
        "warning": [30, 40, 50],
        "error": [40, 50],
        "none": [],
    }


def test_warnings_name_their_place() -> None:
    code = "warnings.simplefilter('always')\nwarnings.warn('old', DeprecationWarning)"
    [record] = records(run(code).stderr)
    assert (record["logger"], record["level"], record["line"]) == ("py.warnings", 30, 7)
    assert record["message"] == "DeprecationWarning: old"
    assert run(code, "error").stderr == b""
    # Who names a file gets them there.
    code = "import sys\nwarnings.showwarning('old', UserWarning, 'f.py', 3, sys.stdout)"
    result = run(code)
    assert (result.stderr, b"f.py:3: UserWarning: old" in result.stdout) == (b"", True)


def test_tracebacks_and_bad_arguments() -> None:
    code = """
try:
    1 / 0
except ZeroDivisionError:
    log.exception("divided")
"""
    [record] = records(run(code).stderr)
    assert "Traceback (most recent call last)" in record["message"]
    assert "ZeroDivisionError" in record["message"]
    # logging's own way to say that a call of it is wrong
    result = run("log.error('%d', 'no number')\nprint('goes on')")
    assert result.returncode == 0
    assert b"--- Logging error ---" in result.stderr
    assert result.stdout == b"goes on\n"


def test_long_records_are_cut_to_what_is_read() -> None:
    code = "log.error('begin' + '\U0001f40d' * 100_000 + 'end')"
    output = run(code).stderr
    [record] = records(output)
    assert len(output) < 65_536
    assert record["message"].startswith("begin")
    assert record["message"].endswith("end")
    assert "[cut]" in record["message"]


def test_threads_do_not_mix() -> None:
    code = """
import threading
def say(n):
    for _ in range(200):
        log.error(str(n) * 5_000)
threads = [threading.Thread(target=say, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    messages = [record["message"] for record in records(run(code).stderr)]
    assert len(messages) == 800
    assert all(len(set(message)) == 1 for message in messages)


def test_nobody_reads_any_more() -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + "input()\nlog.error('unheard')\nprint('goes on')"],
        env=environment(SNAKEPIT_LOG_RECORDS="1"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writer,
    )
    os.close(writer)
    os.close(reader)
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    output, _ = process.communicate(b"\n")
    timer.cancel()
    assert (process.returncode, output) == (0, b"goes on\n")
