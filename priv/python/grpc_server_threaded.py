"""Entry script of a worker in threaded mode; the same as ``python -m snakepit_bridge``."""

from __future__ import annotations

import os
import sys


def _main() -> int:
    here = os.path.dirname(os.path.abspath(__file__))
    if here not in sys.path:
        sys.path.insert(0, here)
    from snakepit_bridge.worker.cli import main

    return main(mode="threaded")


if __name__ == "__main__":
    sys.exit(_main())
