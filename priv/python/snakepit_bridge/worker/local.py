"""Whether this worker is to be reached over shared memory."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any, Optional

from .. import _native

if TYPE_CHECKING:
    from .._extension import Extension

SOCKET_VARIABLE = "SNAKEPIT_LOCAL_SOCKET"
TOKEN_VARIABLE = "SNAKEPIT_LOCAL_TOKEN"


class Offer:
    """What the BEAM says in the environment, once."""

    def __init__(self, native: Extension, path: str, token: str) -> None:
        self._native = native
        self._path = path
        self._token = token

    def serve(self, options: argparse.Namespace, adapter: Any) -> int:
        """Connects, which tells the BEAM that the worker is ready; the exit status."""
        from .local_worker import LocalWorker

        return LocalWorker(self._native, self._path, self._token, options, adapter).run()


def take_offer() -> Optional[Offer]:
    """None means gRPC. Children of the worker must not see the token."""
    path = os.environ.pop(SOCKET_VARIABLE, "")
    token = os.environ.pop(TOKEN_VARIABLE, "")
    native = _native.load() if path and token else None
    return None if native is None else Offer(native, path, token)
