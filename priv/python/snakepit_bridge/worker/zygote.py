"""A zygote: a process that has loaded all that workers need, and is forked for each.

How the new processes come to their parents is in c_src/spawner/zygote_proto.h.
"""

from __future__ import annotations

import gc
import os
import stat
import struct
import sys
import time
from contextlib import suppress
from importlib import import_module
from typing import Any, Callable, Optional

from .. import _native, _proto
from ..errors import BridgeError

# "grpc" when workers will come by gRPC, anything else when by shared memory.
CARRIER_VARIABLE = "SNAKEPIT_ZYGOTE"
PRELOAD_VARIABLE = "SNAKEPIT_PRELOAD"

# The socket to the spawner, and what is said there: sp_zygote_word.
_SOCKET = 3
_WORD = struct.Struct("=Ii504s")
_READY, _REFUSED = 1, 2

# A thread that was joined is still known to the kernel for a moment.
_LINGER_S = 0.2

_HARMLESS_DEVICES = frozenset(
    ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
)


def serve(load: Callable[[], Any], load_grpc: Callable[[], Any]) -> Optional[Any]:
    """The adapter, in each new worker; None in the zygote, when it is to end."""
    carrier = os.environ.pop(CARRIER_VARIABLE)
    names = os.environ.pop(PRELOAD_VARIABLE, "").split(",")
    native = _native.load()
    if native is None:
        _refuse("the native part of snakepit_bridge is not there for this interpreter")
        return None
    before = _descriptors()
    if carrier == "grpc":
        load_grpc()
        _load_later_grpc()
    else:
        import_module(".local_worker", __package__)
    _preload([name.strip() for name in names if name.strip()])
    adapter = load()
    why = unfit(before)
    if why is not None:
        _refuse(why)
        return None
    gc.collect()
    gc.freeze()  # or the first collection in each worker would copy every page
    _flush()
    _say(_READY, "")
    forked = native.zygote_serve(_SOCKET)
    if forked is None:
        return None
    _begin(*forked)
    return adapter


# What grpcio imports when it is first used, which would be in each worker. Only
# imported: its core may not be in use before a fork. Other versions may lack some.
_GRPC_LATER = ("_channel", "_interceptor", "_server", "_utilities", "experimental")


def _load_later_grpc() -> None:
    _proto.messages()
    _proto.services()
    for name in _GRPC_LATER:
        with suppress(ImportError):
            import_module(f"grpc.{name}")


def _preload(names: list[str]) -> None:
    for name in names:
        try:
            import_module(name)
        except Exception as error:
            raise BridgeError(
                f"cannot import {name!r}, named by prefork: [preload: ...]: "
                f"{type(error).__name__}: {error}"
            ) from error


# ---- whether it may be forked ---------------------------------------------


def unfit(before: frozenset[int]) -> Optional[str]:
    """What a copy of this process would lack, or share with others; None if nothing.

    ``before`` are the descriptors that were open before anything was loaded.
    """
    return _threads() or _gpu() or _children() or _shared_descriptor(before)


def _threads() -> Optional[str]:
    # Also those of C libraries, of which `threading` knows nothing.
    others = _other_tasks()
    end = time.monotonic() + _LINGER_S
    while others and time.monotonic() < end:
        time.sleep(0.002)
        others = _other_tasks()
    if not others:
        return None
    names = sorted({_read(f"/proc/self/task/{task}/comm") or "?" for task in others})
    return f"it has started threads ({len(others)}: {', '.join(names)})"


def _other_tasks() -> list[str]:
    return [task for task in os.listdir("/proc/self/task") if int(task) != os.getpid()]


def _gpu() -> Optional[str]:
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        return "it has a CUDA context (torch.cuda is initialized)"
    return None


def _children() -> Optional[str]:
    children = _read(f"/proc/self/task/{os.getpid()}/children")
    return f"it has started other processes ({children})" if children else None


def _shared_descriptor(before: frozenset[int]) -> Optional[str]:
    for number in sorted(_descriptors() - before):
        with suppress(OSError):
            mode = os.fstat(number).st_mode
            name = os.readlink(f"/proc/self/fd/{number}")
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or name in _HARMLESS_DEVICES:
                continue
            return f"it has opened {name}, which its copies would share"
    return None


def _descriptors() -> frozenset[int]:
    numbers = set()
    for text in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself
            os.fstat(int(text))
            numbers.add(int(text))
    return frozenset(numbers)


def _read(path: str) -> str:
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read().strip()
    return ""


def _refuse(why: str) -> None:
    _flush()
    _say(_REFUSED, why)


def _say(what: int, text: str) -> None:
    os.write(_SOCKET, _WORD.pack(what, 0, text.encode("utf-8", "replace")[:500]))


def _flush() -> None:
    # What is left in a buffer would be written by each copy.
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


# ---- in the new process ---------------------------------------------------


def _begin(go: int, request: bytes) -> None:
    for change in environment(request):
        name, equals, value = change.partition(b"=")
        if equals:
            os.environb[name] = value
        else:
            os.environb.pop(name, None)
    _reseed()
    # The guard is in place: from now on nothing of this process can get lost.
    if os.read(go, 1) != b"\x01":
        os._exit(127)
    os.close(go)


def environment(request: bytes) -> list[bytes]:
    """The changes of the environment in a message FORK: see c_src/spawner/proto.h."""
    at = struct.calcsize(">BQQIII")
    _program, at = _string(request, at)
    _args, at = _strings(request, at)
    changes, _at = _strings(request, at)
    return changes


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    (size,) = struct.unpack_from(">I", data, at)
    end = at + 4 + size
    return data[at + 4 : end], end


def _strings(data: bytes, at: int) -> tuple[list[bytes], int]:
    (count,) = struct.unpack_from(">I", data, at)
    at += 4
    items = []
    for _ in range(count):
        item, at = _string(data, at)
        items.append(item)
    return items, at


def _reseed() -> None:
    # `random` does it by itself after a fork; hashlib, ssl, uuid and secrets
    # take what they need from the system.
    seed = getattr(sys.modules.get("numpy.random"), "seed", None)
    if seed is not None:
        with suppress(Exception):
            seed()
