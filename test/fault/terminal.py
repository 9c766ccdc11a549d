"""A terminal for one program: `terminal.py PROGRAM ARG...`

What the program writes comes out on stdout; what comes in on stdin are keys.
With the end of stdin the terminal is closed, as by closing its window.
"""

from __future__ import annotations

import os
import pty
import select
import sys


def main() -> int:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.argv[1], sys.argv[1:])
    while True:
        ready, _, _ = select.select([0, terminal], [], [])
        if terminal in ready:
            try:
                text = os.read(terminal, 65536)
            except OSError:  # the program has closed it
                text = b""
            if not text:
                break
            os.write(1, text)
        if 0 in ready:
            keys = os.read(0, 65536)
            if not keys:
                break
            os.write(terminal, keys)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) & 255


if __name__ == "__main__":
    sys.exit(main())
