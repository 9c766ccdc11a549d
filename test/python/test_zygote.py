"""What keeps a process from being forked, and what a copy is told."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from snakepit_bridge.worker import zygote

PACKAGE = Path(__file__).resolve().parent.parent.parent / "priv" / "python"

# Another process: this one has threads and sockets of its own.
_CHECK = """
import os, sys
from snakepit_bridge.worker import zygote
before = zygote._descriptors()
{code}
print(zygote.unfit(before))
sys.stdout.flush()
os._exit(0)
"""


def _unfit(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _CHECK.format(code=code)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE), "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    return done.stdout.decode().strip()


@pytest.mark.parametrize(
    "code",
    [
        "",
        "import json, logging, random, uuid, asyncio, multiprocessing",
        "import grpc",
        "import snakepit_bridge.worker.process; zygote._load_later_grpc()",
        "import numpy",
        "kept = open('/dev/null', 'w'), open('/dev/urandom', 'rb'), open(sys.executable, 'rb')",
        "import threading; t = threading.Thread(target=int); t.start(); t.join()",
        "import subprocess; subprocess.run(['true'], check=True)",
    ],
)
def test_fit(code: str) -> None:
    assert _unfit(code) == "None"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (
            "import threading; threading.Thread(target=threading.Event().wait).start()",
            "it has started threads (1: ",
        ),
        ("import socket; kept = socket.socket()", "it has opened socket:["),
        ("kept = os.pipe()", "it has opened pipe:["),
        ("import selectors; kept = selectors.DefaultSelector()", "anon_inode:"),
        ("kept = os.openpty()", "it has opened /dev/"),
        (
            "import subprocess; kept = subprocess.Popen(['cat'], stdin=subprocess.PIPE)",
            "it has started other processes (",
        ),
        (
            "import types; torch = types.ModuleType('torch'); sys.modules['torch'] = torch\n"
            "torch.cuda = types.SimpleNamespace(is_initialized=lambda: True)",
            "CUDA",
        ),
    ],
)
def test_unfit(code: str, why: str) -> None:
    assert why in _unfit(code)


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def test_environment_of_a_request() -> None:
    changes = [b"A=1=2", b"GONE", b"EMPTY=", b"RAW=\xff"]
    request = struct.pack(">BQQIII", 6, 1, 2, 1, 6000, 4096) + _string(b"python3")
    request += struct.pack(">I", 2) + _string(b"-c") + _string(b"")
    request += struct.pack(">I", len(changes)) + b"".join(map(_string, changes)) + _string(b"/")
    assert zygote.environment(request) == changes


def test_preload_names_what_cannot_be_imported() -> None:
    with pytest.raises(Exception, match=r"'no_such_module'.*preload"):
        zygote._preload(["json", "no_such_module"])


# Serves, is pinged, pings itself; says what had to be imported for that.
_SERVE = """
import os, sys
from snakepit_bridge.worker import options, process, zygote
from snakepit_bridge.worker.beam import BeamLink
zygote._load_later_grpc()
before = set(sys.modules)
link = BeamLink("")
runner = process.Runner(process.AdapterHost(object(), link.stub))
service = process.BridgeService(runner, link.stub, True, process.TelemetryStream())
server = process.GrpcServer(service.handler(process.LanePool(runner)), "127.0.0.1", 0)
own = BeamLink(f"127.0.0.1:{server.start()}")
ping = sys.modules["snakepit_bridge_pb2"].PingRequest(message="x")
assert own.stub().Ping(ping, timeout=60).message == "x"
print(*sorted(name for name in set(sys.modules) - before if "native" not in name))
sys.stdout.flush()
os._exit(0)
"""


def test_a_zygote_has_all_that_grpc_workers_import() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SERVE],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    assert done.stdout.decode().strip() == ""
