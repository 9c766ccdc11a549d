"""The extension, ``_snakepit_native``, as type checkers see it: ``_native.load`` finds it.

A module has no type of its own: ``Extension`` says what is in it, by its C sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, NoReturn, Optional, Protocol, TypedDict, Union, final

class SegmentStats(TypedDict):
    mapped: int
    held: int
    objects: int
    own: int
    bytes: int
    fallbacks: int

@final
class Buffer:
    """Memory that goes to the BEAM without a copy; ``alloc`` makes it."""

    @property
    def nbytes(self) -> int: ...
    @property
    def sealed(self) -> bool: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Tensor:
    """The memory of a DLPack capsule that was taken; a buffer where the processor can read
    it."""

    @property
    def address(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class SharedBytes(bytes):
    """Bytes that lie in a segment; ``bytes`` to all who look."""

    def __new__(cls, *args: Any, **kwargs: Any) -> NoReturn: ...

@final
class Call:
    """A request that runs; ``finish`` or ``fail`` ends it."""

    interrupted: bool
    @property
    def tool(self) -> str: ...
    @property
    def session_id(self) -> str: ...
    @property
    def metadata(self) -> dict[str, str]: ...
    @property
    def stream(self) -> bool: ...
    @property
    def has_inputs(self) -> bool: ...
    @property
    def cancelled(self) -> bool: ...
    @property
    def deadline(self) -> Optional[float]: ...
    @property
    def sink(self) -> Call: ...
    def parameters(self) -> dict[str, Any]: ...
    def is_cancelled(self) -> bool: ...
    def is_call(self, call: int, /) -> bool: ...
    def check(self) -> None: ...
    def result(self, value: Any, /) -> Any: ...
    def finish(self) -> None: ...
    def fail(self, message: str, /) -> None: ...
    def put(self, value: Any, final: bool, metadata: Any, wait: bool = True, /) -> bool: ...
    def poll_input(self, none: Any, /) -> Any: ...
    def await_input(self) -> None: ...

@final
class Request:
    """One to the BEAM, under way."""

    @property
    def done(self) -> bool: ...
    def wait(self, call: Any, seconds: Optional[float], /) -> bool: ...
    def notify(self, descriptor: int, /) -> None: ...
    def reply(self) -> tuple[int, bytes]: ...
    def tool_reply(self) -> tuple[int, bool, Any, Any]: ...
    def cancel(self) -> None: ...

@final
class Link:
    """The connection to the BEAM; a process has one at most."""

    def __init__(
        self,
        path: str,
        token: str,
        threaded: bool,
        signal: int,
        on_cancel: Optional[Callable[[int], object]],
        /,
    ) -> None: ...
    @property
    def signal_fd(self) -> int: ...
    def take(self, main: bool, /) -> Optional[Call]: ...
    def stop(self, status: int, grace_ms: int, /) -> None: ...
    def expect_pings(self, timeout_ms: int, max_missed: int, /) -> None: ...
    def ended(self) -> tuple[int, Optional[str]]: ...
    def close(self) -> None: ...
    def request(self, method: int, data: bytes, /) -> Request: ...
    def tool_request(
        self,
        tool: str,
        session: str,
        metadata: dict[str, str],
        arguments: dict[str, Any],
        left_ms: int,
        /,
    ) -> Request: ...

# Within a class whose member has the name it would be that.
_Buffer = Buffer

class Extension(Protocol):
    Buffer: type[Buffer]
    Call: type[Call]
    Link: type[Link]
    Request: type[Request]
    SharedBytes: type[SharedBytes]  # not where there is no lock: then bytes are copied

    def configure(
        self,
        encode_error: type[Exception],
        decode_error: type[Exception],
        cancelled_error: type[BaseException],
        simplify: Callable[[Any], Any],
        zero_copy: Callable[[dict[str, Any]], Any],
        binary_result: type[Any],
        reply: Any,
        tagged: type[Any],
        untag: Callable[..., Any],
        freeze: Callable[[Any], Any],
        /,
    ) -> None: ...
    def encode(self, value: Any, /) -> bytes: ...
    def decode(self, data: bytes, /) -> Any: ...
    def zygote_serve(self, socket: int, /) -> Optional[tuple[int, bytes]]: ...
    def alloc(self, nbytes: int, /) -> _Buffer: ...
    def is_shared(self, value: Any, /) -> bool: ...
    def expose(self, value: Any, /) -> None: ...
    def segment_stats(self) -> SegmentStats: ...
    def dlpack_export(
        self,
        buffer: Union[Any, tuple[int, int, Any]],
        code: int,
        bits: int,
        lanes: int,
        shape: Sequence[int],
        strides: Optional[Sequence[int]],
        byte_offset: int,
        readonly: bool,
        versioned: bool,
        device: tuple[int, int] = (1, 0),
        copied: bool = False,
        /,
    ) -> Any: ...
    def dlpack_import(
        self, capsule: Any, /
    ) -> tuple[
        Tensor,
        int,
        int,
        int,
        tuple[int, ...],
        tuple[int, ...],
        bool,
        tuple[int, int],
        int,
    ]: ...
    def tensor_pack(
        self,
        source: Any,
        code: int,
        bits: int,
        lanes: int,
        shape: Sequence[int],
        strides: Optional[Sequence[int]],
        byte_offset: int,
        target: Any,
        /,
    ) -> int: ...
