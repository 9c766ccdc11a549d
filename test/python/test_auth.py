"""The token that is shown to the BEAM, and wanted by a worker that has one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Callable

import beam as beams
import grpc
import pytest
from harness import PATIENCE

from snakepit_bridge import auth

TOKEN = "a-token-of-these-tests"
SHOWN = (("authorization", "Bearer " + TOKEN),)


@pytest.fixture
def beam(proto_path: str) -> Iterator[beams.Beam]:
    with beams.serving() as served:
        yield served


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(auth.TOKEN_VARIABLE, TOKEN)


def test_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(auth.TOKEN_VARIABLE, raising=False)
    assert auth.token() is None
    assert auth.metadata() == ()
    channel = object()
    assert auth.intercept(channel) is channel
    monkeypatch.setenv(auth.TOKEN_VARIABLE, "")
    assert auth.metadata() == ()
    monkeypatch.setenv(auth.TOKEN_VARIABLE, TOKEN)
    assert auth.token() == TOKEN
    assert auth.metadata() == SHOWN


def test_shown() -> None:
    assert auth.shown(SHOWN, TOKEN)
    assert auth.shown([("x", "y"), ("authorization", b"Bearer " + TOKEN.encode())], TOKEN)
    for wrong in ["", TOKEN, "Bearer ", "bearer " + TOKEN, f"Bearer {TOKEN}x", "Bearer é"]:
        assert not auth.shown([("authorization", wrong)], TOKEN)
    assert not auth.shown((), TOKEN)
    assert not auth.shown(None, TOKEN)


def test_every_call_of_a_channel_shows_it(known: None, beam: beams.Beam) -> None:
    import snakepit_bridge_pb2_grpc

    with grpc.insecure_channel(beam.address) as plain:
        stub = snakepit_bridge_pb2_grpc.BridgeServiceStub(auth.intercept(plain))
        request = beam.pb2.GetExposedElixirToolsRequest(session_id="s")
        assert stub.GetExposedElixirTools(request, timeout=PATIENCE, metadata=(("x-a", "b"),))
        assert beam.headers[-1]["authorization"] == "Bearer " + TOKEN
        assert beam.headers[-1]["x-a"] == "b"
        assert stub.GetExposedElixirTools.future(request, timeout=PATIENCE).result()
        assert beam.headers[-1]["authorization"] == "Bearer " + TOKEN
        # Streams are shown it too, whatever becomes of them.
        with pytest.raises(grpc.RpcError) as error:
            list(stub.StreamTelemetry(iter(()), timeout=PATIENCE))
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_worker_shows_it_to_the_beam(
    start_worker: Callable[..., Any], beam: beams.Beam
) -> None:
    worker = start_worker(
        "snakepit_bridge.adapters.showcase",
        "--elixir-address",
        beam.address,
        env={auth.TOKEN_VARIABLE: TOKEN},
    )
    request = worker.request("call_elixir_demo", {"tool_name": "add", "a": 1, "b": 2})
    assert worker.stub.ExecuteTool(request, timeout=PATIENCE, metadata=SHOWN).success
    assert beam.headers[-1]["authorization"] == "Bearer " + TOKEN


def test_a_worker_wants_it(start_worker: Callable[..., Any]) -> None:
    worker = start_worker("tools", env={auth.TOKEN_VARIABLE: TOKEN})
    assert worker.stub.Ping(worker.pb2.PingRequest(message="hi"), timeout=PATIENCE).message
    request = worker.request("value", {"value": 1})
    for metadata in [(), (("authorization", "Bearer " + TOKEN + "x"),)]:
        calls: list[Callable[[], Any]] = [
            lambda m=metadata: worker.stub.ExecuteTool(request, timeout=PATIENCE, metadata=m),
            lambda m=metadata: list(
                worker.stub.ExecuteStreamingTool(request, timeout=PATIENCE, metadata=m)
            ),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as error:
                call()
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert auth.TOKEN_VARIABLE in (error.value.details() or "")
            assert TOKEN not in (error.value.details() or "")
    assert worker.stub.ExecuteTool(request, timeout=PATIENCE, metadata=SHOWN).success
    assert auth.TOKEN_VARIABLE not in os.environ
