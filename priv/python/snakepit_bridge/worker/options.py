"""The command line of a worker."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Optional

from .._heartbeat_config import HeartbeatConfig, configured

DEFAULT_ADAPTER = "snakepit_bridge.adapters.showcase.ShowcaseAdapter"
THREADED_ADAPTER = "snakepit_bridge.adapters.threaded_showcase.ThreadedShowcaseAdapter"

_EPILOG = """\
environment: SNAKEPIT_READY_FILE (gets the port), SNAKEPIT_READY_BELL (a socket
that is told so), SNAKEPIT_LOG_LEVEL, SNAKEPIT_LOG_RECORDS (the log as JSON, for
a BEAM to read), SNAKEPIT_GRPC_ADDRESS (default of --elixir-address),
SNAKEPIT_BIND_HOST, SNAKEPIT_CONCURRENCY (default of --concurrency),
SNAKEPIT_THREAD_SENSITIVE, SNAKEPIT_PROTO_PATH, SNAKEPIT_ALLOW_PICKLE,
SNAKEPIT_UNSERIALIZABLE_DETAIL,
SNAKEPIT_UNSERIALIZABLE_REPR_MAXLEN, SNAKEPIT_TOLIST_MAX_ELEMENTS.
Unknown options are ignored with a warning."""


def parser(mode: str = "process") -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="snakepit-bridge",
        description="Runs the tools of an adapter for Elixir.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    add("--adapter", metavar="PATH", help="module, package.module.Class or module:Class")
    add("--port", type=_port, default=0, help="to listen on; 0 (default) takes a free one")
    add("--host", default=os.environ.get("SNAKEPIT_BIND_HOST") or "127.0.0.1")
    add("--elixir-address", metavar="HOST:PORT", default=_default_address())
    add("--mode", choices=("process", "threaded"), default=mode)
    add("--max-workers", type=_positive, default=10, help="threads in threaded mode")
    add("--thread-safety-check", action="store_true", help="watch for concurrent access")
    add(
        "--concurrency",
        type=_positive,
        default=_default_concurrency(),
        help="coroutine tools at a time in process mode",
    )
    add("--health-check", action="store_true", help="import everything, then exit 0 or 1")
    owner = "names the BEAM that owns this worker"
    add("--snakepit-run-id", "--run-id", default="", help=owner)
    for name in ("instance-name", "instance-token"):
        add(f"--snakepit-{name}", default="", help=owner)
    add("--heartbeat-enabled", action="store_true", default=None, help="the default")
    for name in ("interval-ms", "timeout-ms", "max-missed", "initial-delay-ms"):
        add(f"--heartbeat-{name}", type=int, help="of asking whether the BEAM lives")
    dependent = result.add_mutually_exclusive_group()
    dependent.add_argument("--heartbeat-dependent", action="store_true", default=None)
    dependent.add_argument(
        "--heartbeat-independent",
        dest="heartbeat_dependent",
        action="store_false",
        help="go on without the BEAM",
    )
    return result


def heartbeat(options: argparse.Namespace) -> HeartbeatConfig:
    """The environment goes before the command line."""
    prefix = "heartbeat_"
    return configured(
        {key[len(prefix) :]: value for key, value in vars(options).items() if key[:10] == prefix}
    )


def parse(argv: Optional[Sequence[str]], mode: str = "process") -> argparse.Namespace:
    """Exits with 2 on a bad value, as argparse does."""
    this = parser(mode)
    options, unknown = this.parse_known_args(argv)
    if unknown:
        print(f"snakepit: ignoring unknown options: {' '.join(unknown)}", file=sys.stderr)
    if not options.adapter:
        if not options.health_check:
            this.error(f"--adapter is required, for example --adapter {DEFAULT_ADAPTER}")
        options.adapter = DEFAULT_ADAPTER
    return options


def _default_address() -> str:
    for name in ("SNAKEPIT_GRPC_ADDRESS", "SNAKEPIT_ELIXIR_ADDRESS"):
        if os.environ.get(name):
            return os.environ[name]
    return ""


def _default_concurrency() -> int:
    text = os.environ.get("SNAKEPIT_CONCURRENCY", "")
    return int(text) if text.isdigit() and int(text) > 0 else 1


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port (0 to 65535)")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
