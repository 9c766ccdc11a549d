"""The Python of guides/zero_copy.md, as it stands."""

from __future__ import annotations

import re
from typing import Any

import numpy
from local_peer import ROOT

from snakepit_bridge import zero_copy


def test_the_guide() -> None:
    text = (ROOT / "guides" / "zero_copy.md").read_text()
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(block, names)
    image = zero_copy.to_dlpack(numpy.array([[1, 200]], dtype="uint8"))
    assert names["brighten"](image).tolist() == [[2, 255]]
    assert names["table"].to_pydict() == {"n": [1, 2, 3]}
