"""Variables of a session: typed values that the BEAM keeps, for all its workers."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from .session_context import SessionContext

_TOOL = "snakepit.variables"


@dataclass(frozen=True)
class Variable:
    """As it was when it was asked for. ``await`` gives it too, for older code."""

    name: str
    type: str
    value: Any
    constraints: dict[str, Any] = field(default_factory=dict)

    def __await__(self) -> Generator[Any, None, Variable]:
        return self
        yield  # what makes this a generator


class SessionVariables(MutableMapping[str, Any]):
    """``variables["rate"]``, ``variables["rate"] = 0.5``; ``register`` for a type.

    KeyError for a variable that is not there, ValueError for a value that does
    not fit its type or constraints.
    """

    def __init__(self, context: SessionContext) -> None:
        self._context = context

    def register(
        self,
        name: str,
        type: str,
        value: Any,
        constraints: Optional[Mapping[str, Any]] = None,
    ) -> Variable:
        """Types: float, integer, string, boolean, choice, list, map, any.

        Constraints: min, max, min_length, max_length, choices. ValueError when
        there is one of that name.
        """
        given = dict(constraints or {})
        return _variable(
            self._ask("register", name=name, type=str(type), value=value, constraints=given)
        )

    def variable(self, name: str) -> Variable:
        """The value, its type and its constraints."""
        return _variable(self._ask("get", name=name))

    def update_value(self, name: str, value: Any) -> None:
        """Of one that is there."""
        self._ask("update", name=name, value=value)

    def all(self) -> dict[str, Variable]:
        return {given["name"]: _variable(given) for given in self._ask("list")}

    def __getitem__(self, name: str) -> Any:
        return self.variable(name).value

    def __setitem__(self, name: str, value: Any) -> None:
        self._ask("put", name=name, value=value)

    def __delitem__(self, name: str) -> None:
        self._ask("delete", name=name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.all())

    def __len__(self) -> int:
        return len(self.all())

    def __repr__(self) -> str:
        return f"<variables of session {self._context.session_id!r}>"

    def _ask(self, op: str, **arguments: Any) -> Any:
        answer = self._context.call_elixir_tool(_TOOL, {"op": op, **arguments})
        if "ok" in answer:
            return answer["ok"]
        if answer.get("error") == "not_found":
            raise KeyError(answer["message"])
        raise ValueError(answer["message"])


def _variable(given: Mapping[str, Any]) -> Variable:
    return Variable(given["name"], given["type"], given["value"], dict(given["constraints"]))
