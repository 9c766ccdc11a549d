"""Entry script of a worker in threaded mode; the same as ``python -m snakepit_bridge``."""

# Any Python can read this, so that one that is too old can say so.
import os
import sys

if __name__ == "__main__":
    if sys.version_info < (3, 9):  # noqa: UP036
        sys.exit(
            "snakepit: workers need Python 3.9 or newer, and "
            + sys.executable
            + " is "
            + sys.version.split()[0]
            + ": run mix snakepit.setup, or set SNAKEPIT_PYTHON"
        )

    here = os.path.dirname(os.path.abspath(__file__))
    if here not in sys.path:
        sys.path.insert(0, here)
    from snakepit_bridge.worker.cli import main

    sys.exit(main(mode="threaded"))
