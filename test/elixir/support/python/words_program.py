"""A worker's program as those of the first versions."""

from __future__ import annotations

from typing import Any

from snakepit_bridge import BaseCommandHandler, ProtocolHandler
from snakepit_bridge.core import setup_broken_pipe_suppression, setup_graceful_shutdown


class MySimpleHandler(BaseCommandHandler):
    def _register_commands(self) -> None:
        self.register_command("uppercase", self.uppercase)
        self.register_command("word_count", self.word_count)

    def uppercase(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"result": args["text"].upper()}

    def word_count(self, args: dict[str, Any]) -> dict[str, Any]:
        words = args["text"].split()
        return {
            "word_count": len(words),
            "char_count": len(args["text"]),
            "unique_words": len(set(words)),
        }


def main() -> None:
    setup_broken_pipe_suppression()
    protocol = ProtocolHandler(MySimpleHandler())
    setup_graceful_shutdown(protocol)
    protocol.run()


if __name__ == "__main__":
    main()
