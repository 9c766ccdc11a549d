"""snakepit_bridge.telemetry without a BEAM."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Optional

import pytest

from snakepit_bridge import _proto, telemetry
from snakepit_bridge.telemetry.backends import GrpcBackend, StderrBackend, TelemetryBackend
from snakepit_bridge.telemetry.stream import Control, Event, TelemetryStream, to_message

pb2: Any = _proto.messages()

Told = tuple[str, dict[str, Any], dict[str, Any], Optional[str]]


class Ear(TelemetryBackend):
    def __init__(self) -> None:
        self.told: list[Told] = []

    def emit(
        self,
        event: str,
        measurements: Mapping[str, Any],
        metadata: Optional[Mapping[str, Any]] = None,
        correlation_id: Optional[str] = None,
    ) -> None:
        self.told.append((event, dict(measurements), dict(metadata or {}), correlation_id))


@pytest.fixture
def ear() -> Iterator[Ear]:
    before = telemetry.get_backend()
    backend = Ear()
    telemetry.set_backend(backend)
    yield backend
    telemetry.set_backend(before)


def test_without_a_backend_nothing_happens() -> None:
    assert telemetry.get_backend() is None
    assert not telemetry.is_enabled()
    telemetry.emit("a.b", {"count": 1})
    with telemetry.span("a"):
        pass


def test_a_span_tells_begin_and_end(ear: Ear) -> None:
    assert telemetry.is_enabled()
    with telemetry.span("python.call", {"tool": "t"}, "c-1"):
        telemetry.emit("inner", {})
    start, inner, stop = ear.told
    assert start[0] == "python.call.start"
    assert start[1]["system_time"] > 0
    assert start[2:] == ({"tool": "t"}, "c-1")
    assert inner[0] == "inner"
    assert stop[0] == "python.call.stop"
    assert stop[1]["duration"] >= 0


def test_a_span_that_fails_tells_why(ear: Ear) -> None:
    with pytest.raises(KeyError), telemetry.span("x"):
        raise KeyError("k")
    name, measurements, metadata, _id = ear.told[-1]
    assert name == "x.exception"
    assert set(measurements) == {"duration"}
    assert metadata == {"error_type": "KeyError", "error_message": "'k'"}


def test_a_backend_that_fails_fails_no_tool() -> None:
    class Bad(TelemetryBackend):
        def emit(self, *_args: Any, **_named: Any) -> None:
            raise RuntimeError("no")

    telemetry.set_backend(Bad())
    try:
        telemetry.emit("x", {})
    finally:
        telemetry.set_backend(None)


def test_correlation(ear: Ear) -> None:
    assert telemetry.get_correlation_id() is None
    token = telemetry.set_correlation_id("c-2")
    telemetry.emit("x", {})
    assert ear.told[-1][3] == "c-2"
    assert telemetry.outgoing_metadata() == [(telemetry.CORRELATION_HEADER, "c-2")]
    record = logging.LogRecord("n", 20, "p", 1, "m", None, None)
    telemetry.correlation_filter().filter(record)
    assert record.correlation_id == "c-2"  # type: ignore[attr-defined]
    telemetry.reset_correlation_id(token)
    assert telemetry.get_correlation_id() is None
    assert telemetry.new_correlation_id() != telemetry.new_correlation_id()
    [(_header, made)] = telemetry.outgoing_metadata()
    assert made


def test_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    StderrBackend().emit("x.y", {"n": 1}, {"k": object}, "c")
    line = capsys.readouterr().err
    assert line.startswith("TELEMETRY:")
    told = json.loads(line[len("TELEMETRY:") :])
    assert told["event"] == "x.y"
    assert told["measurements"] == {"n": 1}
    assert told["correlation_id"] == "c"


# ---- the stream -------------------------------------------------------------


def names(stream: TelemetryStream) -> list[str]:
    return [event.name for event in stream.take(10_000)]


class Num:
    def __index__(self) -> int:
        return 7


def test_values_are_what_the_wire_has() -> None:
    stream = TelemetryStream()
    given = {"on": True, "n": 3, "x": 0.5, "big": 1 << 70, "i": Num(), "text": "t", "none": None}
    GrpcBackend(stream).emit("e", given, {"a": 1, "long": "x" * 10_000})
    [event] = stream.take(1)
    assert event.measurements == {
        "on": 1,
        "n": 3,
        "x": 0.5,
        "big": float(1 << 70),
        "i": 7,
        "text": "t",
        "none": "None",
    }
    assert event.metadata["a"] == "1"
    assert len(event.metadata["long"]) == 4096
    message = to_message(pb2, event)
    assert list(message.event_parts) == ["e"]
    assert message.measurements["on"].int_value == 1
    assert message.measurements["x"].float_value == 0.5
    assert message.measurements["text"].string_value == "t"


def test_a_full_buffer_drops_the_newest() -> None:
    stream = TelemetryStream(max_buffer=2)
    for name in "abc":
        stream.emit(name, {})
    assert stream.dropped_count == 1
    assert names(stream) == ["a", "b"]
    stream.close()
    stream.emit("d", {})
    assert names(stream) == []


@pytest.mark.parametrize(
    ("control", "passes"),
    [
        (Control(), ["a.b", "a.c", "d"]),
        (Control(enabled=False), []),
        (Control(allow=["a.*"]), ["a.b", "a.c"]),
        (Control(deny=["a.b"]), ["a.c", "d"]),
        (Control(allow=["a.*"], deny=["*.c"]), ["a.b"]),
        (Control(rate=0.0, rates=[("a.*", 1.0), ("a.c", 0.0)]), ["a.b"]),
    ],
)
def test_what_is_wanted(control: Control, passes: list[str]) -> None:
    stream = TelemetryStream()
    stream.emit("a.b", {})
    assert names(stream) == ["a.b"]  # remembered as wanted; that is forgotten
    stream.set_control(control)
    for name in ("a.b", "a.c", "d"):
        stream.emit(name, {})
    assert names(stream) == passes


def test_what_is_not_wanted_any_more_is_not_sent() -> None:
    stream = TelemetryStream()
    stream.emit("a", {})
    stream.set_control(Control(enabled=False))
    assert names(stream) == []


def test_messages_of_the_beam() -> None:
    stream = TelemetryStream()
    sampling = pb2.TelemetrySamplingUpdate
    stream.apply(pb2.TelemetryControl(sampling=sampling(sampling_rate=7.0)))
    assert stream.sampling_rate == 1.0
    part = sampling(sampling_rate=0.0, event_patterns=["a.*"])
    stream.apply(pb2.TelemetryControl(sampling=part))
    assert (stream.rate_of("a.b"), stream.rate_of("b")) == (0.0, 1.0)
    only = pb2.TelemetryEventFilter(allow=["a.*"])
    stream.apply(pb2.TelemetryControl(filter=only))
    assert stream.rate_of("b") == 0.0
    stream.apply(pb2.TelemetryControl(sampling=sampling(sampling_rate=0.25)))
    assert stream.rate_of("a.b") == 0.25
    stream.apply(pb2.TelemetryControl(toggle=pb2.TelemetryToggle(enabled=False)))
    assert not stream.enabled
    stream.apply(pb2.TelemetryControl())
    assert not stream.enabled


def test_a_call_is_sampled_as_a_whole() -> None:
    stream = TelemetryStream(max_buffer=10_000)
    stream.set_control(Control(rate=0.5))
    for n in range(1000):
        for what in ("start", "stop"):
            stream.emit(what, {}, None, f"call-{n}")
    per_call: dict[str, int] = {}
    for event in stream.take(10_000):
        per_call[event.correlation_id] = per_call.get(event.correlation_id, 0) + 1
    assert set(per_call.values()) == {2}
    assert 300 < len(per_call) < 700


class Rpc:
    """What the stream needs of a gRPC call."""

    def __init__(self) -> None:
        self.ended: list[Any] = []
        self.greeted = threading.Event()

    def add_callback(self, callback: Any) -> bool:
        self.ended.append(callback)
        return True

    def send_initial_metadata(self, _metadata: Any) -> None:
        self.greeted.set()


def test_a_stream_gives_way_to_a_later_one_and_loses_nothing() -> None:
    stream = TelemetryStream()
    one, other = Rpc(), Rpc()
    first = stream.stream(iter([]), one)
    stream.emit("a", {})
    assert list(next(first).event_parts) == ["a"]
    assert one.greeted.is_set()
    second = stream.stream(iter([]), other)
    stream.emit("b", {})
    assert list(next(second).event_parts) == ["b"]
    assert list(first) == []
    stream.emit("c", {})
    assert list(next(second).event_parts) == ["c"]
    other.ended[0]()
    assert list(second) == []
    stream.emit("d", {})
    assert names(stream) == ["d"]


def test_events_are_tuples_of_plain_values() -> None:
    assert list(Event("n", {}, {}, 1, "c")) == ["n", {}, {}, 1, "c"]
