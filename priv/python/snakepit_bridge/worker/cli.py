"""Start-up and end of a worker process."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Optional

from ..errors import BridgeError
from ..logging_config import configure_logging
from . import local
from .options import parse


def main(argv: Optional[Sequence[str]] = None, mode: str = "process") -> int:
    """Runs a worker until it is told to stop; the exit status."""
    options = parse(argv, mode)
    configure_logging()
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    try:
        if options.health_check:
            return _health_check(options)
        _lead_group()
        return _serve(options)
    except BridgeError as error:
        print(f"snakepit: {error}", file=sys.stderr)
        traceback.print_exception(type(error), error, error.__traceback__)
        return 1
    except Exception as error:
        print(f"snakepit: {type(error).__name__}: {error}", file=sys.stderr)
        traceback.print_exc()
        return 1


def _health_check(options: argparse.Namespace) -> int:
    _load_grpc()
    _load_adapter(options)
    print("ok")
    return 0


def _serve(options: argparse.Namespace) -> int:
    # gRPC's own handlers around fork() abort tools that start processes.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    if "SNAKEPIT_ZYGOTE" not in os.environ:
        return _work(options, None)
    from . import zygote

    adapter = zygote.serve(lambda: _load_for_all(options), _load_grpc)
    return 0 if adapter is None else _work(options, adapter)


def _work(options: argparse.Namespace, adapter: Any) -> int:
    """``adapter`` is None when it is still to be loaded."""
    offer = local.take_offer()
    if offer is not None:
        return offer.serve(options, _load_adapter(options) if adapter is None else adapter)
    process = _load_grpc()
    if adapter is None:
        adapter = _load_adapter(options)
    result: int = process.WorkerProcess(options, adapter).run()
    return result


def _load_grpc() -> Any:
    try:
        import grpc  # noqa: F401
    except ImportError as error:
        raise BridgeError(
            f"cannot import grpcio: {type(error).__name__}: {error} - {_remedy()}"
            f"{sys.executable} -m pip install 'grpcio>=1.60,<2' 'protobuf>=4.25,<8', "
            "or name another interpreter in config :snakepit, :python_executable"
        ) from error
    from . import process

    return process


def _load_for_all(options: argparse.Namespace) -> Any:
    from .announce import prepare

    adapter = _load_adapter(options)
    prepare(adapter)
    return adapter


def _remedy() -> str:
    """Where grpcio can hardly be had there is shared memory, which does without."""
    if "t" not in getattr(sys, "abiflags", ""):
        return ""
    return (
        "build the native part for this free-threaded interpreter, "
        f"SNAKEPIT_PYTHON={sys.executable} mix compile, or "
    )


def _load_adapter(options: argparse.Namespace) -> Any:
    from .._proto import show
    from .loader import load_adapter

    show()  # the adapter may import the messages by their names
    adapter = load_adapter(options.adapter)
    if options.mode == "threaded" and getattr(adapter, "__thread_safe__", None) is not True:
        raise BridgeError(
            f"cannot use adapter {options.adapter!r} in threaded mode: it does not say that "
            "it is thread-safe - set __thread_safe__ = True in it, derive the class from "
            "ThreadSafeAdapter, or use the process profile"
        )
    return adapter


def _lead_group() -> None:
    wanted = os.environ.get("SNAKEPIT_PROCESS_GROUP", "").strip().lower()
    if wanted in ("1", "true", "yes", "on") and os.getpgid(0) != os.getpid():
        os.setsid()
