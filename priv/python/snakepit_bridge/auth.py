"""The token that the BEAM's gRPC server asks for.

Channels of this package show it by themselves. Others do so with ``metadata()``::

    stub.ExecuteTool(request, metadata=auth.metadata())

or for all their calls, with ``intercept``::

    channel = auth.intercept(grpc.insecure_channel(os.environ["SNAKEPIT_GRPC_ADDRESS"]))
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable
from typing import Any, Optional

TOKEN_VARIABLE = "SNAKEPIT_GRPC_TOKEN"
HEADER = "authorization"
_SCHEME = "Bearer "

__all__ = ["HEADER", "TOKEN_VARIABLE", "intercept", "metadata", "shown", "token"]


def token() -> Optional[str]:
    """What the BEAM put into this worker's environment."""
    return os.environ.get(TOKEN_VARIABLE) or None


def metadata() -> tuple[tuple[str, str], ...]:
    """The metadata of a call to the BEAM; empty where no token is known."""
    known = token()
    return () if known is None else ((HEADER, _SCHEME + known),)


def shown(headers: Optional[Iterable[tuple[str, Any]]], expected: str) -> bool:
    """Whether the metadata of a call show the token."""
    wanted = (_SCHEME + expected).encode()
    for name, value in headers or ():
        if name == HEADER:
            found = value if isinstance(value, bytes) else str(value).encode()
            return hmac.compare_digest(found, wanted)
    return False


def intercept(channel: Any) -> Any:
    """``channel``, a synchronous one, with the token shown in every call."""
    extra = metadata()
    if not extra:
        return channel
    import grpc

    class Details(grpc.ClientCallDetails):  # type: ignore[misc]
        def __init__(self, details: Any) -> None:
            self.method = details.method
            self.timeout = details.timeout
            self.metadata = (*(details.metadata or ()), *extra)
            self.credentials = details.credentials
            self.wait_for_ready = getattr(details, "wait_for_ready", None)
            self.compression = getattr(details, "compression", None)

    class Shows:
        def intercept_unary_unary(self, proceed: Any, details: Any, request: Any) -> Any:
            return proceed(Details(details), request)

        intercept_unary_stream = intercept_unary_unary
        intercept_stream_unary = intercept_unary_unary
        intercept_stream_stream = intercept_unary_unary

    kinds = (
        grpc.UnaryUnaryClientInterceptor,
        grpc.UnaryStreamClientInterceptor,
        grpc.StreamUnaryClientInterceptor,
        grpc.StreamStreamClientInterceptor,
    )
    return grpc.intercept_channel(channel, type("Shows", (Shows, *kinds), {})())
