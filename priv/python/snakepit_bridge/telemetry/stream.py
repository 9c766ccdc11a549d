"""Events on their way to the BEAM, and what it wants of them."""

from __future__ import annotations

import os
import queue
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Callable, NamedTuple, Optional, Union

# Names whose rate is remembered; more are looked up each time.
_MAX_NAMES = 1024
_INT64 = 1 << 63
_TEXT = 4096  # a longer text is cut


class Event(NamedTuple):
    name: str
    measurements: dict[str, Union[int, float, str]]
    metadata: dict[str, str]
    timestamp_ns: int
    correlation_id: str


class Control:
    """What is to be sent. ``rates`` are of names that match a pattern, the last wins."""

    __slots__ = ("allow", "deny", "enabled", "rate", "rates")

    def __init__(
        self,
        enabled: bool = True,
        rate: float = 1.0,
        rates: Sequence[tuple[str, float]] = (),
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
    ) -> None:
        self.enabled = enabled
        self.rate = rate
        self.rates = list(rates)
        self.allow = list(allow)
        self.deny = list(deny)

    def rate_of(self, name: str) -> float:
        """How many of the events of this name, 0.0 to 1.0. What is denied is not allowed."""
        if not self.enabled or any(fnmatchcase(name, glob) for glob in self.deny):
            return 0.0
        if self.allow and not any(fnmatchcase(name, glob) for glob in self.allow):
            return 0.0
        found = [rate for glob, rate in self.rates if fnmatchcase(name, glob)]
        return found[-1] if found else self.rate

    def sample(self, rate: float, patterns: Iterable[str]) -> None:
        """Without a pattern the rate is that of all events, whatever was said before."""
        rate = min(max(rate, 0.0), 1.0)
        patterns = list(patterns)
        if not patterns:
            self.rate = rate
            self.rates = []
            return
        kept = [pair for pair in self.rates if pair[0] not in patterns]
        self.rates = kept + [(glob, rate) for glob in patterns]


class TelemetryStream:
    """A bounded buffer of events. ``emit`` is for any thread and never waits.

    While it is full new events are dropped and counted in ``dropped_count``.
    """

    def __init__(
        self, max_buffer: int = 1024, on_event: Optional[Callable[[], None]] = None
    ) -> None:
        self.max_buffer = max_buffer
        self.dropped_count = 0
        self.closed = False
        self._on_event = on_event
        # put() is safe wherever a tool may be interrupted. None wakes a reader.
        self._events: queue.SimpleQueue[Optional[Event]] = queue.SimpleQueue()
        self._control = Control()
        self._rates: dict[str, float] = {}
        self._reader = object()  # who may take events: the stream that came last

    # ---- emitting ---------------------------------------------------------

    @property
    def enabled(self) -> bool:
        return self._control.enabled

    @property
    def sampling_rate(self) -> float:
        return self._control.rate

    def emit(
        self,
        event: str,
        measurements: Mapping[str, Any],
        metadata: Optional[Mapping[str, Any]] = None,
        correlation_id: Optional[str] = None,
    ) -> None:
        if self.closed:
            return
        rate = self.rate_of(event)
        if rate < 1.0 and not _chosen(rate, correlation_id):
            return
        if self._events.qsize() >= self.max_buffer:
            self.dropped_count += 1
            return
        self._events.put(
            Event(
                event,
                {str(key): _number(value) for key, value in measurements.items()},
                {str(key): str(value)[:_TEXT] for key, value in (metadata or {}).items()},
                time.time_ns(),
                correlation_id or "",
            )
        )
        if self._on_event is not None:
            self._on_event()

    def rate_of(self, name: str) -> float:
        """The share of the events of this name that is sent, 0.0 to 1.0."""
        rate = self._rates.get(name)
        if rate is None:
            rate = self._control.rate_of(name)
            if len(self._rates) < _MAX_NAMES:
                self._rates[name] = rate
        return rate

    # ---- what the BEAM wants ----------------------------------------------

    def set_control(self, control: Control) -> None:
        self._control = control
        self._rates = {}

    def apply(self, message: Any) -> None:
        """A ``TelemetryControl``."""
        old = self._control
        control = Control(old.enabled, old.rate, old.rates, old.allow, old.deny)
        kind = message.WhichOneof("control")
        if kind == "toggle":
            control.enabled = message.toggle.enabled
        elif kind == "sampling":
            control.sample(message.sampling.sampling_rate, message.sampling.event_patterns)
        elif kind == "filter":
            control.allow = list(message.filter.allow)
            control.deny = list(message.filter.deny)
        self.set_control(control)

    # ---- taking -----------------------------------------------------------

    def take(self, most: int) -> list[Event]:
        """What there is and is still wanted; does not wait."""
        events: list[Event] = []
        while len(events) < most:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                break
            if event is not None and self.rate_of(event.name) > 0.0:
                events.append(event)
        return events

    def stream(self, controls: Iterable[Any], context: Any = None) -> Iterator[Any]:
        """Serves ``StreamTelemetry`` until the call or this stream ends.

        A stream that comes later takes over.
        """
        from .._proto import messages

        self._reader = reader = object()
        self._events.put(None)  # for the one before
        if context is not None:
            if not context.add_callback(lambda: self._leave(reader)):
                return
            context.send_initial_metadata(())
        threading.Thread(
            target=self._listen, args=(controls, reader), name="telemetry", daemon=True
        ).start()
        pb2 = messages()
        while self._reader is reader and not self.closed:
            event = self._events.get()
            if event is None:
                continue
            if self._reader is not reader:
                self._events.put(event)  # it is the other's
                break
            if self.rate_of(event.name) > 0.0:
                yield to_message(pb2, event)
        self._events.put(None)

    def _leave(self, reader: object) -> None:
        if self._reader is reader:
            self._reader = object()
        self._events.put(None)

    def _listen(self, controls: Iterable[Any], reader: object) -> None:
        try:
            for control in controls:
                if self._reader is reader:
                    self.apply(control)
        except Exception:  # the call is over
            return

    def close(self) -> None:
        self.closed = True
        self._events.put(None)


def to_message(pb2: Any, event: Event) -> Any:
    """A ``TelemetryEvent``."""
    message = pb2.TelemetryEvent(
        event_parts=event.name.split("."),
        metadata=event.metadata,
        timestamp_ns=event.timestamp_ns,
        correlation_id=event.correlation_id,
    )
    for key, value in event.measurements.items():
        entry = message.measurements[key]
        if isinstance(value, int):
            entry.int_value = value
        elif isinstance(value, float):
            entry.float_value = value
        else:
            entry.string_value = value
    return message


def _chosen(rate: float, correlation_id: Optional[str]) -> bool:
    """All events of one call or none, so that what begins also ends."""
    if rate <= 0.0:
        return False
    if correlation_id:
        return zlib.crc32(correlation_id.encode("utf-8", "replace")) < rate * (1 << 32)
    return int.from_bytes(os.urandom(4), "little") < rate * (1 << 32)


def _number(value: Any) -> Union[int, float, str]:
    if isinstance(value, int):  # a bool too
        number = int(value)
        return number if -_INT64 <= number < _INT64 else float(number)
    if isinstance(value, float):
        return value
    for convert in ("__index__", "__float__"):  # of numpy, for one
        if hasattr(type(value), convert):
            return _number(int(value) if convert == "__index__" else float(value))
    return str(value)[:_TEXT]
