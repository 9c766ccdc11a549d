"""HeartbeatConfig and HeartbeatClient."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import beam as beams
import grpc
import pytest

from snakepit_bridge import HeartbeatClient, HeartbeatConfig


def test_defaults() -> None:
    assert asdict(HeartbeatConfig()) == {
        "enabled": True,
        "interval_ms": 2000,
        "timeout_ms": 10000,
        "max_missed_heartbeats": 3,
        "initial_delay_ms": 0,
        "jitter_ms": 0,
        "dependent": True,
    }


def test_from_mapping() -> None:
    config = HeartbeatConfig.from_mapping(
        {"intervalMs": "50", "enabled": "off", "maxMissedHeartbeats": 7, "other": 1}
    )
    assert config == HeartbeatConfig(enabled=False, interval_ms=50, max_missed_heartbeats=7)
    base = HeartbeatConfig(timeout_ms=1)
    assert HeartbeatConfig.from_mapping({"dependent": 0}, base) == HeartbeatConfig(
        timeout_ms=1, dependent=False
    )
    assert HeartbeatConfig.from_mapping({"ping_interval_ms": 9}).interval_ms == 9
    assert HeartbeatConfig.from_mapping(None) == HeartbeatConfig()


@pytest.mark.parametrize("options", [{"interval_ms": "x"}, {"timeout_ms": -1}, {"enabled": "?"}])
def test_senseless_values_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match=f"heartbeat {next(iter(options))}: "):
        HeartbeatConfig.from_mapping(options)


def stub_for(address: str, asynchronous: bool) -> Any:
    import snakepit_bridge_pb2_grpc

    make = grpc.aio.insecure_channel if asynchronous else grpc.insecure_channel
    channel = make(address)
    return snakepit_bridge_pb2_grpc.BridgeServiceStub(channel), channel


QUICK = HeartbeatConfig(interval_ms=1, timeout_ms=20_000, max_missed_heartbeats=2)


def test_one_ping(proto_path: str) -> None:
    with beams.serving() as beam:
        stub, channel = stub_for(beam.address, False)

        async def scenario() -> None:
            client = HeartbeatClient(stub, "s1", QUICK)
            assert client.status()["last_ping_monotonic"] is None
            assert await client.ping_once()
            assert client.status()["missed_heartbeats"] == 0
            assert client.status()["last_success_monotonic"] is not None
            for answer in (False, None):
                beam.valid = answer
                assert not await client.ping_once()
            assert client.status()["missed_heartbeats"] == 2
            beam.valid = True
            assert await client.ping_once()
            assert client.status()["missed_heartbeats"] == 0

        asyncio.run(scenario())
        channel.close()
        assert beam.requests[0].session_id == "s1"
        assert beam.requests[0].client_time.seconds > 0


def test_beats_until_the_beam_is_gone(proto_path: str) -> None:
    with beams.serving() as beam:
        stub, channel = stub_for(beam.address, False)

        async def scenario() -> None:
            lost = asyncio.Event()
            client = HeartbeatClient(stub, "s1", QUICK, on_threshold_exceeded=lost.set)
            assert client.start()
            assert not client.start()
            beam.valid = None
            await asyncio.wait_for(lost.wait(), 60)
            assert client.status()["missed_heartbeats"] >= 2
            await client.stop()
            assert not client.status()["running"]

        asyncio.run(scenario())
        channel.close()


def test_an_asynchronous_stub_works_too(proto_path: str) -> None:
    with beams.serving() as beam:

        async def scenario() -> None:
            stub, channel = stub_for(beam.address, True)
            assert await HeartbeatClient(stub, "s1", QUICK).ping_once()
            await channel.close()

        asyncio.run(scenario())


def test_disabled_does_not_start() -> None:
    assert not HeartbeatClient(None, "s1", HeartbeatConfig(enabled=False)).start()
