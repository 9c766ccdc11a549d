"""A tool that tells how far it is."""

from __future__ import annotations

from snakepit_bridge import BaseAdapter, telemetry, tool


class Training(BaseAdapter):
    @tool("Trains a little")
    def train(self, steps: int) -> float:
        loss = 1.0
        for step in range(steps):
            with telemetry.span("lesson.step", {"step": step}):
                loss = loss / 2
            telemetry.emit("lesson.progress", {"loss": loss}, {"step": step})
        return loss
