"""Log records for the BEAM: one line of JSON each on stderr, after a record separator
(RFC 7464). What is written is in the pipe, whatever becomes of the process."""

from __future__ import annotations

import json
import logging
import os
import warnings
from typing import Any, Optional, TextIO

_SEPARATOR = b"\x1e"
_STDERR = 2
# Of a line; the reader takes a little more. See GRPCWorker.Output.
_MAX_BYTES = 60_000
_CUT = "... [cut] ..."


class RecordHandler(logging.Handler):
    """Each record in one write, so that threads and other writers do not mix with it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _write(_line(self._fields(record)))
        except OSError:
            pass  # nobody reads any more
        except Exception:
            self.handleError(record)

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = {
            "level": record.levelno,
            "logger": record.name,
            "message": self.format(record),
            "file": record.pathname,
            "line": record.lineno,
            "function": record.funcName,
            "thread": record.threadName,
        }
        correlation_id = getattr(record, "correlation_id", "-")
        if correlation_id != "-":
            fields["correlation_id"] = correlation_id
        return fields


def capture_warnings() -> None:
    """Warnings become records of the logger ``py.warnings`` that name their place."""
    if warnings.showwarning is not _show_warning:
        _original.append(warnings.showwarning)
        warnings.showwarning = _show_warning


_original: list[Any] = []


def _show_warning(
    message: Any,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Optional[TextIO] = None,
    line: Optional[str] = None,
) -> None:
    if file is not None:
        _original[-1](message, category, filename, lineno, file, line)
        return
    logger = logging.getLogger("py.warnings")
    if logger.isEnabledFor(logging.WARNING):
        text = f"{category.__name__}: {message}"
        record = logger.makeRecord(
            logger.name, logging.WARNING, filename, lineno, text, (), None, func=None
        )
        logger.handle(record)


def _line(fields: dict[str, Any]) -> bytes:
    text = json.dumps(fields, default=str)
    if len(text) > _MAX_BYTES:
        # An escaped character takes up to twelve bytes.
        half = _MAX_BYTES // 30
        for key in ("message", "file", "logger", "function", "thread"):
            value = str(fields[key])
            if len(value) > 2 * half:
                fields[key] = value[:half] + _CUT + value[-half:]
        text = json.dumps(fields, default=str)
    return _SEPARATOR + text.encode() + b"\n" if len(text) <= _MAX_BYTES else b""


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(_STDERR, data) :]
