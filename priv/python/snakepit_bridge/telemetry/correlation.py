"""The id that joins what Elixir and Python tell of one call."""

from __future__ import annotations

import logging
import os
from contextvars import Token
from typing import Optional

from ..logging_config import CorrelationFilter
from ..logging_config import correlation_id as _current

CORRELATION_HEADER = "x-snakepit-correlation-id"

_NONE = "-"


def new_correlation_id() -> str:
    return f"sp-{os.urandom(12).hex()}"


def set_correlation_id(correlation_id: Optional[str] = None) -> Token[str]:
    """From now on, in this context; a new one where none is given."""
    return _current.set(correlation_id or new_correlation_id())


def reset_correlation_id(token: Token[str]) -> None:
    """What ``set_correlation_id`` changed is as it was."""
    _current.reset(token)


def get_correlation_id() -> Optional[str]:
    """That of the call that runs; None outside of calls."""
    found = _current.get()
    return None if found == _NONE else found


def outgoing_metadata(correlation_id: Optional[str] = None) -> list[tuple[str, str]]:
    """Headers for a gRPC call that belongs to the one that runs."""
    return [(CORRELATION_HEADER, correlation_id or get_correlation_id() or new_correlation_id())]


def correlation_filter() -> logging.Filter:
    """For handlers of one's own: records get ``correlation_id``."""
    return CorrelationFilter()
