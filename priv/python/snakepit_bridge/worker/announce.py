"""What a worker tells its BEAM of itself before it serves."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..errors import ElixirToolError
from ..logging_config import get_logger
from ..session_context import SessionContext, worker_id
from ..tool_specs import declared

if TYPE_CHECKING:
    from .requests import AdapterHost

_log = get_logger(__name__)

# See lib/snakepit/bridge/worker_tools.ex.
_TOOL = "snakepit.worker"

# The BEAM lets a worker in a moment before it takes requests of it.
_FIRST_PAUSE_S = 0.0005
_LONGEST_PAUSE_S = 0.02
_PATIENCE_S = 5.0


def prepare(adapter: Any) -> None:
    """Before a fork, so that not every worker does it."""
    try:
        declared(adapter)
    except Exception as error:
        _log.debug("the tools of the adapter cannot be told: %s", error)


def announce(adapter: Any, host: AdapterHost, **way: Any) -> None:
    """Tells the tools of ``adapter``, and whether instances of it stay with sessions.

    ``way`` is how a SessionContext gets to the BEAM. Only workers that a BEAM
    has started have something to tell. What goes wrong is logged: a worker
    whose tools are not known can be called all the same.
    """
    if not worker_id():
        return
    try:
        tools = list(declared(adapter))
    except Exception as error:
        _log.warning("the tools of the adapter cannot be told: %s", error)
        tools = []
    if not _told(tools, host, way) and tools:
        # A text that cannot be sent, for example. The BEAM waits for something.
        _told([], host, way)


def _told(tools: list[dict[str, Any]], host: AdapterHost, way: dict[str, Any]) -> bool:
    """False when it is worth telling less."""
    try:
        refused = _tell({"tools": tools, "keeps_sessions": host.keeps_sessions}, way)
    except Exception as error:
        _log.warning("the tools are not registered: %s", error)
        return isinstance(error, ElixirToolError) and error.kind == "transport"
    for name, why in refused.items() if isinstance(refused, dict) else ():
        _log.info("tool %r is not registered: %s", name, why)
    return True


def _tell(about: dict[str, Any], way: dict[str, Any]) -> Any:
    end = time.monotonic() + _PATIENCE_S
    pause = _FIRST_PAUSE_S
    while True:
        context = SessionContext(None, "", deadline=end, **way)
        try:
            return context.call_elixir_tool(_TOOL, about)
        except ElixirToolError as error:
            early = way.get("local") is not None and ": UNAVAILABLE: " in str(error)
            if not early or time.monotonic() + pause >= end:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
