"""A worker that breaks the rules of segments (c_src/core/sp_segment.h).

    hostile_segments.py MODE MARKER [what Snakepit adds]

As hostile_worker.py, which has what the two share.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import struct
import sys
import tempfile
from typing import Callable, Optional

from hostile_worker import (
    ANSWER,
    CALL,
    PING,
    PONG,
    Link,
    connect,
    fence,
    frame,
    good,
    response,
    token,
)

FORGET, RELEASE = 8, 22
HELLO = b"snakpit1" + struct.pack("<II", 1, 2)
MINE = 1 << 63
PAGE = 4096
SEAL_SEAL, SEAL_SHRINK, SEAL_GROW, SEAL_WRITE = 1, 2, 4, 8
ALL = SEAL_SHRINK | SEAL_GROW | SEAL_WRITE


def entry(number: int, size: int) -> bytes:
    return struct.pack("<QQ", number, size)


def attaching(kind: int, call: int, entries: list[bytes], payload: bytes = b"") -> bytes:
    reserved = bytes((len(entries), 0, 0))
    return frame(kind, call, b"".join(entries) + payload, reserved)


def shared(index: int, offset: int, size: int) -> bytes:
    """CBOR: bytes in what is attached."""
    return b"\xd9\x9c\x43\x83" + b"".join(
        b"\x1b" + struct.pack(">Q", n) for n in (index, offset, size)
    )


def memory(size: int, seals: int = ALL, fill: bytes = b"x") -> int:
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if fill and size < 1 << 30:
        os.pwrite(fd, fill * size, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


class SharingLink(Link):
    """One that says that it takes segments."""

    def __init__(self, sock: socket.socket, magic: bytes = HELLO) -> None:
        super().__init__(sock, magic)
        self.lent: dict[int, tuple[int, int]] = {}
        self.entries: list[tuple[int, int]] = []

    def hung_up(self, timeout: Optional[int] = 0) -> bool:
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        return bool(poll.poll(timeout))

    def ended(self) -> bool:
        return self.hung_up()

    def until_the_end(self) -> None:
        self.hung_up(None)

    def _take(self) -> None:
        """The descriptors that have come."""
        while select.select([self.socket], [], [], 0)[0]:
            data, fds, _flags, _address = socket.recv_fds(self.socket, 16, 4)
            if len(data) != 16 or len(fds) != 1:
                raise SystemExit
            number, size = struct.unpack("<QQ", data)
            if number in self.lent:
                os._exit(9)  # it is sent once
            self.lent[number] = (fds[0], size)

    def next(self) -> tuple[int, int, bytes]:
        while True:
            if len(self.buffer) >= 16:
                length, kind, attached, call = struct.unpack_from("<IBB2xQ", self.buffer)
                if len(self.buffer) >= 16 + length:
                    payload = self.buffer[16 : 16 + length]
                    self.buffer = self.buffer[16 + length :]
                    self._take()
                    found = [struct.unpack_from("<QQ", payload, 16 * i) for i in range(attached)]
                    self.entries = [(a, b) for a, b in found]
                    return kind, call, payload[16 * attached :]
            self.set(SLEEPING_AT, 1)
            fence()
            if self.get(0) != self.read:
                self._fill()
                continue
            poll = select.poll()
            poll.register(self.own_bell, select.POLLIN)
            poll.register(self.socket, select.POLLRDHUP)
            ready = dict(poll.poll())
            if self.socket.fileno() in ready:
                raise SystemExit
            os.read(self.own_bell, 8)

    def next_work(self) -> tuple[int, int]:
        while True:
            kind, call, payload = self.next()
            if kind == CALL:
                return kind, call
            if kind == PING:
                self.put(frame(PONG, call, payload))

    def release(self) -> None:
        ids = b"".join(struct.pack("<Q", number) for number, _ in self.entries)
        if ids:
            self.put(frame(RELEASE, 0, ids))

    def give(self, number: int, size: int, *fds: int, cut: int = 16) -> bytes:
        """Sends descriptors; the entry for them."""
        text = entry(number | MINE, size)
        socket.send_fds(self.socket, [text[:cut]], fds)
        for fd in fds:
            os.close(fd)
        return text

    def serve(self) -> None:
        while True:
            call = self.next_call()
            self.put(frame(ANSWER, call, good()))
            self.release()


SLEEPING_AT = 128


def answer(link: SharingLink, call: int, entries: list[bytes], cbor: bytes = b"\x01") -> None:
    link.put(attaching(ANSWER, call, entries, response(cbor)))


def given(
    fd: Callable[[], int], says: int = PAGE, attaches: Optional[int] = None
) -> Callable[[SharingLink, int], None]:
    def run(link: SharingLink, call: int) -> None:
        text = link.give(1, says, fd())
        answer(link, call, [entry(1 | MINE, attaches) if attaches is not None else text])

    return run


def a_file() -> int:
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    os.ftruncate(fd, PAGE)
    return fd


def in_shm() -> int:
    fd, path = tempfile.mkstemp(dir="/dev/shm")
    os.unlink(path)
    os.ftruncate(fd, PAGE)
    return fd


def twice_in_a_frame(link: SharingLink, call: int) -> None:
    text = link.give(1, PAGE, memory(PAGE))
    answer(link, call, [text, text])


def twice(link: SharingLink, call: int) -> None:
    text = link.give(1, PAGE, memory(PAGE))
    answer(link, call, [text])
    answer(link, call, [text])


def two_at_once(link: SharingLink, call: int) -> None:
    answer(link, call, [link.give(1, PAGE, memory(PAGE), memory(PAGE))])


def short_message(link: SharingLink, call: int) -> None:
    link.give(1, PAGE, memory(PAGE), cut=8)
    answer(link, call, [entry(1 | MINE, PAGE)])


def without_descriptor(link: SharingLink, call: int) -> None:
    link.socket.sendall(entry(1 | MINE, PAGE))
    answer(link, call, [entry(1 | MINE, PAGE)])


def number_of_the_beams(link: SharingLink, call: int) -> None:
    text = entry(77, PAGE)
    socket.send_fds(link.socket, [text], [memory(PAGE)])
    answer(link, call, [entry(1 | MINE, PAGE)])


def thousands(link: SharingLink, call: int) -> None:
    fd = memory(PAGE)
    link.socket.setblocking(False)
    with contextlib.suppress(OSError):
        for n in range(1, 5000):
            socket.send_fds(link.socket, [entry(n | MINE, PAGE)], [fd])
    link.socket.setblocking(True)
    answer(link, call, [entry(9999 | MINE, PAGE)])


def released(ids: Callable[[SharingLink], bytes]) -> Callable[[SharingLink, int], None]:
    return lambda link, call: link.put(frame(RELEASE, 0, ids(link)))


def attached_after_release(link: SharingLink, call: int) -> None:
    number, size = link.entries[0]
    link.release()
    answer(link, call, [entry(number, size)])


def ids(link: SharingLink) -> bytes:
    return struct.pack("<Q", link.entries[0][0])


BREAKS: dict[str, Callable[[SharingLink, int], None]] = {
    "unknown_id": lambda link, call: answer(link, call, [entry(10**9, PAGE)]),
    "id_0": lambda link, call: answer(link, call, [entry(0, PAGE)]),
    "id_0_of_mine": lambda link, call: answer(link, call, [entry(MINE, PAGE)]),
    "no_bytes": given(lambda: memory(PAGE), attaches=0),
    "too_many_bytes": given(lambda: memory(PAGE), attaches=1 << 47),
    "none_sent": lambda link, call: answer(link, call, [entry(5 | MINE, PAGE)]),
    "more_than_it_said": given(lambda: memory(2 * PAGE), attaches=PAGE + 1),
    "more_than_there_is": given(lambda: memory(PAGE), says=PAGE + 1),
    "more_of_the_beams": lambda link, call: answer(
        link, call, [entry(link.entries[0][0], 1 << 40)]
    ),
    "unsealed": given(lambda: memory(PAGE, 0)),
    "may_be_written": given(lambda: memory(PAGE, SEAL_SHRINK | SEAL_GROW)),
    "may_shrink": given(lambda: memory(PAGE, SEAL_WRITE | SEAL_GROW)),
    "may_grow": given(lambda: memory(PAGE, SEAL_WRITE | SEAL_SHRINK)),
    "sealed_for_the_future": given(lambda: memory(PAGE, SEAL_SHRINK | SEAL_GROW | 16)),
    "a_pipe": given(lambda: os.pipe()[0]),
    "a_file": given(a_file),
    "in_shm": given(in_shm),
    "twice_in_a_frame": twice_in_a_frame,
    "two_at_once": two_at_once,
    "short_message": short_message,
    "without_descriptor": without_descriptor,
    "number_of_the_beams": number_of_the_beams,
    "thousands": thousands,
    "release_unknown": released(lambda _link: struct.pack("<Q", 10**9)),
    "release_of_mine": released(lambda _link: struct.pack("<Q", 1 | MINE)),
    "release_twice": released(lambda link: ids(link) * 2),
    "release_odd": released(lambda link: ids(link)[:7]),
    "release_nothing": released(lambda _link: b""),
    "attached_after_release": attached_after_release,
    "attached_to_pong": lambda link, call: link.put(
        attaching(PONG, call, [link.give(1, PAGE, memory(PAGE))])
    ),
    "more_entries_than_bytes": lambda link, call: link.put(
        frame(ANSWER, call, entry(1 | MINE, PAGE), b"\2\0\0")
    ),
    "too_many_entries": lambda link, call: link.put(
        frame(ANSWER, call, entry(1 | MINE, PAGE) * 65, b"\x41\0\0")
    ),
    "dies": lambda _link, _call: os._exit(3),
}


def unasked(link: SharingLink, call: int) -> None:
    """Descriptors that no frame asks for, before one that is."""
    for n in range(2, 100):
        link.give(n, PAGE, memory(PAGE))
    text = link.give(1, PAGE, memory(PAGE))
    answer(link, call, [text], b"\x1a" + struct.pack(">I", os.getpid()))


def unused(link: SharingLink, call: int) -> None:
    """Attached, and not spoken of."""
    all_of_them = [link.give(n, PAGE, memory(PAGE)) for n in range(1, 65)]
    answer(link, call, all_of_them, b"\x1a" + struct.pack(">I", os.getpid()))


def strays(link: SharingLink, call: int) -> None:
    """With answers to calls that there are not."""
    for n in range(1, 200):
        link.put(attaching(ANSWER, 10**6 + n, [link.give(n, PAGE, memory(PAGE))], good()))
        while link.get(link.outward + 64) != link.written:
            os.sched_yield()
    link.put(frame(ANSWER, call, good()))


DROPPED: dict[str, Callable[[SharingLink, int], None]] = {
    "unasked": unasked,
    "unused": unused,
    "strays": strays,
}


def says(cbor: bytes, size: int = PAGE) -> Callable[[SharingLink, int], None]:
    return lambda link, call: answer(link, call, [link.give(1, size, memory(size))], cbor)


UNREADABLE: dict[str, Callable[[SharingLink, int], None]] = {
    "index": says(shared(1, 0, 1)),
    "index_max": says(shared(2**64 - 1, 0, 1)),
    "offset": says(shared(0, PAGE + 1, 0)),
    "offset_max": says(shared(0, 2**64 - 1, 2)),
    "length": says(shared(0, 1, PAGE)),
    "length_max": says(shared(0, 0, 2**64 - 1)),
    "no_list": says(b"\xd9\x9c\x43\x01"),
    "two": says(b"\xd9\x9c\x43\x82\x00\x00"),
    "four": says(b"\xd9\x9c\x43\x84\x00\x00\x00\x00"),
    "negative": says(b"\xd9\x9c\x43\x83\x00\x20\x00"),
    "texts": says(b"\xd9\x9c\x43\x83\x61a\x61b\x61c"),
    "not_text": lambda link, call: answer(
        link,
        call,
        [link.give(1, PAGE, memory(PAGE, fill=b"\xff"))],
        shared(0, 0, 10).replace(b"\x9c\x43", b"\x9c\x44"),
    ),
    "nothing_attached": lambda link, call: link.put(
        frame(ANSWER, call, response(shared(0, 0, 1)))
    ),
    "too_large": lambda link, call: answer(
        link, call, [link.give(1, 1 << 44, memory(1 << 44))], shared(0, 0, 1 << 44)
    ),
}


def misbehave(mode: str) -> None:
    if mode == "without_the_flag":
        plain = Link(connect())
        call = plain.next_call()
        plain.put(attaching(ANSWER, call, [entry(1 | MINE, PAGE)], good()))
        plain.until_the_end()
        raise SystemExit(5)
    link = SharingLink(connect())
    call = link.next_call()
    if mode in BREAKS:
        BREAKS[mode](link, call)
        link.until_the_end()
        raise SystemExit(5)
    if mode in DROPPED:
        DROPPED[mode](link, call)
    elif mode in UNREADABLE:
        UNREADABLE[mode](link, call)
    elif mode != "fine":
        raise SystemExit(f"no such mode: {mode}")
    else:
        link.put(frame(ANSWER, call, good()))
    link.release()
    link.serve()


def main() -> None:
    mode, marker = sys.argv[1:3]
    assert token()
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        SharingLink(connect()).serve()
    misbehave(mode)


if __name__ == "__main__":
    main()
