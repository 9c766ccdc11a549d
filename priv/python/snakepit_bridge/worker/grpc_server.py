"""The gRPC server: serves in threads of its own.

It answers pings and takes cancellations while tools keep the lanes busy.
"""

from __future__ import annotations

from concurrent import futures
from typing import Any, Callable

import grpc

from .. import auth
from ..errors import BridgeError
from .runner import Runner

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.so_reuseport", 0),
)

# Open streams, probes and calls of coroutines hold a thread each; idle ones are
# used again.
_MAX_THREADS = 512


class WantsToken(grpc.ServerInterceptor):  # type: ignore[misc]
    """Lets in who shows the token of this run, as the BEAM does; anyone may ping."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._refusal = grpc.unary_unary_rpc_method_handler(self._refuse)

    def intercept_service(self, proceed: Any, call: Any) -> Any:
        if call.method.endswith("/Ping") or auth.shown(call.invocation_metadata, self._token):
            return proceed(call)
        return self._refusal

    @staticmethod
    def _refuse(request: Any, context: Any) -> Any:
        context.abort(
            grpc.StatusCode.UNAUTHENTICATED,
            f"this worker wants the token of its BEAM, which {auth.TOKEN_VARIABLE} holds, "
            "as the metadata `authorization: Bearer <token>`",
        )


class LanePool(futures.ThreadPoolExecutor):
    """Has gRPC run a handler directly on a lane: no other thread, no hand-over.

    Where gRPC does not ask for it (see ``BridgeService.handler``), handlers run
    in ordinary threads and pass calls to a lane: slower, else the same.
    """

    def __init__(self, runner: Runner) -> None:
        super().__init__(max_workers=1)  # starts no thread before a submit of its own
        self._runner = runner

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        future: futures.Future[Any] = futures.Future()

        def job() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        self._runner.post(job)
        return future


class GrpcServer:
    """Started by the main thread; ``stop`` may be called from any other."""

    def __init__(self, handler: Any, host: str, port: int, capacity: int = 1) -> None:
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        threads = futures.ThreadPoolExecutor(_MAX_THREADS + capacity, thread_name_prefix="grpc")
        token = auth.token()
        self._server = grpc.server(
            threads,
            handlers=(handler,),
            interceptors=() if token is None else (WantsToken(token),),
            options=_OPTIONS,
        )

    def start(self) -> int:
        """The port it listens on. Raises BridgeError."""
        try:
            port: int = self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise BridgeError(f"cannot listen on {self._address}: {error}") from error
        if port == 0:
            raise BridgeError(
                f"cannot listen on {self._address} - choose a free port with --port, or 0 for any"
            )
        self._server.start()
        return port

    def stop(self, timeout: float) -> None:
        self._server.stop(timeout / 2).wait(timeout)
