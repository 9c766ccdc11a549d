"""An adapter that registers its tools with the BEAM."""

from __future__ import annotations

from typing import Any

from snakepit_bridge import BaseAdapter, tool


class Registers(BaseAdapter):
    @tool
    def hello(self) -> str:
        return "hello"

    def register_with_session(self, session_id: str, stub: Any) -> list[str]:
        return super().register_with_session(session_id, stub)
