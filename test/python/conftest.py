"""Paths, the generated protocol modules, and workers for the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGE = ROOT / "priv" / "python"

# Before 3.10 subprocess really forks, and gRPC's handlers for that are fragile.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# These libraries are large: their tests run where an interpreter that has them is named.
LARGE = {"torch": "PyTorch", "polars": "Polars"}
LEFT_OUT = [name for name in LARGE if not os.environ.get(f"SNAKEPIT_TEST_{name.upper()}_PYTHON")]
collect_ignore = [f"test_zero_copy_{name}.py" for name in LEFT_OUT]

for directory in (str(PACKAGE), str(HERE)):
    if directory not in sys.path:
        sys.path.insert(0, directory)

if hasattr(sys, "set_int_max_str_digits"):
    sys.set_int_max_str_digits(0)  # as a worker does


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for name in LEFT_OUT:
        variable = f"SNAKEPIT_TEST_{name.upper()}_PYTHON"
        terminalreporter.write_line(f"Tests of {LARGE[name]} are left out: {variable} names none")


def _generate(target: Path) -> None:
    plugin = shutil.which("grpc_python_plugin")
    protoc = shutil.which("protoc")
    if plugin is None or protoc is None:
        raise RuntimeError(
            "set SNAKEPIT_PROTO_PATH to the generated modules, or install "
            "protobuf-compiler and protobuf-compiler-grpc to make them here"
        )
    subprocess.run(
        [
            protoc,
            f"-I{ROOT / 'proto'}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--plugin=protoc-gen-grpc_python={plugin}",
            "snakepit_bridge.proto",
        ],
        check=True,
    )


@pytest.fixture(scope="session", autouse=True)
def proto_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given = os.environ.get("SNAKEPIT_PROTO_PATH")
    if given and (Path(given) / "snakepit_bridge_pb2.py").exists():
        path = given
    else:
        target = tmp_path_factory.mktemp("proto")
        _generate(target)
        path = str(target)
    os.environ["SNAKEPIT_PROTO_PATH"] = path
    if path not in sys.path:
        sys.path.append(path)
    yield path
    if given is None:
        os.environ.pop("SNAKEPIT_PROTO_PATH", None)
    else:
        os.environ["SNAKEPIT_PROTO_PATH"] = given


@pytest.fixture
def start_worker(proto_path: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts workers that end with the test."""
    from harness import Worker

    workers: list[Worker] = []

    def start(adapter: str, *arguments: str, **options: Any) -> Worker:
        directory = tmp_path / f"worker{len(workers)}"
        directory.mkdir()
        worker = Worker(adapter, directory, arguments, **options)
        workers.append(worker)
        return worker.connect()

    yield start
    for worker in workers:
        worker.kill()


@pytest.fixture(scope="session")
def showcase(proto_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One showcase worker for all tests that do not harm it."""
    from harness import Worker

    worker = Worker(
        "snakepit_bridge.adapters.showcase.ShowcaseAdapter", tmp_path_factory.mktemp("showcase")
    )
    try:
        yield worker.connect()
    finally:
        worker.kill()


@pytest.fixture(scope="session")
def tools(proto_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One worker with the tools of adapters/tools.py."""
    from harness import Worker

    worker = Worker("tools", tmp_path_factory.mktemp("tools"))
    try:
        yield worker.connect()
    finally:
        worker.kill()
