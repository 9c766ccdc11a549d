"""Where a lane puts chunks and replies for a thread that waits for them."""

from __future__ import annotations

import threading
from collections import deque
from typing import Optional, Union

from .calls import Metadata, Reply, UnarySink

MAX_CHUNKS = 32
MAX_BYTES = 1 << 20

Chunk = tuple[bytes, bool, Metadata]


class ReplySink(UnarySink):
    """For one reply."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._reply = Reply()

    def finish(self, reply: Reply) -> None:
        self._reply = reply
        self._over.set()

    def wait(self) -> Reply:
        self._over.wait()
        return self._reply


class StreamSink:
    """Chunks in a bounded buffer; the lane waits while it is full."""

    def __init__(self) -> None:
        # Guards all below; the lane waits on it for room, the reader for chunks.
        self._changed = threading.Condition()
        self._chunks: deque[Chunk] = deque()
        self._bytes = 0
        self._reply: Optional[Reply] = None
        self._closed = False
        self._wanted = 0

    def want(self, count: int) -> None:
        """Asks the caller for so many more inputs. Does not wait."""
        with self._changed:
            self._wanted += count
            self._changed.notify_all()

    def put(self, data: bytes, final: bool, metadata: Metadata, wait: bool = True) -> bool:
        with self._changed:
            while not self._closed and self.is_full(len(data)):
                if not wait:
                    return False
                self._changed.wait()
            if not self._closed:
                self._chunks.append((data, final, metadata))
                self._bytes += len(data)
                self._changed.notify_all()
            return True

    def finish(self, reply: Reply) -> None:
        with self._changed:
            self._reply = reply
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self) -> Union[Chunk, Reply, int]:
        """The next chunk, or the reply after the last; or how many inputs are wanted."""
        with self._changed:
            while True:
                if self._wanted and self._reply is None:
                    wanted, self._wanted = self._wanted, 0
                    return wanted
                if self._chunks:
                    chunk = self._chunks.popleft()
                    self._bytes -= len(chunk[0])
                    self._changed.notify_all()
                    return chunk
                if self._reply is not None:
                    return self._reply
                if self._closed:
                    return Reply(cancelled=True, error="cancelled")
                self._changed.wait()

    def is_full(self, size: int) -> bool:
        if not self._chunks:
            return False
        return len(self._chunks) >= MAX_CHUNKS or self._bytes + size > MAX_BYTES
