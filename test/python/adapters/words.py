"""Commands registered by name; also a worker's program."""

from __future__ import annotations

from typing import Any

from snakepit_bridge import BaseCommandHandler, ProtocolHandler
from snakepit_bridge.core import setup_broken_pipe_suppression, setup_graceful_shutdown


class Words(BaseCommandHandler):
    def __init__(self, greeting: str = "hello") -> None:
        super().__init__()
        self.greeting = greeting
        self.calls = 0

    def _register_commands(self) -> None:
        self.register_command("uppercase", self.uppercase)
        self.register_command("word_count", self.word_count)
        self.register_command("greet", self.greet)
        self.register_command("later", self.later)
        self.register_command("spell", self.spell)

    def uppercase(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"result": args["text"].upper()}

    def word_count(self, args: dict[str, Any]) -> dict[str, Any]:
        words = args["text"].split()
        return {
            "word_count": len(words),
            "char_count": len(args["text"]),
            "unique_words": len(set(words)),
        }

    def greet(self, name: str, mark: str = "!") -> str:
        self.calls += 1
        return f"{self.greeting} {name}{mark} {self.calls}"

    async def later(self, args: dict[str, Any]) -> Any:
        assert self.session_context is not None
        return [self.session_context.session_id, args]

    def spell(self, args: dict[str, Any]) -> Any:
        yield from args["text"]


def main() -> None:
    setup_broken_pipe_suppression()
    handler = ProtocolHandler(Words("good day"))
    setup_graceful_shutdown(handler)
    handler.run()


if __name__ == "__main__":
    main()
