"""Which file the C extension is, for the interpreter that runs this.

The build runs it as a script, by the interpreter that it builds for: it prints
the file's name and the folder of the headers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES

NAME = "_snakepit_native"


def file_name(
    flags: str = getattr(sys, "abiflags", ""), suffixes: Sequence[str] = EXTENSION_SUFFIXES
) -> str:
    """One build serves all interpreters that have a global lock, by the stable ABI.

    Free-threaded ones do not offer it: each version of them has a build of its own.
    """
    return f"{NAME}{suffixes[0]}" if "t" in flags else f"{NAME}.abi3.so"


if __name__ == "__main__":
    import sysconfig

    print(file_name(), sysconfig.get_paths()["include"])
