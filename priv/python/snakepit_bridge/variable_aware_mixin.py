"""Session variables for adapters, by methods of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from .session_variables import SessionVariables, Variable


class VariableAwareMixin:
    """To derive an adapter from, beside BaseAdapter.

    For older code; ``ctx.variables`` is the same without it.
    """

    @property
    def variables(self) -> SessionVariables:
        context = getattr(self, "session_context", None)
        if context is None:
            raise RuntimeError(
                f"{type(self).__name__} has no session: variables are there while a tool runs"
            )
        found: SessionVariables = context.variables
        return found

    def register_variable(
        self,
        name: str,
        type: str,
        value: Any,
        constraints: Optional[Mapping[str, Any]] = None,
    ) -> Variable:
        return self.variables.register(name, type, value, constraints)

    def get_variable(self, name: str, default: Any = None) -> Any:
        return self.variables.get(name, default)

    def set_variable(self, name: str, value: Any) -> None:
        self.variables[name] = value

    def list_variables(self) -> list[Variable]:
        return list(self.variables.all().values())
