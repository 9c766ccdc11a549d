"""How heartbeats are configured; apart from them, as that needs little."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Optional

from .logging_config import get_logger

_log = get_logger(__name__)

VARIABLE = "SNAKEPIT_HEARTBEAT_CONFIG"

_TRUE = frozenset(("1", "true", "t", "yes", "y", "on"))
_FALSE = frozenset(("0", "false", "f", "no", "n", "off", ""))
_ALIASES = {"ping_interval_ms": "interval_ms", "max_missed": "max_missed_heartbeats"}


@dataclass(frozen=True)
class HeartbeatConfig:
    """The same keys as the heartbeat map on the Elixir side."""

    enabled: bool = True
    interval_ms: int = 2000
    timeout_ms: int = 10000
    max_missed_heartbeats: int = 3
    initial_delay_ms: int = 0
    jitter_ms: int = 0
    dependent: bool = True

    @classmethod
    def from_mapping(
        cls,
        options: Optional[Mapping[str, Any]],
        defaults: Optional[HeartbeatConfig] = None,
    ) -> HeartbeatConfig:
        """snake_case or camelCase keys; text is read as numbers and booleans.

        Unknown keys are ignored. Raises ValueError for a value of no sense.
        """
        base = defaults if defaults is not None else cls()
        known = {field.name: field for field in fields(cls)}
        changes: dict[str, Any] = {}
        for key, value in (options or {}).items():
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", str(key)).lower()
            name = _ALIASES.get(name, name)
            if name in known and value is not None:
                read = _boolean if isinstance(getattr(base, name), bool) else _milliseconds
                changes[name] = read(name, value)
        return replace(base, **changes)


def configured(flags: Optional[Mapping[str, Any]] = None) -> HeartbeatConfig:
    """What SNAKEPIT_HEARTBEAT_CONFIG says, else the flags of the command line."""
    config = HeartbeatConfig.from_mapping(flags)
    text = os.environ.get(VARIABLE, "")
    if not text:
        return config
    try:
        options = json.loads(text)
        if not isinstance(options, dict):
            raise ValueError(f"{text!r} is not an object")
        return HeartbeatConfig.from_mapping(options, config)
    except ValueError as error:
        _log.error("%s is ignored: %s", VARIABLE, error)
        return config


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"heartbeat {name}: {value!r} is neither true nor false")


def _milliseconds(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise ValueError(f"heartbeat {name}: {value!r} is not a whole number") from None
    if number < 0:
        raise ValueError(f"heartbeat {name}: {value!r} is negative")
    return number
