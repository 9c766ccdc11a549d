from __future__ import annotations

from snakepit_bridge import BaseAdapter


class NeedsArgument(BaseAdapter):
    def __init__(self, model: str) -> None:
        self.model = model
