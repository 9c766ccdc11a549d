"""Start-up, options, exit codes."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Callable

import pytest
from harness import (
    PACKAGE,
    PATIENCE,
    Worker,
    first,
    run_python,
    run_script,
    wait_until,
)

SHOWCASE = "snakepit_bridge.adapters.showcase.ShowcaseAdapter"


def test_ready_file_holds_the_port_and_the_worker_listens_on_loopback(showcase: Any) -> None:
    assert showcase.ready_file.read_text() == str(showcase.port)
    assert not showcase.ready_file.with_suffix(".tmp").exists()
    with socket.create_connection(("127.0.0.1", showcase.port), timeout=PATIENCE):
        pass


def test_the_bell_is_rung_when_the_ready_file_is_there(tmp_path: Path) -> None:
    path = tmp_path / "bell"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        bell.bind(str(path))
        bell.settimeout(PATIENCE)
        env = {"SNAKEPIT_READY_BELL": str(path), "SNAKEPIT_WORKER_ID": "worker 7"}
        worker = Worker(SHOWCASE, tmp_path, env=env)
        try:
            assert bell.recv(100) == b"worker 7"
            assert worker.port > 0
        finally:
            worker.kill()


def test_a_worker_whose_bell_nobody_hears_serves(tmp_path: Path) -> None:
    env = {"SNAKEPIT_READY_BELL": str(tmp_path / "nowhere")}
    worker = Worker(SHOWCASE, tmp_path, env=env)
    try:
        worker.connect()
        answer = worker.stub.Ping(worker.pb2.PingRequest(message="x"), timeout=PATIENCE)
        assert answer.message == "x"
    finally:
        worker.kill()


def test_ping_answers_with_the_message_and_the_time(showcase: Any) -> None:
    answer = showcase.stub.Ping(showcase.pb2.PingRequest(message="hello"), timeout=PATIENCE)
    assert answer.message == "hello"
    assert answer.server_time.seconds > 1_600_000_000


def test_health_check() -> None:
    good = run_script("--health-check")
    assert (good.returncode, good.stdout) == (0, "ok\n")
    bad = run_script("--health-check", "--adapter", "no.such.Adapter")
    assert bad.returncode == 1


def test_help_names_the_options() -> None:
    result = run_script("--help")
    assert result.returncode == 0
    for flag in ("--adapter", "--mode", "--max-workers", "--health-check", "--elixir-address"):
        assert flag in result.stdout


def test_unknown_options_are_ignored_with_a_warning() -> None:
    result = run_script("--health-check", "--frobnicate", "7")
    assert result.returncode == 0
    assert "ignoring unknown options: --frobnicate 7" in result.stderr


def test_bad_option_values_exit_with_2() -> None:
    assert run_script("--adapter", "x", "--port", "99999").returncode == 2
    assert run_script("--adapter", "x", "--max-workers", "0").returncode == 2
    missing = run_script()
    assert missing.returncode == 2
    assert "--adapter is required" in missing.stderr


@pytest.mark.parametrize(
    ("adapter", "expected"),
    [
        ("no_such_module.Adapter", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("tools.NoSuchClass", "module tools has no 'NoSuchClass' (adapter classes in it: Tools)"),
        ("broken", "RuntimeError: broken on purpose"),
        ("broken.Adapter", "RuntimeError: broken on purpose"),
        ("needs_missing.Adapter", "No module named 'a_package_that_is_not_there'"),
        ("two_adapters", "several adapter classes (FirstAdapter, SecondAdapter)"),
        ("needs_argument.NeedsArgument", "must take no arguments"),
        ("needs_argument:", "not a module or class"),
    ],
)
def test_adapter_failures_are_told_in_one_line(adapter: str, expected: str) -> None:
    result = run_script("--adapter", adapter)
    assert result.returncode == 1
    line = result.stderr.splitlines()[0]
    assert line.startswith("snakepit: cannot ")
    assert repr(adapter) in line
    assert expected in line
    assert "Traceback" in result.stderr


def test_missing_grpcio_is_told_in_one_line(tmp_path: Path) -> None:
    fake = tmp_path / "grpc"
    fake.mkdir()
    (fake / "__init__.py").write_text("raise ImportError('not installed')\n")
    path = os.pathsep.join((str(tmp_path), str(PACKAGE)))
    result = run_script("--adapter", SHOWCASE, PYTHONPATH=path)
    assert result.returncode == 1
    line = result.stderr.splitlines()[0]
    assert line.startswith("snakepit: cannot import grpcio: ImportError: not installed")
    assert "pip install" in line
    assert sys.executable in line


def test_missing_protocol_modules_are_told(tmp_path: Path) -> None:
    result = run_script("--adapter", SHOWCASE, SNAKEPIT_PROTO_PATH=str(tmp_path))
    assert result.returncode == 1
    assert "SNAKEPIT_PROTO_PATH" in result.stderr.splitlines()[0]


def test_a_taken_port_is_told(showcase: Any) -> None:
    result = run_script("--adapter", SHOWCASE, "--port", str(showcase.port))
    assert result.returncode == 1
    line = next(text for text in result.stderr.splitlines() if text.startswith("snakepit: "))
    assert line.startswith(f"snakepit: cannot listen on 127.0.0.1:{showcase.port}")


def test_module_entry_and_python_dash_m(proto_path: str) -> None:
    result = run_python("-m", "snakepit_bridge", "--health-check")
    assert (result.returncode, result.stdout) == (0, "ok\n")


def test_threaded_mode_wants_a_thread_safe_adapter() -> None:
    result = run_script(
        "--adapter", "published.PublishedAdapter", script="grpc_server_threaded.py"
    )
    assert result.returncode == 1
    assert "__thread_safe__" in result.stderr.splitlines()[0]


@pytest.mark.parametrize(
    "adapter", ["tools", "tools.Tools", "tools:Tools", "functions", "published.PublishedAdapter"]
)
def test_the_forms_of_adapter_names(adapter: str) -> None:
    assert run_script("--health-check", "--adapter", adapter).returncode == 0


EARLY_SIGNALS = """
import os, signal
from snakepit_bridge.worker import signals

reader, writer = os.pipe()
os.set_blocking(reader, False)
os.set_blocking(writer, False)
install = signal.signal

def install_and_send(number, handler):
    install(number, handler)
    os.kill(os.getpid(), number)

signal.signal = install_and_send
signals.route(writer)
print(sorted(os.read(reader, 16)) == sorted(signals.STOP_SIGNALS))
"""


def test_no_signal_is_lost_once_it_does_not_end_the_process() -> None:
    result = run_python("-c", EARLY_SIGNALS)
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_an_idle_worker_with_0(
    start_worker: Callable[..., Any], number: signal.Signals
) -> None:
    worker = start_worker("tools")
    worker.process.send_signal(number)
    assert worker.process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    "tool", ["sleeper", "spinner", "async_sleeper", "async_spinner", "stubborn"]
)
@pytest.mark.parametrize("mode", ["process", "threaded"])
def test_sigterm_ends_a_worker_whose_tool_runs(
    start_worker: Callable[..., Any], tool: str, mode: str
) -> None:
    worker = start_worker("tools", "--mode", mode)
    stream = worker.stream(tool)
    assert first(stream) == {"started": True}
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(PATIENCE) == 0


def test_leads_its_own_process_group_when_told(start_worker: Callable[..., Any]) -> None:
    worker = start_worker("tools", env={"SNAKEPIT_PROCESS_GROUP": "1"})
    assert os.getpgid(worker.process.pid) == worker.process.pid


def test_log_level_comes_from_the_environment(start_worker: Callable[..., Any]) -> None:
    worker = start_worker("tools", env={"SNAKEPIT_LOG_LEVEL": "info"})
    wait_until(lambda: f"serving on port {worker.port}" in worker.log, "the log line")


def test_the_package_imports_neither_grpcio_nor_numpy() -> None:
    code = (
        "import sys, snakepit_bridge as s\n"
        "s.BaseAdapter, s.tool, s.SessionContext, s.HeartbeatConfig, s.HeartbeatClient\n"
        "s.ZeroCopyRef, s.configure_logging, s.get_logger\n"
        "import snakepit_bridge.serialization, snakepit_bridge.adapters.showcase\n"
        "bad = {'grpc', 'numpy', 'google.protobuf', 'asyncio'} & set(sys.modules)\n"
        "assert not bad - {'asyncio'}, bad\n"
        "import logging; assert not logging.getLogger().handlers\n"
    )
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
