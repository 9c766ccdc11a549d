"""Segments as the BEAM lends and takes them: see c_src/core/sp_segment.h."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
from typing import Any, Callable, Optional, Union

import cbor
from local_peer import ANSWER, CALL, CHUNK, Connection, Frame

FORGET, RELEASE = 8, 22
SHARED_BYTES, SHARED_TEXT = 40003, 40004
OF_WORKER = 1 << 63
PAGE = mmap.PAGESIZE

ADD_SEALS, GET_SEALS = 1033, 1034
SEAL_SHRINK, SEAL_GROW, SEAL_WRITE, SEAL_FUTURE_WRITE = 2, 4, 8, 16
LENT = SEAL_SHRINK | SEAL_GROW | SEAL_FUTURE_WRITE
GIVEN = SEAL_SHRINK | SEAL_GROW | SEAL_WRITE

_libc = ctypes.CDLL(None, use_errno=True)
Blob = Union[bytes, str]


def memfd(size: int) -> int:
    descriptor = int(_libc.memfd_create(b"snakepit-test", 3))
    assert descriptor >= 0
    os.ftruncate(descriptor, size)
    return descriptor


def pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


class Segment:
    """Memory that this side alone writes."""

    def __init__(self, number: int, size: int, seals: int = LENT) -> None:
        self.number = number
        self.size = size
        self.descriptor = memfd(size)
        self.memory = mmap.mmap(self.descriptor, size)
        if seals:
            fcntl.fcntl(self.descriptor, ADD_SEALS, seals)

    def fill(self, blobs: list[Blob]) -> list[tuple[int, int]]:
        """Puts them where the rules say: offsets and lengths."""
        at, places = PAGE, []
        for blob in blobs:
            data = blob.encode() if isinstance(blob, str) else blob
            self.memory[at : at + len(data)] = data
            self.memory[at + len(data)] = 0
            places.append((at, len(data)))
            at = pages(at + len(data) + 1) + PAGE
        return places

    def close(self) -> None:
        self.memory.close()
        os.close(self.descriptor)


class Lender:
    """What the BEAM does about segments, for one worker."""

    def __init__(self, worker: Connection) -> None:
        self.worker = worker
        self.segments: dict[int, Segment] = {}
        self.released: list[int] = []
        self._next = 0
        self._number = 5000

    # ---- lending ----------------------------------------------------------

    def make(self, size: int, seals: int = LENT, sent: bool = True) -> Segment:
        self._next += 1
        segment = self.segments[self._next] = Segment(self._next, size, seals)
        if sent:
            self.send_descriptor(segment)
        return segment

    def send_descriptor(self, segment: Segment, size: Optional[int] = None) -> None:
        import socket

        entry = struct.pack("<QQ", segment.number, segment.size if size is None else size)
        socket.send_fds(self.worker.socket, [entry], [segment.descriptor])

    def lend(self, blobs: list[Blob]) -> tuple[Segment, list[cbor.Tag]]:
        """A new segment with them, and what stands for them in a message."""
        size = PAGE + sum(pages(len(b) * 4 + 1) + PAGE for b in blobs)
        segment = self.make(size)
        return segment, self.tags(segment, blobs)

    def tags(self, segment: Segment, blobs: list[Blob], index: int = 0) -> list[cbor.Tag]:
        return [
            cbor.Tag(SHARED_TEXT if isinstance(blob, str) else SHARED_BYTES, [index, at, size])
            for blob, (at, size) in zip(blobs, segment.fill(blobs))
        ]

    def start(
        self,
        tool: str,
        arguments: Any,
        segments: list[Segment],
        kind: int = CALL,
        number: Optional[int] = None,
        **extra: Any,
    ) -> int:
        """The number of a call that has those attached."""
        if number is None:
            self._number += 1
            number = self._number
        payload = self.entries(segments) + self.worker.request(tool, arguments, **extra)
        self.worker.send(kind, number, payload, len(segments))
        return number

    def entries(self, segments: list[Segment]) -> bytes:
        return b"".join(struct.pack("<QQ", s.number, s.size) for s in segments)

    def call(self, tool: str, arguments: Any, segments: list[Segment], **extra: Any) -> Any:
        return self.value(self.start(tool, arguments, segments, **extra))

    def forget(self, *segments: Segment) -> None:
        ids = b"".join(struct.pack("<Q", s.number) for s in segments)
        self.worker.send(FORGET, 0, ids)

    def collect(self) -> list[int]:
        """The ids that were released so far, in order."""
        for kind, payload in self.worker.frames.pop(0, []):
            assert kind == RELEASE
            assert not payload.attached
            assert len(payload) % 8 == 0
            self.released += [n for (n,) in struct.iter_unpack("<Q", payload)]
        return self.released

    def wait_released(self, *segments: Segment) -> None:
        """Until exactly these have come, each as often as it is named."""
        wanted = sorted(s.number for s in segments)

        def there() -> bool:
            assert len(self.collect()) <= len(wanted), (self.released, wanted)
            return len(self.released) == len(wanted)

        self.worker.wait(there, f"the release of {wanted}")
        assert sorted(self.released) == wanted
        self.released = []

    # ---- what the worker gives ----------------------------------------------

    def value(self, call: int) -> Any:
        response, frame = self.response(call)
        return self.resolve(cbor.loads(response.result_cbor), frame)

    def response(self, call: int) -> tuple[Any, Frame]:
        import snakepit_bridge_pb2 as pb2
        from harness import ToolFailed

        kind, frame = self.worker.take(call)
        assert kind == ANSWER
        response = pb2.ExecuteToolResponse.FromString(frame)
        if not response.success:
            raise ToolFailed(response.error_message)
        return response, frame

    def chunk(self, call: int) -> Any:
        import snakepit_bridge_pb2 as pb2

        kind, frame = self.worker.take(call)
        assert kind == CHUNK
        return self.resolve(cbor.loads(pb2.ToolChunk.FromString(frame).data_cbor), frame)

    def resolve(self, value: Any, frame: Frame) -> Any:
        """The value with all references replaced by bytes."""
        memory: dict[int, bytes] = {}
        assert self.worker.take_descriptors()
        for number, size in frame.attached:
            if number & OF_WORKER:
                assert number not in memory
                memory[number] = self.given(number, size)
            else:
                memory[number] = self.segments[number].memory[:]

        def find(item: Any) -> Any:
            if isinstance(item, cbor.Tag) and item.number in (SHARED_BYTES, SHARED_TEXT):
                index, offset, size = item.value
                data = memory[frame.attached[index][0]][offset : offset + size]
                assert len(data) == size
                return data if item.number == SHARED_BYTES else data.decode()
            return _walk(item, find)

        return find(value)

    def given(self, number: int, size: int) -> bytes:
        """All of a segment of the worker's, which is thereby done with."""
        descriptor = self.worker.descriptors.pop(number)
        seals = fcntl.fcntl(descriptor, GET_SEALS)
        assert seals & GIVEN == GIVEN, "a segment that could still be changed"
        assert os.fstat(descriptor).st_size >= size > 0
        with mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ) as memory:
            data = memory[:]
        os.close(descriptor)
        return data

    def close(self) -> None:
        for segment in self.segments.values():
            segment.close()


def _walk(value: Any, find: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {find(k): find(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return type(value)(find(v) for v in value)
    return value
