"""Tools that read what the caller makes while they run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from snakepit_bridge import BaseAdapter, Inputs, tool


class Flows(BaseAdapter):
    @tool("The sum of all inputs")
    def sum_all(self, inputs: Inputs) -> float:
        return sum(inputs)

    @tool("For each input the mean of the last ones")
    def running_mean(self, window: int, inputs: Inputs) -> Iterator[dict[str, float]]:
        last: deque[float] = deque(maxlen=window)
        for x in inputs:
            last.append(x)
            yield {"mean": sum(last) / len(last)}

    @tool("The first input that is larger; reads no further")
    def first_above(self, limit: float, inputs: Inputs) -> dict[str, float]:
        for n, x in enumerate(inputs, 1):
            if x > limit:
                return {"value": x, "read": n}
        raise ValueError(f"no input is above {limit}")
