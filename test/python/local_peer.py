"""The BEAM's end of the local carrier in Python: see c_src/carrier/local.h.

Of each ring the control block has, on cache lines of their own: the count of
bytes written (offset 0), read (64), the consumer's sleeping flag (128) and the
producer's waiting flag (192); the data begin at 512.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import cbor
import pytest
from harness import HERE, PACKAGE, PATIENCE, ToolFailed, environment

ROOT = HERE.parent.parent

CALL, CANCEL, CREDIT, PING, INPUT, OFFER = 1, 2, 3, 4, 5, 7
ANSWER, CHUNK, PONG, INPUT_CREDIT = 16, 17, 18, 19

MAGIC = b"snakpit1" + struct.pack("<II", 1, 0)
CONTROL = 512
CLAIMS, CLAIM_COUNT = 256, 32  # within the first ring's control block
WRITTEN, READ, SLEEPING, WAITING = 0, 64, 128, 192
CAPACITY = 128 * 1024

_libc = ctypes.CDLL(None, use_errno=True)
_barrier = threading.Lock()


def _fence() -> None:
    with _barrier:  # a locked instruction, which is a full fence
        pass


def _eventfd() -> int:
    descriptor = _libc.eventfd(0, os.O_CLOEXEC | os.O_NONBLOCK)
    assert descriptor >= 0
    return int(descriptor)


def _memfd(size: int) -> int:
    descriptor = int(_libc.memfd_create(b"snakepit-test", 1))
    assert descriptor >= 0
    os.ftruncate(descriptor, size)
    return descriptor


def ring_bell(descriptor: int) -> None:
    os.write(descriptor, struct.pack("=Q", 1))


def build_extension(directory: Path) -> str:
    """The folder that holds the extension: that of the build, or one made here."""
    from snakepit_bridge import _native_file

    given = os.environ.get("SNAKEPIT_PROTO_PATH", "")
    if (Path(given) / _native_file.file_name()).exists():
        return given
    command = ["make", "-s", "-C", str(ROOT / "c_src"), "extension", f"MIX_APP_PATH={directory}"]
    subprocess.run([*command, f"PYTHON={sys.executable}"], check=True)
    return str(directory / "ebin")


def native_module(directory: Path) -> Any:
    """The extension, configured as in a worker."""
    from snakepit_bridge import _native
    from snakepit_bridge.worker import local_values

    path = build_extension(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNAKEPIT_PROTO_PATH", path)
        module = _native.load()
    assert module is not None, f"{path} holds no extension for this interpreter"
    local_values.configure(module)
    return module


class Ring:
    """One end of a ring: a producer's or a consumer's."""

    def __init__(self, memory: mmap.mmap, offset: int, capacity: int) -> None:
        self.words = memoryview(memory).cast("Q")
        self.memory = memory
        self.base = offset
        self.capacity = capacity
        self.mine = 0

    def get(self, field: int) -> int:
        return self.words[(self.base + field) // 8]

    def set(self, field: int, value: int) -> None:
        self.words[(self.base + field) // 8] = value

    def _take(self, flag: int) -> bool:
        _fence()
        taken = self.get(flag) & 0xFFFFFFFF != 0
        if taken:
            self.set(flag, 0)
        return taken

    def write(self, data: bytes) -> tuple[int, bool]:
        """Bytes written, and whether the consumer is to be woken."""
        room = self.capacity - (self.mine - self.get(READ))
        part = data[:room]
        at = self.mine % self.capacity
        start = self.base + CONTROL
        first = part[: self.capacity - at]
        self.memory[start + at : start + at + len(first)] = first
        rest = part[len(first) :]
        self.memory[start : start + len(rest)] = rest
        self.mine += len(part)
        self.set(WRITTEN, self.mine)
        return len(part), bool(part) and self._take(SLEEPING)

    def read(self) -> tuple[bytes, bool]:
        """All there is, and whether the producer is to be woken."""
        used = self.get(WRITTEN) - self.mine
        assert 0 <= used <= self.capacity
        at = self.mine % self.capacity
        start = self.base + CONTROL
        first = self.memory[start + at : start + min(at + used, self.capacity)]
        data = first + self.memory[start : start + used - len(first)]
        self.mine += used
        self.set(READ, self.mine)
        return data, bool(data) and self._take(WAITING)

    def sleep(self) -> bool:
        """Asks to be woken; False when there is something to read."""
        self.set(SLEEPING, 1)
        _fence()
        return self.get(WRITTEN) == self.mine

    def awake(self) -> None:
        self.set(SLEEPING, 0)


class Listener:
    """Where a worker is to come, and what it is told in its environment."""

    def __init__(self, directory: Path, capacity: int = CAPACITY) -> None:
        self.path = str(directory / "socket")
        self.token = os.urandom(32)
        self.capacity = capacity
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(PATIENCE)
        self.listener.bind(self.path)
        self.listener.listen()
        self.env = {
            "SNAKEPIT_LOCAL_SOCKET": self.path,
            "SNAKEPIT_LOCAL_TOKEN": self.token.hex(),
        }

    def accept(self) -> Connection:
        connection, _ = self.listener.accept()
        connection.settimeout(PATIENCE)
        hello = b""
        while len(hello) < 48:
            part = connection.recv(48 - len(hello))
            assert part, "the worker left during the handshake"
            hello += part
        assert hello[:12] + hello[16:] == MAGIC[:12] + self.token
        (flags,) = struct.unpack_from("<I", hello, 12)
        assert flags & ~7 == 0
        self.takes_offers, self.takes_segments = flags & 1 != 0, flags & 2 != 0
        self.no_gil = flags & 4 != 0
        return Connection(connection, self.capacity)

    def close(self) -> None:
        self.listener.close()


class Frame(bytes):
    """A payload, and the entries before it: ids and how many bytes."""

    attached: list[tuple[int, int]]


class Connection:
    """A worker that has come."""

    def __init__(self, sock: socket.socket, capacity: int, count: int = 3) -> None:
        self.socket = sock
        size = 2 * (CONTROL + capacity)
        memory = _memfd(size)
        self.memory = mmap.mmap(memory, size)
        self.worker_bell, self.own_bell = _eventfd(), _eventfd()
        self.out = Ring(self.memory, 0, capacity)
        self.inward = Ring(self.memory, CONTROL + capacity, capacity)
        self.buffer = b""
        self.frames: dict[int, list[tuple[int, Frame]]] = {}
        self.descriptors: dict[int, int] = {}  # of the worker's segments
        self._next_call = 0
        self._lock = threading.Lock()
        fds = [memory, self.worker_bell, self.own_bell][:count]
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        sock.sendmsg([MAGIC + struct.pack("<Q", capacity)], ancillary)
        os.close(memory)

    # ---- frames -----------------------------------------------------------

    def send(self, kind: int, call: int, payload: bytes = b"", attached: int = 0) -> None:
        self.send_raw(struct.pack("<IBBxxQ", len(payload), kind, attached, call) + payload)

    def send_raw(self, data: bytes) -> None:
        end = time.monotonic() + PATIENCE
        while data:
            done, bell = self.out.write(data)
            data = data[done:]
            if bell:
                ring_bell(self.worker_bell)
            if data:
                assert time.monotonic() < end, "the worker does not read"
                self.pump()
                time.sleep(0.0001)

    def pump(self) -> bool:
        """Reads what has come."""
        data, bell = self.inward.read()
        if bell:
            ring_bell(self.worker_bell)
        self.buffer += data
        at = 0
        while len(self.buffer) - at >= 16:
            length, kind, count, call = struct.unpack_from("<IBBxxQ", self.buffer, at)
            if len(self.buffer) - at - 16 < length:
                break
            frame = Frame(self.buffer[at + 16 + 16 * count : at + 16 + length])
            frame.attached = [
                struct.unpack_from("<QQ", self.buffer, at + 16 + 16 * n) for n in range(count)
            ]
            self.frames.setdefault(call, []).append((kind, frame))
            at += 16 + length
        self.buffer = self.buffer[at:]
        return bool(data)

    def take_descriptors(self) -> bool:
        """Those of the worker's segments; False when it is gone."""
        while select.select([self.socket], [], [], 0)[0]:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, 16, 2)
            except OSError:
                return False
            if not data:
                return False
            assert len(data) == 16
            assert len(fds) == 1
            self.descriptors[struct.unpack_from("<Q", data)[0]] = fds[0]
        return True

    def wait(self, ready: Callable[[], Any], what: str) -> Any:
        """Until ``ready`` says so, reading and sleeping as the BEAM does."""
        end = time.monotonic() + PATIENCE
        while True:
            self.pump()
            value = ready()
            if value:
                return value
            assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
            if self.inward.sleep():
                readable = select.select([self.own_bell, self.socket], [], [], 0.2)[0]
                if self.own_bell in readable:
                    os.read(self.own_bell, 8)
                if self.socket in readable and not self.take_descriptors():
                    self.pump()
                    value = ready()
                    if value:
                        return value
                    raise ConnectionError(f"the worker is gone; waited for {what}")
            self.inward.awake()

    def take(self, call: int) -> tuple[int, Frame]:
        """The next frame of that call."""
        self.wait(lambda: self.frames.get(call), f"a frame of call {call}")
        queue = self.frames[call]
        frame = queue.pop(0)
        if not queue:
            del self.frames[call]
        return frame

    # ---- calls ------------------------------------------------------------

    def request(
        self,
        tool: str,
        arguments: Any = None,
        session: str = "session_1",
        metadata: Optional[dict[str, str]] = None,
        stream: bool = False,
        inputs: bool = False,
    ) -> bytes:
        import snakepit_bridge_pb2 as pb2

        request = pb2.ExecuteToolRequest(
            session_id=session,
            tool_name=tool,
            metadata=metadata or {},
            stream=stream,
            inputs=inputs,
        )
        if arguments is not None:
            request.arguments_cbor = cbor.dumps(arguments)
        return bytes(request.SerializeToString())

    def start(self, tool: str, arguments: Any = None, **extra: Any) -> int:
        """The number of a call that is under way."""
        self._next_call += 1
        self.send(CALL, self._next_call, self.request(tool, arguments, **extra))
        return self._next_call

    def offer(self, tool: str, arguments: Any = None, number: Optional[int] = None) -> int:
        """A call that may be taken back; by default under the next number."""
        self._next_call = number or self._next_call + 1
        call = self._next_call
        struct.pack_into("<Q", self.memory, CLAIMS + call % CLAIM_COUNT * 8, call)
        self.send(OFFER, call, self.request(tool, arguments))
        return call

    def on_offer(self, call: int) -> bool:
        at = CLAIMS + call % CLAIM_COUNT * 8
        return bool(struct.unpack_from("<Q", self.memory, at)[0] == call)

    def take_back(self, call: int) -> None:
        """For calls that the worker does not begin at this moment."""
        struct.pack_into("<Q", self.memory, CLAIMS + call % CLAIM_COUNT * 8, 0)

    def answer(self, call: int) -> Any:
        import snakepit_bridge_pb2 as pb2

        kind, payload = self.take(call)
        assert kind == ANSWER
        return pb2.ExecuteToolResponse.FromString(payload)

    def value(self, call: int) -> Any:
        """The value, or ToolFailed."""
        response = self.answer(call)
        if not response.success:
            raise ToolFailed(response.error_message)
        return cbor.loads(response.result_cbor) if response.result_cbor else None

    def call(self, tool: str, arguments: Any = None, **extra: Any) -> Any:
        return self.value(self.start(tool, arguments, **extra))

    def cancel(self, call: int) -> None:
        self.send(CANCEL, call)

    def credit(self, call: int, count: int) -> None:
        self.send(CREDIT, call, struct.pack("<I", count))

    def input(self, call: int, value: Any) -> None:
        import snakepit_bridge_pb2 as pb2

        chunk = pb2.ToolChunk(data_cbor=cbor.dumps(value))
        self.send(INPUT, call, chunk.SerializeToString())

    def end_inputs(self, call: int) -> None:
        import snakepit_bridge_pb2 as pb2

        self.send(INPUT, call, pb2.ToolChunk(is_final=True).SerializeToString())

    def wanted(self, call: int) -> int:
        """How many inputs the next frame of the call asks for."""
        kind, payload = self.take(call)
        assert kind == INPUT_CREDIT
        count: int = struct.unpack("<I", payload)[0]
        return count

    def ping(self) -> int:
        """For how many milliseconds the interpreter has let nobody in."""
        self._next_call += 1
        self.send(PING, self._next_call)
        kind, payload = self.take(self._next_call)
        assert kind == PONG
        return int(struct.unpack("<Q", payload)[0])

    def chunks(self, call: int, credit: bool = True) -> Iterator[Any]:
        """ToolChunk messages; ends with the answer, or raises ToolFailed."""
        import snakepit_bridge_pb2 as pb2

        while True:
            kind, payload = self.take(call)
            if kind == CHUNK:
                yield self._with_data(pb2.ToolChunk.FromString(payload), payload)
                if credit:
                    self.credit(call, 1)
                continue
            assert kind == ANSWER
            response = pb2.ExecuteToolResponse.FromString(payload)
            if not response.success:
                raise ToolFailed(response.error_message)
            return

    def _with_data(self, chunk: Any, frame: Frame) -> Any:
        """Where bytes lie beside the message, as if they stood in it."""
        from segment_peer import Lender

        if chunk.raw_cbor:
            assert not chunk.data
            chunk.data = Lender(self).resolve(cbor.loads(chunk.raw_cbor), frame)
            assert len(chunk.data) >= 65_536
        return chunk

    def items(self, tool: str, arguments: Any = None, **extra: Any) -> list[Any]:
        """Values of all chunks; checks ids and that exactly the last one is final."""
        chunks = list(self.chunks(self.start(tool, arguments, stream=True, **extra)))
        assert [c.chunk_id for c in chunks] == [f"{tool}-{n}" for n in range(1, len(chunks) + 1)]
        assert [c.is_final for c in chunks] == [False] * (len(chunks) - 1) + [True]
        return [chunk_value(c) for c in chunks if c.data_cbor or c.data]

    def close(self) -> None:
        self.socket.close()
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        os.close(self.worker_bell)
        os.close(self.own_bell)


def chunk_value(chunk: Any) -> Any:
    return cbor.loads(chunk.data_cbor) if chunk.data_cbor else chunk.data


class LocalWorker(Connection):
    """A worker process and the connection to it."""

    def __init__(
        self,
        adapter: str,
        directory: Path,
        arguments: tuple[str, ...] = (),
        env: Optional[dict[str, str]] = None,
        capacity: int = CAPACITY,
        proto_path: str = "",
        python: str = sys.executable,
    ) -> None:
        self.listener = Listener(directory, capacity)
        self.log_file = directory / "log"
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                [python, "-m", "snakepit_bridge", "--adapter", adapter, *arguments],
                env=environment(
                    SNAKEPIT_PROTO_PATH=proto_path, **self.listener.env, **(env or {})
                ),
                cwd=PACKAGE,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            connection = self.listener.accept()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the worker did not come:\n{self.log}") from None
        self.__dict__.update(connection.__dict__)

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def end(self) -> int:
        """The exit status of a worker that ends by itself."""
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.listener.close()
        self.close()
