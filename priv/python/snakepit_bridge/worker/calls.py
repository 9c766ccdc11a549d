"""One request on its way through the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Optional, Protocol

from .. import _values
from ..errors import ToolCancelled
from ..inputs import InputSource
from ..serialization import BinaryResult, wire_type


class Cbor(bytes):
    """Data of a reply or chunk that is CBOR; other data is JSON, text or raw."""

    __slots__ = ()


@dataclass
class Reply:
    """The answer to a call: ``value``, which is JSON or Cbor, or ``error``, which is JSON."""

    value: Optional[bytes] = None
    kind: str = "null"
    binary: bytes = b""
    error: Optional[str] = None
    cancelled: bool = False
    elapsed_ms: int = 0


Metadata = Optional[Mapping[str, str]]


class Sink(Protocol):
    """Where a carrier takes chunks and the reply. Called by the running lane."""

    def put(self, data: bytes, final: bool, metadata: Metadata, wait: bool = True) -> bool:
        """Waits while the receiver is behind; returns at once after ``close``.

        With ``wait`` false it is False, and nothing is sent, where that would wait.
        """

    def finish(self, reply: Reply) -> None: ...

    def close(self) -> None:
        """Any thread: nothing will be received any more."""


class UnarySink:
    """For calls that have a reply only; this one returns it to who runs them."""

    def put(self, data: bytes, final: bool, metadata: Metadata, wait: bool = True) -> bool:
        raise RuntimeError("a unary call has no stream")

    def finish(self, reply: Reply) -> None:
        """Nobody waits."""

    def close(self) -> None:
        """The reply still comes."""


NO_SINK: Sink = UnarySink()


class Call:
    """A request, decoded only when it runs."""

    __slots__ = (
        "cancelled",
        "deadline",
        "inputs",
        "interrupted",
        "key",
        "metadata",
        "parameters",
        "session_id",
        "sink",
        "stream",
        "tool",
    )

    def __init__(
        self,
        tool: str,
        session_id: str,
        metadata: dict[str, str],
        parameters: Callable[[], dict[str, Any]],
        sink: Sink = NO_SINK,
        stream: bool = False,
        key: str = "",
        deadline: Optional[float] = None,
        inputs: Optional[InputSource] = None,
    ) -> None:
        self.tool = tool
        self.session_id = session_id
        self.metadata = metadata
        self.parameters = parameters
        self.sink = sink
        self.stream = stream
        self.key = key
        self.deadline = deadline
        self.inputs = inputs
        self.cancelled = False
        self.interrupted = False

    def is_cancelled(self) -> bool:
        return self.cancelled

    def check(self) -> None:
        """Raises ToolCancelled once nobody waits for the call."""
        if self.cancelled:
            self.interrupted = True
            raise ToolCancelled(f"the call of {self.tool!r} was cancelled")

    @property
    def has_inputs(self) -> bool:
        return self.inputs is not None

    def poll_input(self, none: Any) -> Any:
        """The next input, or ``none`` when it has not come. StopIteration after the last."""
        if self.inputs is None:
            raise StopIteration
        return self.inputs.poll_input(none)

    def await_input(self) -> None:
        """Any thread: returns when ``poll_input`` has something to say."""
        if self.inputs is not None:
            self.inputs.await_input()

    def result(self, value: Any) -> Reply:
        """The reply to a call whose tool returned ``value``. Raises EncodeError."""
        if isinstance(value, BinaryResult):
            meta = b"{}" if value.metadata is None else _values.dumps(value.metadata)
            return Reply(value=meta, kind="map", binary=value.data)
        text = _values.dumps(value)
        return Reply(value=text, kind=wire_type(value, text))

    def put(self, value: Any, final: bool, metadata: Metadata, wait: bool = True) -> bool:
        """Sends a chunk; waits as the sink does."""
        return self.sink.put(self.chunk_data(value), final, metadata, wait)

    def chunk_data(self, value: Any) -> bytes:
        return _chunk_data(value)


class CborCall(Call):
    """A request whose arguments were CBOR: so is what is sent back."""

    __slots__ = ("encode",)

    encode: Callable[[Any], bytes]

    def result(self, value: Any) -> Reply:
        if isinstance(value, BinaryResult):
            meta = {} if value.metadata is None else value.metadata
            return Reply(value=Cbor(self.encode(meta)), binary=value.data)
        return Reply(value=Cbor(self.encode(value)))

    def chunk_data(self, value: Any) -> bytes:
        raw = value is None or isinstance(value, (str, bytes, bytearray, memoryview))
        return _chunk_data(value) if raw else Cbor(self.encode(value))


def _chunk_data(value: Any) -> bytes:
    if value is None:
        return b""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace")
    return _values.dumps(value)
