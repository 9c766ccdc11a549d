"""An adapter that is imported when there is a file $WAIT_PATH.go."""

from __future__ import annotations

import os
import time
from pathlib import Path

from snakepit_bridge import BaseAdapter, tool

_PATH = os.environ["WAIT_PATH"]

Path(f"{_PATH}.started").touch()
while not Path(f"{_PATH}.go").exists():
    time.sleep(0.002)


class Waits(BaseAdapter):
    @tool
    def pid(self) -> int:
        return os.getpid()
