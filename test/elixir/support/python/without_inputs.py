"""Workers whose server has no ExecuteInteractiveTool, as those of other versions."""

from __future__ import annotations

from typing import Any

import grpc
from snakepit_test_tools import TestTools

_generic = grpc.method_handlers_generic_handler


def _without(service: str, handlers: dict[str, Any]) -> Any:
    handlers.pop("ExecuteInteractiveTool")
    return _generic(service, handlers)


grpc.method_handlers_generic_handler = _without


class Tools(TestTools):
    pass
