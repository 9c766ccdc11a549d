"""Logging of a worker, at the level the BEAM names: records to the BEAM's log where
it started the worker, else lines to stderr."""

from __future__ import annotations

import logging
import os
import sys
from contextvars import ContextVar

LEVEL_VARIABLE = "SNAKEPIT_LOG_LEVEL"
RECORDS_VARIABLE = "SNAKEPIT_LOG_RECORDS"
FORMAT = "%(asctime)s [%(threadName)s] %(name)s %(levelname)s [%(correlation_id)s] %(message)s"

correlation_id: ContextVar[str] = ContextVar("snakepit_correlation_id", default="-")

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "none": logging.CRITICAL + 10,
}


class CorrelationFilter(logging.Filter):
    """Gives every record the id of the request it belongs to."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.correlation_id = correlation_id.get()
        return True


def configure_logging(force: bool = False) -> None:
    """Sets up the root logger once; ``force`` replaces what is there."""
    root = logging.getLogger()
    if root.handlers and not force:
        return
    handler = _handler()
    handler.addFilter(CorrelationFilter())
    root.handlers[:] = [handler]
    name = os.environ.get(LEVEL_VARIABLE, "error").strip().lower()
    root.setLevel(_LEVELS.get(name, logging.ERROR))
    for chatty in ("grpc", "urllib3"):
        logging.getLogger(chatty).setLevel(max(root.level, logging.WARNING))


def _handler() -> logging.Handler:
    if os.environ.get(RECORDS_VARIABLE):
        from . import log_records

        log_records.capture_warnings()
        return log_records.RecordHandler()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT))
    return handler


def get_logger(name: str) -> logging.Logger:
    """``snakepit_bridge.x`` logs as ``snakepit.bridge.x``, others below ``snakepit``."""
    if name == "snakepit" or name.startswith("snakepit."):
        return logging.getLogger(name)
    if name == "snakepit_bridge" or name.startswith("snakepit_bridge."):
        return logging.getLogger("snakepit.bridge" + name[len("snakepit_bridge") :])
    return logging.getLogger(f"snakepit.{name}")
