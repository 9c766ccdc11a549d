"""How a program that used grpcio ends."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Callable, NoReturn


def leave(main: Callable[[], None]) -> NoReturn:
    """Without the interpreter's own end.

    There a finalizer of grpcio may wait for ever for a lock that one of its
    threads had when it was stopped (grpc/grpc issue 40620).
    """
    status = 0
    try:
        main()
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
