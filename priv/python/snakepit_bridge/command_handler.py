"""Adapters as the first versions had them: handlers that register commands by name.

    class Words(BaseCommandHandler):
        def _register_commands(self):
            self.register_command("uppercase", self.uppercase)

        def uppercase(self, args):
            return {"result": args["text"].upper()}

    if __name__ == "__main__":
        ProtocolHandler(Words()).run()

Such a class is named with ``--adapter`` like any other, or its file is a
worker's program, with ``ProtocolHandler``.
"""

from __future__ import annotations

import difflib
import sys
from typing import TYPE_CHECKING, Any, Callable, Optional

from .errors import UnknownToolError

if TYPE_CHECKING:
    from .session_context import SessionContext

_Command = Callable[..., Any]


class BaseCommandHandler:
    """One instance lives as long as its process."""

    lifetime = "process"

    def __init__(self) -> None:
        self.session_context: Optional[SessionContext] = None
        self._commands: dict[str, _Command] = {}
        self._register_commands()

    def _register_commands(self) -> None:
        """To be overridden: calls ``register_command``."""

    def register_command(self, name: str, function: _Command) -> None:
        """``function`` takes the arguments as one dict, or as named parameters."""
        if not isinstance(name, str) or not name:
            raise ValueError(f"the name of a command is text, not {name!r}")
        if not callable(function):
            raise TypeError(f"command {name!r}: {function!r} cannot be called")
        self._commands[name] = function

    def get_supported_commands(self) -> list[str]:
        return sorted(self._commands)

    def process_command(self, command: str, args: Optional[dict[str, Any]] = None) -> Any:
        """Runs a command. Raises UnknownToolError, with what comes close."""
        return self._run(command, args or {}, self.session_context)

    def set_session_context(self, session_context: SessionContext) -> None:
        self.session_context = session_context

    def execute_tool(self, tool_name: str, arguments: dict[str, Any], context: Any) -> Any:
        return self._run(tool_name, arguments, context)

    def _run(self, name: str, arguments: dict[str, Any], context: Any) -> Any:
        from .dispatch import Tool

        function = self._commands.get(name)
        if function is None:
            raise UnknownToolError(self._unknown(name))
        stream = getattr(context, "stream", None)
        inputs = getattr(context, "inputs", None)
        tool = Tool(name, function)
        named = tool.arguments()
        # All together, unless its only parameter is the name of an argument.
        tool.takes_dict = not (len(named) == 1 and named[0].name in arguments)
        return tool.call(arguments, context, stream, inputs=inputs)

    def _unknown(self, name: str) -> str:
        names = self.get_supported_commands()
        close = difflib.get_close_matches(name, names, n=3)
        hint = "did you mean " + " or ".join(map(repr, close)) + "?" if close else None
        known = f"it has: {', '.join(names[:40]) or 'none'}"
        return f"{type(self).__name__} has no command {name!r}; {hint or known}"


class ProtocolHandler:
    """Makes the program that it is called in a worker, which serves one handler."""

    def __init__(self, command_handler: Any) -> None:
        self.command_handler = command_handler

    def run(self) -> None:
        """Serves until the worker is told to stop."""
        from .worker.cli import main

        global Served
        Served = _served(self.command_handler)
        arguments = [*sys.argv[1:], "--adapter", f"{__name__}:Served"]
        status = main(arguments)
        if status != 0:
            sys.exit(status)


def _served(handler: Any) -> type:
    """A class whose one instance is ``handler``."""

    def __new__(_cls: type) -> Any:
        return handler

    kind = type(handler)
    return type(kind.__name__, (kind,), {"__new__": __new__, "lifetime": "process"})


# The handler of a program that called ``run``.
Served: Optional[type] = None
