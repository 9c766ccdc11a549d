"""For adapters whose tools run in several threads of one process.

Adapters live for one request, so what guards shared state belongs to the
class: all instances of a class share one lock, thread-local store and tracker.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Any, Callable, ClassVar, Optional, TypeVar

from .base_adapter import BaseAdapter, tool

__all__ = [
    "ExampleThreadSafeAdapter",
    "RequestTracker",
    "ThreadLocalStorage",
    "ThreadSafeAdapter",
    "require_thread_safe",
    "thread_safe_method",
    "tool",
    "validate_thread_safety",
]

_F = TypeVar("_F", bound=Callable[..., Any])


class ThreadLocalStorage:
    """Values that only the thread that set them sees."""

    def __init__(self) -> None:
        self._local = threading.local()

    def get(self, key: str, default: Any = None) -> Any:
        return self._values().get(key, default)

    def set(self, key: str, value: Any) -> None:
        self._values()[key] = value

    def clear(self, key: Optional[str] = None) -> None:
        if key is None:
            self._values().clear()
        else:
            self._values().pop(key, None)

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = self._local.__dict__
        return values


class RequestTracker:
    """Counts requests, in all and by the thread that began them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = 0
        self._active: dict[int, int] = {}
        self._seen: set[int] = set()

    @contextmanager
    def track(self, request_id: Optional[str] = None) -> Iterator[Optional[str]]:
        thread = threading.get_ident()
        with self._lock:
            self._total += 1
            self._seen.add(thread)
            self._active[thread] = self._active.get(thread, 0) + 1
        try:
            yield request_id
        finally:
            with self._lock:
                self._active[thread] -= 1
                if not self._active[thread]:
                    del self._active[thread]

    def stats(self) -> dict[str, int]:
        with self._lock:
            return {
                "total_requests": self._total,
                "active_threads": len(self._active),
                "total_active_requests": sum(self._active.values()),
                "threads_seen": len(self._seen),
            }


class ThreadSafeAdapter(BaseAdapter):
    """Base class that promises: tools of this adapter may run at the same time."""

    __thread_safe__ = True

    _shared_lock: ClassVar[Any]
    _shared_storage: ClassVar[ThreadLocalStorage]
    _shared_tracker: ClassVar[RequestTracker]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._shared_lock = threading.RLock()
        cls._shared_storage = ThreadLocalStorage()
        cls._shared_tracker = RequestTracker()

    @contextmanager
    def acquire_lock(self) -> Iterator[None]:
        """One thread at a time, over all instances of this class."""
        with self._shared_lock:
            yield

    def get_thread_local(self, key: str, default: Any = None) -> Any:
        return self._shared_storage.get(key, default)

    def set_thread_local(self, key: str, value: Any) -> None:
        self._shared_storage.set(key, value)

    def clear_thread_local(self, key: Optional[str] = None) -> None:
        self._shared_storage.clear(key)

    @contextmanager
    def track_request(self, request_id: Optional[str] = None) -> Iterator[Optional[str]]:
        with self._shared_tracker.track(request_id) as tracked:
            yield tracked

    def get_stats(self) -> dict[str, Any]:
        return {
            "adapter_class": type(self).__name__,
            "thread_safe": True,
            "tracker": self._shared_tracker.stats(),
        }


ThreadSafeAdapter._shared_lock = threading.RLock()
ThreadSafeAdapter._shared_storage = ThreadLocalStorage()
ThreadSafeAdapter._shared_tracker = RequestTracker()


def thread_safe_method(function: _F) -> _F:
    """Says that a method is thread-safe, and counts its calls by a ThreadSafeAdapter.

    A coroutine stays one, and a generator too: they are counted until their end.
    """
    counted: Any = functools.wraps(function)(_counted(function))
    counted.__thread_safe__ = True
    return counted  # type: ignore[no-any-return]


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _tracked(self):
            return function(self, *args, **kwargs)

    async def coroutine(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _tracked(self):
            return await function(self, *args, **kwargs)

    def generator(self: Any, *args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with _tracked(self):
            return (yield from function(self, *args, **kwargs))

    async def items(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        with _tracked(self):
            async with _closing(function(self, *args, **kwargs)) as found:
                async for item in found:
                    yield item

    if inspect.iscoroutinefunction(function):
        return coroutine
    if inspect.isasyncgenfunction(function):
        return items
    return generator if inspect.isgeneratorfunction(function) else call


def _tracked(adapter: Any) -> AbstractContextManager[Any]:
    return adapter.track_request() if isinstance(adapter, ThreadSafeAdapter) else nullcontext()


@asynccontextmanager
async def _closing(iterator: Any) -> AsyncIterator[Any]:
    try:
        yield iterator
    finally:
        await iterator.aclose()


def require_thread_safe(function: _F) -> _F:
    """Raises ValueError unless the first argument says that it is thread-safe."""

    @functools.wraps(function)
    def checked(first: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(first, "__thread_safe__", None) is not True:
            raise ValueError(
                f"{type(first).__name__} is not thread-safe: set __thread_safe__ = True or "
                "derive it from ThreadSafeAdapter"
            )
        return function(first, *args, **kwargs)

    return checked  # type: ignore[return-value]


def validate_thread_safety(adapter_class: type) -> bool:
    """Whether the class declares that its tools may run at the same time."""
    return getattr(adapter_class, "__thread_safe__", None) is True


class ExampleThreadSafeAdapter(ThreadSafeAdapter):
    """A counter that many threads may add to."""

    _count: ClassVar[int] = 0

    @tool("Adds one")
    @thread_safe_method
    def increment(self, by: int = 1) -> dict[str, int]:
        with self.acquire_lock():
            type(self)._count += by
            return {"count": type(self)._count}
