"""The connection to the BEAM, made when a tool first needs it."""

from __future__ import annotations

import threading
from typing import Any

from .. import auth
from .._proto import services
from ..errors import BridgeError


class BeamLink:
    """One synchronous channel per worker."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._channel: Any = None
        self._stub: Any = None

    def stub(self) -> Any:
        with self._lock:
            if self._stub is None:
                self._stub = services().BridgeServiceStub(auth.intercept(self._dial()))
            return self._stub

    def close(self) -> None:
        with self._lock:
            if self._channel is not None:
                self._channel.close()
            self._channel = self._stub = None

    def _dial(self) -> Any:
        if not self._address:
            raise BridgeError(
                "the address of the BEAM is not known: start the worker with "
                "--elixir-address HOST:PORT or set SNAKEPIT_GRPC_ADDRESS"
            )
        import grpc

        options = (
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.enable_http_proxy", 0),
        )
        self._channel = grpc.insecure_channel(self._address, options)
        return self._channel
