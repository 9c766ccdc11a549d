"""Memory beside the ring: the BEAM's end is in segment_peer.py."""

from __future__ import annotations

import hashlib
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Union

import cbor
import pytest
from harness import ToolFailed, wait_until
from local_peer import (
    ANSWER,
    CHUNK,
    INPUT,
    OFFER,
    PING,
    LocalWorker,
    build_extension,
)
from segment_peer import LENT, OF_WORKER, PAGE, SHARED_BYTES, SHARED_TEXT, Lender, Segment

Start = Callable[..., tuple[LocalWorker, Lender]]
BLOB = bytes(range(256)) * 400  # 100 KiB
MIB = 1 << 20


def digest(data: Union[bytes, str]) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory, proto_path: str) -> str:
    return build_extension(tmp_path_factory.mktemp("extension"))


@pytest.fixture
def start(extension: str, tmp_path: Path) -> Iterator[Start]:
    """Starts workers that end with the test."""
    running: list[tuple[LocalWorker, Lender]] = []

    def begin(*arguments: str, **env: str) -> tuple[LocalWorker, Lender]:
        directory = tmp_path / f"w{len(running)}"
        directory.mkdir()
        worker = LocalWorker(
            "segment_tools:SegmentTools", directory, arguments, env, proto_path=extension
        )
        running.append((worker, Lender(worker)))
        return running[-1]

    yield begin
    for worker, lender in running:
        worker.kill()
        lender.close()


@pytest.fixture
def lender(start: Start) -> Lender:
    return start()[1]


def held(lender: Lender) -> int:
    count: int = lender.worker.call("stats")["held"]
    return count


def ends_with(lender: Lender, why: str) -> bool:
    """The worker takes the BEAM to be broken."""
    return lender.worker.end() == 1 and why in lender.worker.log


# ---- the handshake ---------------------------------------------------------------


def test_a_worker_says_that_it_takes_segments(start: Start) -> None:
    worker, _ = start()
    assert worker.listener.takes_segments
    worker, _lender = start(SNAKEPIT_ZERO_COPY_THRESHOLD="0")
    assert not worker.listener.takes_segments
    assert worker.listener.takes_offers
    assert worker.call("make", {"kind": "bytes", "size": MIB}) == bytes(range(256)) * 4096


def test_a_worker_that_takes_none_ends_when_it_gets_one(start: Start) -> None:
    _, lender = start(SNAKEPIT_ZERO_COPY_THRESHOLD="0")
    segment, tags = lender.lend([BLOB])
    lender.start("look", {"data": tags[0]}, [segment])
    assert lender.worker.end() in (0, 1)


# ---- bytes that come ---------------------------------------------------------------


def test_bytes_are_not_copied(lender: Lender) -> None:
    segment, (tag,) = lender.lend([BLOB])
    assert lender.call("look", {"data": tag}, [segment]) == {
        "type": "SharedBytes",
        "bytes": True,
        "shared": True,
        "size": len(BLOB),
        "digest": digest(BLOB),
    }
    lender.wait_released(segment)


def test_shared_bytes_behave_as_bytes(lender: Lender) -> None:
    segment, (tag,) = lender.lend([BLOB])
    facts = lender.call("behaves", {"data": tag}, [segment])
    assert facts.pop("made") is False
    assert facts.pop("plain") == facts.pop("pickled_type") == "bytes"
    assert facts.pop("slice") == "bytesTrue"
    assert all(value is True for value in facts.values()), facts


def test_text_is_copied_and_its_memory_released(lender: Lender) -> None:
    text = "größer " * 20_000
    segment, (tag,) = lender.lend([text])
    seen = lender.call("look", {"data": tag}, [segment])
    assert (seen["type"], seen["digest"]) == ("str", digest(text))
    lender.wait_released(segment)


def test_many_pieces_in_segments_that_they_share(lender: Lender) -> None:
    blobs: list[Any] = [os.urandom(70_000 + n) for n in range(40)]
    first, tags = lender.lend(blobs[:25])
    second = lender.make(MIB * 8)
    tags += lender.tags(second, blobs[25:], 1)
    seen = lender.call("look_at_all", {"items": tags}, [first, second])
    assert seen == [[True, digest(b)] for b in blobs]
    lender.wait_released(first, second)


def test_the_same_bytes_twice_are_one_object(lender: Lender) -> None:
    segment, (tag,) = lender.lend([BLOB])
    assert lender.call("same", {"first": tag, "second": tag}, [segment]) is True
    lender.wait_released(segment)
    # ... also where the segment is attached twice, each of which is a use.
    again = cbor.Tag(SHARED_BYTES, [1, *tag.value[1:]])
    assert lender.call("same", {"first": tag, "second": again}, [segment, segment]) is True
    lender.wait_released(segment, segment)


def test_a_segment_is_used_again_with_another_content(lender: Lender) -> None:
    segment = lender.make(MIB)
    for n in range(20):
        # Pieces lie elsewhere each time: where a head was there are bytes now.
        blobs: list[Any] = [os.urandom(1 + (n * 7919 + k * 104_729) % 90_000) for k in range(5)]
        tags = lender.tags(segment, blobs)
        seen = lender.call("look_at_all", {"items": tags}, [segment])
        assert seen == [[True, digest(b)] for b in blobs]
        lender.wait_released(segment)
    assert lender.worker.call("stats")["mapped"] == 1


@pytest.mark.parametrize(
    ("offset", "size", "after"),
    [(PAGE + 1, 5000, 0), (0, 5000, 0), (PAGE, 5000, 7), (PAGE, 3 * PAGE, None), (PAGE, 0, 0)],
    ids=["no page's start", "no page before", "no 0 after", "the segment's end", "nothing"],
)
def test_bytes_where_no_object_fits_are_copied(
    lender: Lender, offset: int, size: int, after: Any
) -> None:
    segment = lender.make(4 * PAGE)
    segment.memory[:] = os.urandom(4 * PAGE)
    if after is not None:
        segment.memory[offset + size] = after
    data = segment.memory[offset : offset + size]
    tag = cbor.Tag(SHARED_BYTES, [0, offset, size])
    seen = lender.call("look", {"data": tag}, [segment])
    assert (seen["type"], seen["size"], seen["digest"]) == ("bytes", size, digest(data))
    lender.wait_released(segment)


def test_pieces_that_overlap_do_not_spoil_each_other(lender: Lender) -> None:
    segment = lender.make(16 * PAGE)
    segment.memory[PAGE : 13 * PAGE] = os.urandom(12 * PAGE)
    segment.memory[9 * PAGE] = 0

    def tag(first: int, pages: int) -> cbor.Tag:
        return cbor.Tag(SHARED_BYTES, [0, first * PAGE, pages * PAGE])

    def data(first: int, pages: int) -> str:
        return digest(segment.memory[first * PAGE : (first + pages) * PAGE])

    # The part first: its head is within the whole.
    for places in ([(5, 4), (1, 12)], [(1, 12), (5, 4)], [(5, 4), (5, 3), (6, 3), (4, 9)]):
        items = [tag(*place) for place in places]
        seen = lender.call("look_at_all", {"items": items}, [segment])
        assert [d for _, d in seen] == [data(*place) for place in places]
        assert seen[0][0] is True
        lender.wait_released(segment)


def test_text_around_the_head_of_an_object(lender: Lender) -> None:
    segment = lender.make(16 * PAGE)
    segment.memory[PAGE : 13 * PAGE] = b"text" * (3 * PAGE)
    segment.memory[9 * PAGE] = 0
    part = cbor.Tag(SHARED_BYTES, [0, 5 * PAGE, 4 * PAGE])
    whole = cbor.Tag(SHARED_TEXT, [0, PAGE, 12 * PAGE])
    data = segment.memory[PAGE : 13 * PAGE]
    value = lender.call("echo", {"data": [part, whole]}, [segment])
    assert value == [data[4 * PAGE : 8 * PAGE], data.decode()]
    lender.wait_released(segment)


def test_inputs_come_by_segment(lender: Lender) -> None:
    worker = lender.worker
    call = worker.start("look_at_inputs", {}, inputs=True)
    worker.wanted(call)
    blobs: list[Any] = [os.urandom(70_000) for _ in range(3)]
    lent = [lender.lend([blob]) for blob in blobs]
    for segment, (tag,) in lent:
        send_input(lender, call, segment, tag)
    worker.end_inputs(call)
    assert worker.value(call) == [[True, digest(b)] for b in blobs]
    lender.wait_released(*[segment for segment, _ in lent])


def test_inputs_that_nobody_takes(lender: Lender) -> None:
    worker = lender.worker
    call = worker.start("first_input", {}, inputs=True)
    worker.wanted(call)
    segment, (tag,) = lender.lend([BLOB])
    for _ in range(3):
        send_input(lender, call, segment, tag)
    assert worker.value(call) == digest(BLOB)
    send_input(lender, call, segment, tag)  # too late
    lender.wait_released(*[segment] * 4)


def send_input(lender: Lender, call: int, segment: Segment, tag: cbor.Tag) -> None:
    import snakepit_bridge_pb2 as pb2

    chunk = pb2.ToolChunk(data_cbor=cbor.dumps(tag)).SerializeToString()
    lender.worker.send(INPUT, call, lender.entries([segment]) + chunk, 1)


# ---- uses ------------------------------------------------------------------------------


def test_bytes_that_a_tool_keeps_hold_their_segment(lender: Lender) -> None:
    first, (tag,) = lender.lend([BLOB])
    assert lender.call("keep", {"data": tag}, [first]) == 1
    second, (other,) = lender.lend([b"second" * 20_000])
    lender.call("look", {"data": other}, [second])
    lender.wait_released(second)
    assert held(lender) == 1
    # Attached once more: as the object holds it, that use is released.
    lender.call("look", {"data": tag}, [first])
    lender.wait_released(first)
    assert lender.worker.call("kept_digests") == [digest(BLOB)]
    assert lender.collect() == []
    lender.worker.call("drop")
    lender.wait_released(first)
    assert held(lender) == 0


def test_bytes_may_be_dropped_by_any_thread(start: Start) -> None:
    for arguments in ((), ("--max-workers", "4")):
        _, lender = start(*arguments)
        segment, (tag,) = lender.lend([BLOB])
        lender.call("keep", {"data": tag}, [segment])
        lender.worker.call("drop_on_a_thread")
        lender.wait_released(segment)


def test_uses_of_calls_that_fail(lender: Lender) -> None:
    segment, (tag,) = lender.lend([BLOB])
    beyond = cbor.Tag(SHARED_BYTES, [0, PAGE, 1 << 40])
    for index, offset, size in (
        (1, PAGE, 10),  # no such attachment
        (0, PAGE, segment.size),
        (0, 1 << 63, 10),
        (0, (1 << 64) - 1, 2),
        (1 << 63, 0, 1),
    ):
        bad = cbor.Tag(SHARED_BYTES, [index, offset, size])
        with pytest.raises(ToolFailed, match=r"DecodeError|do not|not CBOR"):
            lender.call("look_at_all", {"items": [tag, bad]}, [segment])
        lender.wait_released(segment)
    for malformed in ([0, PAGE], [0, PAGE, 1, 1], ["a", 1, 1], [-1, 1, 1], 5, {0: 1}):
        bad = cbor.Tag(SHARED_BYTES, malformed)
        with pytest.raises(ToolFailed, match="not CBOR"):
            lender.call("look_at_all", {"items": [tag, bad]}, [segment])
        lender.wait_released(segment)
    with pytest.raises(ToolFailed):
        lender.call("nonsense", {"data": tag}, [segment])
    with pytest.raises(ToolFailed):
        lender.call("look", {"data": beyond}, [segment])
    lender.wait_released(segment, segment)
    with pytest.raises(ToolFailed, match="do not"):
        lender.worker.call("look", {"data": tag})  # nothing attached at all
    assert held(lender) == 0


def test_uses_of_calls_that_never_run(lender: Lender, tmp_path: Path) -> None:
    worker = lender.worker
    go = tmp_path / "go"
    os.mkfifo(go)
    first, (tag,) = lender.lend([BLOB])
    busy = worker.start("lets_others_in", {"path": str(go)})
    # Cancelled in the queue.
    waiting = lender.start("look", {"data": tag}, [first])
    worker.cancel(waiting)
    with pytest.raises(ToolFailed, match="cancelled"):
        lender.value(waiting)
    lender.wait_released(first)
    # Taken back.
    offered = lender.start("look", {"data": tag}, [first], OFFER, 4000)
    assert not worker.on_offer(offered)
    with open(go, "wb"):
        assert worker.value(busy) == "opened"
    lender.wait_released(first)


def test_uses_when_a_worker_stops(lender: Lender, tmp_path: Path) -> None:
    worker = lender.worker
    go = tmp_path / "go"
    os.mkfifo(go)
    segment, (tag,) = lender.lend([BLOB])
    lender.call("keep", {"data": tag}, [segment])
    busy = worker.start("lets_others_in", {"path": str(go)})
    waiting = lender.start("look", {"data": tag}, [segment])
    worker.ping()
    worker.process.send_signal(signal.SIGTERM)
    with pytest.raises(ToolFailed, match="stopping"):
        lender.value(waiting)
    assert worker.end() == 0, worker.log  # with bytes that nobody drops
    assert busy
    assert "Fatal" not in worker.log


def test_what_is_forgotten_is_unmapped(lender: Lender) -> None:
    kept, (tag,) = lender.lend([BLOB])
    other, (tag2,) = lender.lend([BLOB])
    lender.call("keep", {"data": tag}, [kept])
    lender.call("look", {"data": tag2}, [other])
    lender.wait_released(other)
    lender.forget(other)
    wait_until(lambda: lender.worker.call("stats")["mapped"] == 1, "one to be unmapped")
    lender.forget(kept)  # the BEAM does not while it is in use; yet nothing breaks
    assert lender.worker.call("kept_digests") == [digest(BLOB)]
    lender.worker.call("drop")
    lender.wait_released(kept)
    wait_until(lambda: lender.worker.call("stats")["mapped"] == 0, "all to be unmapped")
    # What is forgotten may not come back.
    lender.start("look", {"data": tag2}, [other])
    assert ends_with(lender, "broke the protocol")


def test_thousands_of_segments(lender: Lender) -> None:
    blobs = [struct.pack("<Q", n) * 10 for n in range(3000)]
    segments, tags = [], []
    for n, blob in enumerate(blobs):
        segment = lender.make(3 * PAGE)
        tags += lender.tags(segment, [blob], n % 50)
        segments.append(segment)
        segment.memory.close()
        os.close(segment.descriptor)
    for n in range(0, 3000, 50):
        lender.call("keep", {"data": tags[n : n + 50]}, segments[n : n + 50])
    assert held(lender) == 3000
    lender.worker.call("drop")
    lender.wait_released(*segments)
    lender.forget(*segments)
    wait_until(lambda: lender.worker.call("stats")["mapped"] == 0, "all to be unmapped")
    lender.segments.clear()


# ---- a BEAM that breaks the rules --------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    ["unsealed", "short", "of a worker", "twice", "two descriptors", "none", "unknown", "empty"],
)
def test_segments_that_are_none(lender: Lender, what: str) -> None:
    import socket

    sock = lender.worker.socket
    segment = lender.make(2 * PAGE, 0 if what == "unsealed" else LENT, sent=False)
    entry = struct.pack("<QQ", segment.number, segment.size)
    if what == "short":
        lender.send_descriptor(segment, 3 * PAGE)
    elif what == "of a worker":
        segment.number |= OF_WORKER
        lender.send_descriptor(segment)
    elif what == "two descriptors":
        socket.send_fds(sock, [entry], [segment.descriptor, segment.descriptor])
    elif what == "none":
        sock.send(entry)
    elif what == "empty":
        lender.send_descriptor(segment, 0)
    elif what != "unknown":
        lender.send_descriptor(segment)
    if what == "twice":
        lender.send_descriptor(segment)
    if what == "unknown":
        lender.start("look", {"data": 1}, [segment])
    assert ends_with(lender, "broke the protocol: a segment"), lender.worker.log


def test_attached_to_what_takes_none(lender: Lender) -> None:
    segment = lender.make(2 * PAGE)
    lender.worker.send(PING, 1, lender.entries([segment]), 1)
    assert ends_with(lender, "broke the protocol")


def test_a_worker_without_descriptors_to_spare(lender: Lender) -> None:
    # It may open no more: what is sent does not arrive, and a call says so.
    import resource

    pid = lender.worker.process.pid
    assert held(lender) == 0  # it has started
    open_now = len(os.listdir(f"/proc/{pid}/fd"))
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now, before[1]))
    segment, (tag,) = lender.lend([BLOB])
    with pytest.raises(ToolFailed, match="MemoryError"):
        lender.call("look", {"data": tag}, [segment])
    lender.wait_released(segment)
    # Large results go inline then.
    value = lender.call("make", {"kind": "bytes", "size": MIB}, [])
    assert value == bytes(range(256)) * 4096
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert lender.worker.call("stats")["fallbacks"] == 1


# ---- what goes ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "memoryview", "strided", "cast", "mmap"])
@pytest.mark.parametrize("size", [65_536, MIB + 4])
def test_large_bytes_are_given(lender: Lender, kind: str, size: int) -> None:
    call = lender.worker.start("make", {"kind": kind, "size": size})
    response, frame = lender.response(call)
    assert len(response.result_cbor) < 100
    assert len(frame.attached) == 1
    assert frame.attached[0][0] & OF_WORKER
    expected = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    assert lender.resolve(cbor.loads(response.result_cbor), frame) == expected


def test_large_text_is_given(lender: Lender) -> None:
    call = lender.worker.start("make", {"kind": "str", "size": 100_000})
    response, frame = lender.response(call)
    assert len(response.result_cbor) < 100
    assert len(frame.attached) == 1
    text = (bytes(range(256)) * 391)[:100_000].decode("latin-1")
    assert lender.resolve(cbor.loads(response.result_cbor), frame) == text


def test_small_bytes_are_not(lender: Lender) -> None:
    call = lender.worker.start("make", {"kind": "bytes", "size": 65_535})
    response, frame = lender.response(call)
    assert frame.attached == []
    assert len(response.result_cbor) > 65_535


def test_the_threshold_is_that_of_the_environment(start: Start) -> None:
    _, lender = start(SNAKEPIT_ZERO_COPY_THRESHOLD="1000")
    for size, attached in ((999, 0), (1000, 1)):
        _, frame = lender.response(lender.worker.start("make", {"kind": "bytes", "size": size}))
        assert len(frame.attached) == attached


@pytest.mark.parametrize(("count", "size"), [(100, 70_000), (100, MIB), (3, 5 * MIB)])
def test_any_number_of_large_values(lender: Lender, count: int, size: int) -> None:
    call = lender.worker.start("make_many", {"count": count, "size": size})
    response, frame = lender.response(call)
    assert 1 <= len(frame.attached) <= 64
    value = lender.resolve(cbor.loads(response.result_cbor), frame)
    assert value == [bytes([n % 251]) * size for n in range(count)]


def test_an_echo_is_not_copied(lender: Lender) -> None:
    segment, (tag,) = lender.lend([BLOB])
    call = lender.start("echo", {"data": {"a": tag, "b": [tag]}}, [segment])
    response, frame = lender.response(call)
    assert frame.attached == [(segment.number, segment.size)]
    assert lender.resolve(cbor.loads(response.result_cbor), frame) == {"a": BLOB, "b": [BLOB]}
    lender.wait_released(segment)


def test_what_was_kept_is_given_from_where_it_lies(lender: Lender) -> None:
    first, (one,) = lender.lend([BLOB])
    second, (two,) = lender.lend([BLOB * 2])
    lender.call("keep", {"data": one}, [first])
    lender.call("keep", {"data": two}, [second])
    response, frame = lender.response(lender.worker.start("echo_kept"))
    assert [n for n, _ in frame.attached] == [first.number, second.number]
    assert lender.resolve(cbor.loads(response.result_cbor), frame) == [BLOB, BLOB * 2]
    assert lender.collect() == []
    # What is forgotten cannot be attached any more.
    lender.forget(first)
    value = lender.value(lender.worker.start("echo_kept"))
    assert value == [BLOB, BLOB * 2]
    lender.worker.call("drop")
    lender.wait_released(first, second)


def test_chunks_are_given(lender: Lender) -> None:
    call = lender.worker.start("frames", {"count": 40, "size": 200_000}, stream=True)
    for n in range(40):
        assert lender.chunk(call) == {"n": n, "pixels": bytes([n]) * 200_000}
        lender.worker.credit(call, 1)
    assert lender.worker.take(call)[0] in (CHUNK, ANSWER)


def test_nothing_is_left_of_a_result_that_cannot_be_sent(lender: Lender) -> None:
    with pytest.raises(ToolFailed, match="EncodeError"):
        lender.call("fails_late", {"size": MIB}, [])
    before = lender.call("usage", {}, [])
    for _ in range(20):
        with pytest.raises(ToolFailed, match="EncodeError"):
            lender.call("fails_late", {"size": MIB}, [])
    assert lender.call("usage", {}, []) == before
    assert lender.worker.take_descriptors()
    assert lender.worker.descriptors == {}


def test_a_cancelled_call_gives_nothing(lender: Lender) -> None:
    call = lender.worker.start("frames", {"count": 10_000, "size": 200_000}, stream=True)
    lender.chunk(call)
    lender.worker.cancel(call)
    while lender.worker.take(call)[0] != ANSWER:
        pass
    assert lender.worker.call("value", {"value": 1}) == 1


# ---- buffers -------------------------------------------------------------------------------


def test_a_buffer_is_given_and_stays_usable(lender: Lender) -> None:
    call = lender.worker.start("buffer", {"size": MIB, "value": 7})
    response, frame = lender.response(call)
    assert len(response.result_cbor) < 100
    seen = lender.worker.call("write_kept", {"value": 9})
    assert seen == {"sealed": True, "nbytes": MIB, "start": b"\x09" * 4 + b"\x07" * 4}
    # What was written since is not what was given.
    assert lender.resolve(cbor.loads(response.result_cbor), frame) == b"\x07" * MIB
    # Given again: what is there now.
    again = lender.value(lender.worker.start("return_kept"))
    assert again == b"\x09" * 4 + b"\x07" * (MIB - 4)
    assert lender.value(lender.worker.start("return_kept")) == again


def test_a_buffer_is_given_again(lender: Lender) -> None:
    first = lender.worker.start("buffer", {"size": MIB, "value": 7})
    _, frame = lender.response(first)
    second = lender.worker.start("return_kept")
    response, other = lender.response(second)
    assert frame.attached[0][0] != other.attached[0][0]
    lender.worker.take_descriptors()
    nodes = [os.fstat(d).st_ino for d in lender.worker.descriptors.values()]
    assert len(nodes) == 2
    assert len(set(nodes)) == 1, "it was copied"
    assert lender.resolve(cbor.loads(response.result_cbor), other) == b"\x07" * MIB


def test_views_of_a_buffer_share_its_segment(lender: Lender) -> None:
    call = lender.worker.start("buffer", {"size": MIB, "value": 3, "views": 3})
    response, frame = lender.response(call)
    assert len(frame.attached) == 1
    assert lender.resolve(cbor.loads(response.result_cbor), frame) == [b"\x03" * MIB] * 3


@pytest.mark.parametrize(("start_at", "end"), [(0, MIB), (4097, MIB), (10, 100_010)])
def test_parts_of_a_buffer(lender: Lender, start_at: int, end: int) -> None:
    call = lender.worker.start("part_of_buffer", {"size": MIB, "start": start_at, "end": end})
    expected = (bytes(range(256)) * 4096)[start_at:end]
    assert lender.value(call) == expected


def test_small_buffers_are_bytes(lender: Lender) -> None:
    assert lender.worker.call("buffer", {"size": 10, "value": 1}) == b"\x01" * 10
    assert lender.worker.call("buffer", {"size": 0, "value": 1}) == b""


def test_buffers_that_live_only_while_they_are_sent(lender: Lender) -> None:
    call = lender.worker.start("temporary_buffers", {"count": 20, "size": 100_000})
    assert lender.value(call) == [{"data": bytes([n]) * 100_000} for n in range(20)]


# ---- children ------------------------------------------------------------------------------


def test_a_forked_child_reads_and_sends_nothing(lender: Lender) -> None:
    segment, (tag,) = lender.lend([BLOB])
    seen = lender.call("in_a_child", {"data": tag}, [segment])
    assert (seen["digest"], seen["size"], seen["status"]) == (digest(BLOB), 100_000, 0)
    lender.wait_released(segment)
    assert lender.call("look", {"data": tag}, [segment])["digest"] == digest(BLOB)
    lender.wait_released(segment)


def test_a_child_holds_what_it_inherited(lender: Lender, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    segment, (tag,) = lender.lend([BLOB])
    child = lender.call("child_that_stays", {"data": tag, "path": str(go)}, [segment])
    other, (tag2,) = lender.lend([BLOB])
    lender.call("look", {"data": tag2}, [other])
    lender.wait_released(other)
    assert held(lender) == 1  # the BEAM leaves it as it is
    with open(go, "wb"):
        pass
    assert lender.worker.call("reap", {"pid": child}) == 0
    assert Path(f"{go}.seen").read_text() == digest(BLOB)
    lender.wait_released(segment)
    assert held(lender) == 0


def test_a_program_that_was_started_holds_nothing(lender: Lender) -> None:
    segment, (tag,) = lender.lend([BLOB])
    assert lender.call("program_that_stays", {"data": tag}, [segment]) == len(BLOB)
    lender.wait_released(segment)
    assert lender.worker.call("end_program") == 0


# ---- leaks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("allocator", ["pymalloc", "debug"])
def test_10_000_hand_overs_leave_nothing(start: Start, allocator: str) -> None:
    _, lender = start(PYTHONMALLOC=allocator, PYTHONFAULTHANDLER="1")
    worker = lender.worker
    segment, (tag, *_) = lender.lend([BLOB, BLOB])
    rounds = 1000 if allocator == "debug" else 3300

    def hand_over() -> None:
        call = lender.start("echo", {"data": tag}, [segment])
        assert lender.response(call)[1].attached[0][0] == segment.number
        for tool, arguments in (
            ("make", {"kind": "bytes", "size": 70_000}),
            ("temporary_buffers", {"count": 1, "size": 70_000}),
        ):
            _, frame = lender.response(worker.start(tool, arguments))
            assert worker.take_descriptors()
            os.close(worker.descriptors.pop(frame.attached[0][0]))

    for _ in range(20):
        hand_over()
    lender.wait_released(*[segment] * 20)
    before = worker.call("usage")
    for _ in range(rounds):
        hand_over()
    lender.wait_released(*[segment] * rounds)
    assert worker.call("usage") == before
    assert before["held"] == before["own"] == before["objects"] == 0
