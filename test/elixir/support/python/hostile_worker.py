"""A worker that breaks the rules of the local carrier (c_src/carrier/local.h).

    hostile_worker.py MODE MARKER [what Snakepit adds]

The process that makes the file MARKER misbehaves as MODE says; those that find
it there answer every call with their process number.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import select
import socket
import struct
import sys
import threading
from typing import Callable, Optional

CALL, PING, INPUT, OFFER = 1, 4, 5, 7
ANSWER, CHUNK, PONG, INPUT_CREDIT, UNKNOWN = 16, 17, 18, 19, 99
REPLY, REQUEST, REQUEST_CANCEL = 6, 20, 21
EXECUTE_ELIXIR_TOOL = 10

MAGIC = b"snakpit1" + struct.pack("<II", 1, 0)
MAGIC_AHEAD = b"snakpit1" + struct.pack("<II", 1, 1)  # offers are welcome
CLAIMS, CLAIM_COUNT = 256, 32
CONTROL = 512
WRITTEN, READ, SLEEPING, WAITING = 0, 64, 128, 192
SILENT = 100

_lock = threading.Lock()
_libc = ctypes.CDLL(None, use_errno=True)


def fence() -> None:
    with _lock:
        pass


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def response(cbor: bytes) -> bytes:
    """An ExecuteToolResponse: success, and result_cbor."""
    return b"\x08\x01" + varint(100 << 3 | 2) + varint(len(cbor)) + cbor


def good() -> bytes:
    return response(struct.pack(">BI", 0x1A, os.getpid()))


def frame(kind: int, call: int, payload: bytes = b"", reserved: bytes = bytes(3)) -> bytes:
    return struct.pack("<IB3sQ", len(payload), kind, reserved, call) + payload


def connect() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(os.environ["SNAKEPIT_LOCAL_SOCKET"])
    return sock


def token() -> bytes:
    return bytes.fromhex(os.environ["SNAKEPIT_LOCAL_TOKEN"])


class Link:
    """The worker's end: it reads the first ring and writes the second."""

    def __init__(self, sock: socket.socket, magic: bytes = MAGIC) -> None:
        self.socket = sock
        sock.sendall(magic + token())
        text, fds, _flags, _address = socket.recv_fds(sock, 24, 3)
        if len(text) != 24 or len(fds) != 3:
            raise SystemExit("the BEAM turned the worker away")
        self.memory_fd, self.own_bell, self.beam_bell = fds
        self.capacity = struct.unpack_from("<Q", text, 16)[0]
        self.size = 2 * (CONTROL + self.capacity)
        self.memory = mmap.mmap(self.memory_fd, self.size)
        self.words = memoryview(self.memory).cast("Q")
        self.outward = CONTROL + self.capacity
        self.read = self.written = 0
        self.buffer = b""
        self.deaf = False  # looks at the ring only, and never empties its bell

    def set(self, field: int, value: int) -> None:
        self.words[field // 8] = value & (2**64 - 1)

    def get(self, field: int) -> int:
        return self.words[field // 8]

    def ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full bell is rung already
            os.write(self.beam_bell, struct.pack("=Q", 1))

    def ended(self) -> bool:
        return bool(select.select([self.socket], [], [], 0)[0])

    def put(self, data: bytes) -> None:
        """Writes it all, or as much as the BEAM takes before it hangs up."""
        while data:
            room = self.capacity - (self.written - self.get(self.outward + READ))
            part, data = data[:room], data[room:]
            at = self.written % self.capacity
            start = self.outward + CONTROL
            first = part[: self.capacity - at]
            self.memory[start + at : start + at + len(first)] = first
            rest = part[len(first) :]
            self.memory[start : start + len(rest)] = rest
            self.written += len(part)
            self.set(self.outward + WRITTEN, self.written)
            fence()
            self.ring()
            if data:
                if self.ended():
                    raise SystemExit
                os.sched_yield()

    def _fill(self) -> None:
        used = self.get(WRITTEN) - self.read
        at = self.read % self.capacity
        first = self.memory[CONTROL + at : CONTROL + min(at + used, self.capacity)]
        self.buffer += first + self.memory[CONTROL : CONTROL + used - len(first)]
        self.read += used
        self.set(READ, self.read)
        fence()
        if self.get(WAITING):
            self.set(WAITING, 0)
            self.ring()

    def next(self) -> tuple[int, int, bytes]:
        """The next frame; ends the process when the BEAM hangs up."""
        while True:
            if len(self.buffer) >= 16:
                length, kind, call = struct.unpack_from("<IB3xQ", self.buffer)
                if len(self.buffer) >= 16 + length:
                    payload = self.buffer[16 : 16 + length]
                    self.buffer = self.buffer[16 + length :]
                    return kind, call, payload
            self.set(SLEEPING, 1)
            fence()
            if self.get(WRITTEN) != self.read:
                self._fill()
                continue
            if self.deaf:
                if select.select([self.socket], [], [], 0.001)[0]:
                    raise SystemExit
                continue
            ready = select.select([self.own_bell, self.socket.fileno()], [], [])[0]
            if self.socket.fileno() in ready:
                raise SystemExit
            os.read(self.own_bell, 8)

    def next_work(self) -> tuple[int, int]:
        while True:
            kind, call, payload = self.next()
            if kind in (CALL, OFFER):
                return kind, call
            if kind == PING:
                self.put(frame(PONG, call, payload))

    def next_call(self) -> int:
        return self.next_work()[1]

    def claim(self, call: int) -> bool:
        """Not at once, so not quite as it must be."""
        field = CLAIMS + call % CLAIM_COUNT * 8
        mine = self.get(field) == call
        self.set(field, 0)
        return mine

    def serve(self) -> None:
        while True:
            self.put(frame(ANSWER, self.next_call(), good()))

    def until_the_end(self) -> None:
        """Does nothing more; the BEAM is to hang up."""
        select.select([self.socket], [], [])

    def publish(self, value: int) -> None:
        self.set(self.outward + WRITTEN, value)
        fence()
        self.ring()


# ---- what it does when the first call has come ------------------------------


def scribble(link: Link, _call: int) -> None:
    rng = random.Random(1)
    while not link.ended():
        link.memory[:] = rng.randbytes(link.size)
        link.ring()


def half_a_frame(link: Link, call: int) -> None:
    link.put(frame(ANSWER, call, good())[:-3])
    os._exit(3)


def hang_up(link: Link, _call: int) -> None:
    link.socket.shutdown(socket.SHUT_RDWR)
    threading.Event().wait()  # and stays


def back(link: Link, call: int) -> None:
    link.put(frame(UNKNOWN, call, bytes(1000)))
    while link.get(link.outward + READ) != link.written:
        os.sched_yield()
    link.publish(link.written - 500)


def read_ahead(link: Link, call: int) -> None:
    """The next thing that the BEAM writes is refused by its own check."""
    link.set(READ, link.read + 1_000_000)
    fence()
    link.put(frame(ANSWER, call, good()))


def raw(data: bytes) -> Callable[[Link, int], None]:
    return lambda link, _call: link.put(data)


def index(value: Callable[[Link], int]) -> Callable[[Link, int], None]:
    return lambda link, _call: link.publish(value(link))


def wants(call: int, count: int) -> bytes:
    return frame(INPUT_CREDIT, call, struct.pack("<I", count))


def wants_blindly(link: Link, call: int) -> None:
    """Asks for more and more inputs, and reads none of them."""
    while not link.ended():
        link.put(wants(call, 1))
        os.sched_yield()


# ---- what it asks of the BEAM -----------------------------------------------


def tool_request(number: int, tool: bytes = b"no-such-tool") -> bytes:
    name = b"\x12" + varint(len(tool)) + tool
    return frame(REQUEST, number, bytes((EXECUTE_ELIXIR_TOOL,)) + name)


def asks_twice(link: Link, _call: int) -> None:
    """Under one number: the first is still under way when the second comes."""
    link.put(tool_request(7) * 100)


def asks_and_does_not_listen(link: Link, _call: int) -> None:
    for first in range(0, 1_000_000, 500):
        link.put(b"".join(tool_request(n) for n in range(first, first + 500)))


def take_replies(link: Link) -> list[tuple[int, int]]:
    """Numbers and statuses of what has come."""
    found = []
    if link.get(WRITTEN) != link.read:
        link._fill()
    while len(link.buffer) >= 16:
        length, kind, number = struct.unpack_from("<IB3xQ", link.buffer)
        if len(link.buffer) < 16 + length:
            break
        if kind == REPLY:
            found.append((number, link.buffer[16]))
        link.buffer = link.buffer[16 + length :]
    return found


def asks_ten_thousand_times(link: Link, call: int) -> None:
    """Each is answered once: by the BEAM's tools, or that there are too many."""
    got: dict[int, int] = {}
    waiting = b"".join(tool_request(n) for n in range(1, 10_001))
    while len(got) < 10_000:
        room = link.capacity - (link.written - link.get(link.outward + READ))
        link.put(waiting[:room])
        waiting = waiting[room:]
        for number, status in take_replies(link):
            if number in got or status not in (0, 8):
                os._exit(9)
            got[number] = status
        if link.ended():
            os._exit(10)
        os.sched_yield()
    link.put(frame(ANSWER, call, good()))


def asks_and_cancels(link: Link, call: int) -> None:
    for first in range(1, 20_000, 100):
        numbers = range(first, first + 100)
        link.put(b"".join(tool_request(n) + frame(REQUEST_CANCEL, n) for n in numbers))
        take_replies(link)
    link.put(frame(ANSWER, call, good()))


# The connection ends.
BREAKS: dict[str, Callable[[Link, int], None]] = {
    "garbage": raw(b"\xfe\xdc\xba" * 1000),
    "length_2_31": raw(struct.pack("<IBxxxQ", 2**31, ANSWER, 1)),
    "length_max": raw(struct.pack("<IBxxxQ", 2**32 - 1, ANSWER, 1)),
    "reserved": lambda link, call: link.put(frame(CHUNK, call, good(), b"\0\1\0")),
    "written_ahead": index(lambda link: link.written + link.capacity + 1),
    "written_back": back,
    "written_2_63": index(lambda _link: 2**63),
    "read_ahead": read_ahead,
    "scribble": scribble,
    "half_a_frame": half_a_frame,
    "hang_up": hang_up,
    "asks_nothing": lambda link, _call: link.put(frame(REQUEST, 1)),
    "asks_twice": asks_twice,
    "asks_and_does_not_listen": asks_and_does_not_listen,
    "talk": lambda link, _call: link.socket.sendall(b"not done"),
    "silence": lambda link, _call: None,
    "wants_max": lambda link, call: link.put(wants(call, 2**32 - 1)),
    "wants_17": lambda link, call: link.put(wants(call, 17)),
    "wants_short": lambda link, call: link.put(frame(INPUT_CREDIT, call, bytes(3))),
    "wants_long": lambda link, call: link.put(frame(INPUT_CREDIT, call, bytes(5))),
    "wants_blindly": wants_blindly,
}


def fill_bell(link: Link) -> None:
    """A ring more would make its writer wait, were that end not the BEAM's own."""
    os.set_blocking(link.own_bell, True)
    bell = os.open(f"/proc/self/fd/{link.own_bell}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            os.write(bell, bytes(4096))
    except BlockingIOError:
        os.set_blocking(bell, True)


def deaf(link: Link, call: int) -> None:
    """The bell is full when the BEAM rings it for the calls that follow."""
    fill_bell(link)
    link.deaf = True
    link.set(SLEEPING, 1)
    fence()
    link.put(frame(ANSWER, call, good()))


def cut(link: Link, call: int) -> None:
    for size in (0, 4096, 2 * link.size):
        try:
            os.ftruncate(link.memory_fd, size)
        except PermissionError:
            continue
        raise SystemExit(f"the memory could be made {size} bytes long")
    link.put(frame(ANSWER, call, good()))


def twice(link: Link, call: int) -> None:
    link.put(frame(ANSWER, call, good()) + frame(ANSWER, call, response(b"\x61x")))


def over_credit(link: Link, call: int) -> None:
    """Many more chunks than a stream starts with, before anybody asks for more."""
    part = frame(CHUNK, call, b"\x12\x011") * 1000
    for _ in range(20):
        link.put(part)
    link.put(frame(ANSWER, call, good()))


def wants_after_the_end(link: Link, call: int) -> None:
    """Of inputs, and then of the call."""
    link.put(wants(call, 16))
    while link.next()[0] != INPUT:
        pass  # the end of them, for there are none
    link.put(wants(call, 0) * 1000 + frame(ANSWER, call, good()) + wants(call, 16) * 1000)


def before(*frames: bytes) -> Callable[[Link, int], None]:
    return lambda link, call: link.put(b"".join(frames) + frame(ANSWER, call, good()))


def flood(kind: int, payload: bytes) -> Callable[[Link, int], None]:
    def run(link: Link, call: int) -> None:
        part = b"".join(frame(kind, n, payload) for n in range(1000))
        for _ in range(50):
            link.put(part)
        link.put(frame(ANSWER, call, good()))

    return run


def unclaimed(link: Link, call: int) -> None:
    """Answers whatever comes, also what was taken back."""
    while True:
        link.put(frame(ANSWER, call, good()))
        call = link.next_call()


def unclaimed_twice(link: Link, call: int) -> None:
    while True:
        link.put(frame(ANSWER, call, good()) * 2)
        call = link.next_call()


def scribbled_claims(link: Link, call: int) -> None:
    while True:
        for n in range(CLAIM_COUNT):
            link.set(CLAIMS + n * 8, 2**64 - 1 - n)
        link.put(frame(ANSWER, call, good()))
        call = link.next_call()


def cleared_claims(link: Link, call: int) -> None:
    """Nothing can be taken back from it."""
    while True:
        for n in range(CLAIM_COUNT):
            link.set(CLAIMS + n * 8, 0)
        link.put(frame(ANSWER, call, good()))
        call = link.next_call()


def claimed_for_good(link: Link, call: int) -> None:
    """Quick, so that calls come ahead; then it takes them and says nothing."""
    kind = CALL
    while kind == CALL:
        link.put(frame(ANSWER, call, good()))
        kind, call = link.next_work()
    while True:
        if kind == OFFER:
            link.claim(call)
        kind, call = link.next_work()


def last_words(link: Link, call: int) -> None:
    link.put(frame(ANSWER, call, good()))
    os._exit(0)


def last_words_unheard(link: Link, call: int) -> None:
    """The bell is not rung: only who looks finds them."""
    link.ring = lambda: None  # type: ignore[method-assign]
    last_words(link, call)


def last_words_of_a_stream(link: Link, call: int) -> None:
    chunks = b"".join(frame(CHUNK, call, b"\x12\x03" + b"%03d" % n) for n in range(10))
    link.put(chunks + frame(ANSWER, call, response(b"\xf6")))
    os._exit(0)


# They take offers, and lie about what they have begun.
AHEAD: dict[str, Callable[[Link, int], None]] = {
    "unclaimed": unclaimed,
    "unclaimed_twice": unclaimed_twice,
    "scribbled_claims": scribbled_claims,
    "cleared_claims": cleared_claims,
    "claimed_for_good": claimed_for_good,
}

# What is wrong is dropped, and the answer counts.
DROPPED: dict[str, Callable[[Link, int], None]] = {
    "strays": before(
        *(frame(ANSWER, n, good()) for n in (0, 2, 77, 2**63, 2**64 - 1)),
        *(frame(CHUNK, n, b"x") for n in (0, 2, 2**64 - 1)),
    ),
    "chunks": lambda link, call: link.put(
        frame(CHUNK, call, b"\x12\x01x") * 100 + frame(ANSWER, call, good())
    ),
    "twice": twice,
    "wants_strays": before(*(wants(n, 2**32 - 1) for n in (0, 2, 77, 2**63, 2**64 - 1))),
    "wants_none": lambda link, call: link.put(
        wants(call, 2**32 - 1) * 100 + frame(ANSWER, call, good())
    ),
    "wants_after_the_end": wants_after_the_end,
    "pongs": flood(PONG, b"not asked"),
    "kinds": flood(UNKNOWN, b"?"),
    "empty_kinds": flood(0, b""),
    "beams_kinds": flood(CALL, bytes(100)),
    "over_credit": over_credit,
    "asks_garbage": before(
        *(
            frame(REQUEST, n, bytes((n,)) + junk)
            for n in range(256)
            for junk in (b"\xff" * 50 if n % 2 else b"",)
        )
    ),
    "asks_ten_thousand_times": asks_ten_thousand_times,
    "asks_and_cancels": asks_and_cancels,
    "cancels_strays": before(
        *(frame(REQUEST_CANCEL, n, b"x" * (n % 3)) for n in (0, 1, 2, 2**63, 2**64 - 1))
    ),
    "last_words": last_words,
    "last_words_unheard": last_words_unheard,
    "last_words_of_a_stream": last_words_of_a_stream,
    "deaf": deaf,
    "cut": cut,
}

# What the first call is answered with. The worker is fine otherwise.
UNREADABLE: dict[str, bytes] = {
    "protobuf": b"\xff" * 40,
    "protobuf_cut": good()[:-1],
    "protobuf_length": b"\x08\x01" + varint(100 << 3 | 2) + varint(2**63),
    "cbor_cut": response(b"\x1a\x00"),
    "cbor_reserved": response(b"\x1c"),
    "cbor_deep": response(b"\x81" * 100_000 + b"\x00"),
    "cbor_length": response(b"\x5b" + struct.pack(">Q", 2**63) + b"x"),
    "cbor_array": response(b"\x9b" + struct.pack(">Q", 2**63)),
    "cbor_map": response(b"\xbb" + struct.pack(">Q", 2**64 - 1)),
    "cbor_text": response(b"\x62\xff\xfe"),
    "cbor_two": response(b"\x01\x02"),
    "cbor_duplicate": response(b"\xa2\x61a\x01\x61a\x02"),
}


def hello(data: bytes) -> None:
    """It is not let in."""
    sock = connect()
    sock.sendall(data)
    while sock.recv(1):
        raise SystemExit("the BEAM let it in")


def silent() -> list[socket.socket]:
    return [connect() for _ in range(SILENT)]


def start(mode: str) -> Optional[Link]:
    """The handshake, or what is wrong with it."""
    if mode == "wrong_token":
        hello(MAGIC + os.urandom(32))
    elif mode == "wrong_magic":
        hello(MAGIC[:-1] + b"\1" + token())
    elif mode == "short_hello":
        sock = connect()
        sock.sendall(MAGIC + token()[:31])
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)
    elif mode == "exits_in_hello":
        connect().sendall(MAGIC + token()[:31])
    elif mode == "exits_after_hello":
        connect().sendall(MAGIC + token())
        os._exit(4)  # nobody takes what the BEAM hands over
    elif mode == "broken_at_once":
        link = Link(connect())
        link.put(b"\xff" * 100)
        link.until_the_end()
    else:
        return Link(connect(), MAGIC_AHEAD if mode in AHEAD else MAGIC)
    return None


def misbehave(mode: str) -> None:
    guests = silent() if mode == "silent" else []
    link = start(mode)
    if link is None:
        raise SystemExit(4)
    if mode in BREAKS:
        BREAKS[mode](link, link.next_call())
        link.until_the_end()
        raise SystemExit(5)
    if mode in DROPPED:
        DROPPED[mode](link, link.next_call())
    elif mode in AHEAD:
        AHEAD[mode](link, link.next_call())
    elif mode in UNREADABLE:
        link.put(frame(ANSWER, link.next_call(), UNREADABLE[mode]))
    elif not guests:
        raise SystemExit(f"no such mode: {mode}")
    link.serve()


def main() -> None:
    mode, marker = sys.argv[1:3]
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        Link(connect()).serve()
    misbehave(mode)


if __name__ == "__main__":
    main()
