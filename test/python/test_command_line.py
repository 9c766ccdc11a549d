"""The three entries of a worker, and every option of the published ones."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from harness import PACKAGE, run_python

ENTRIES = {
    "module": ["-m", "snakepit_bridge"],
    "process": [str(PACKAGE / "grpc_server.py")],
    "threaded": [str(PACKAGE / "grpc_server_threaded.py")],
}
THREADED = "snakepit_bridge.adapters.threaded_showcase.ThreadedShowcaseAdapter"

OPTIONS = [
    ("--port", "0"),
    ("--elixir-address", "127.0.0.1:1"),
    ("--snakepit-run-id", "k3x9a2p"),
    ("--run-id", "k3x9a2p"),
    ("--snakepit-instance-name", "prod"),
    ("--snakepit-instance-token", "t0"),
    ("--heartbeat-enabled",),
    ("--heartbeat-interval-ms", "2000"),
    ("--heartbeat-timeout-ms", "10000"),
    ("--heartbeat-max-missed", "3"),
    ("--heartbeat-initial-delay-ms", "0"),
    ("--heartbeat-dependent",),
    ("--heartbeat-independent",),
    ("--max-workers", "4"),
    ("--thread-safety-check",),
]


def run(entry: str, *arguments: str) -> Any:
    return run_python(*ENTRIES[entry], *arguments)


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_names_every_option(entry: str) -> None:
    result = run(entry, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    for option, *_value in [*OPTIONS, ("--adapter",), ("--health-check",)]:
        assert option in result.stdout


@pytest.mark.parametrize("entry", ["process", "threaded"])
def test_an_old_python_says_that_it_is_too_old(entry: str) -> None:
    (script,) = ENTRIES[entry]
    program = f"""if True:
        import runpy, sys
        sys.version_info = (3, 8, 18, "final", 0)
        sys.version = "3.8.18 (main)"
        runpy.run_path({script!r}, run_name="__main__")
    """
    result = run_python("-c", program)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"snakepit: workers need Python 3.9 or newer, and {sys.executable} is 3.8.18: "
        "run mix snakepit.setup, or set SNAKEPIT_PYTHON\n"
    )


@pytest.mark.parametrize("entry", ENTRIES)
def test_health_check(entry: str) -> None:
    result = run(entry, "--health-check", "--adapter", THREADED)
    assert (result.returncode, result.stdout, result.stderr) == (0, "ok\n", "")
    result = run(entry, "--health-check", "--adapter", "no_such_module.Adapter")
    assert (result.returncode, result.stdout) == (1, "")
    assert "no_such_module" in result.stderr.splitlines()[0]


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_published_option_is_taken_without_a_word(entry: str) -> None:
    both_would_contradict = ("--heartbeat-independent",)
    given = [part for option in OPTIONS if option != both_would_contradict for part in option]
    result = run(entry, "--health-check", "--adapter", THREADED, *given)
    assert (result.returncode, result.stdout, result.stderr) == (0, "ok\n", "")
    result = run(entry, "--health-check", "--adapter", THREADED, *both_would_contradict)
    assert (result.returncode, result.stderr) == (0, "")


def test_options_that_exclude_each_other() -> None:
    given = ("--heartbeat-dependent", "--heartbeat-independent")
    assert run("module", "--health-check", *given).returncode == 2


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_adapter_is_needed_to_serve(entry: str) -> None:
    result = run(entry)
    assert result.returncode == 2
    assert "--adapter is required" in result.stderr
