"""Programs as `Snakepit.SessionHelpers` knows them, and exceptions by name."""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterator
from typing import Any

from snakepit_bridge import BaseAdapter, tool

_programs: dict[str, Any] = {}


class ProgramTools(BaseAdapter):
    @tool("Keeps a program in this process")
    def create_program(self, program_id: str, factor: int) -> dict[str, Any]:
        _programs[program_id] = factor
        return {"pid": os.getpid()}

    @tool("Runs a program, of this process or of those that it is given")
    def execute_program(
        self, program_id: str, input: int, program_data: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        if program_id in _programs:
            return {"output": _programs[program_id] * input, "known": True}
        if program_data is None:
            raise KeyError(program_id)
        return {"output": program_data["factor"] * input, "known": False}

    @tool("Forgets all programs, as another worker has never known them")
    def forget(self) -> None:
        _programs.clear()

    @tool("Names itself")
    def create_named(self) -> dict[str, str]:
        return {"program_id": "named"}

    @tool("Returns its argument")
    def echo(self, value: Any = None) -> Any:
        return value

    @tool("Raises")
    def fail(self, kind: str, text: str) -> None:
        raise getattr(builtins, kind)(text)

    @tool("Numbers up to a count")
    def numbers(self, count: int) -> Iterator[dict[str, int]]:
        for number in range(count):
            yield {"number": number}
