"""The import paths and names that are documented."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from harness import environment

NAMES = {
    "snakepit_bridge": "SessionContext HeartbeatClient HeartbeatConfig configure_logging "
    "get_logger ZeroCopyRef __version__ BaseAdapter tool BaseCommandHandler ProtocolHandler "
    "VariableAwareMixin",
    "snakepit_bridge.base_adapter": "BaseAdapter tool ToolMetadata",
    "snakepit_bridge.base_adapter_threaded": "ThreadSafeAdapter ThreadLocalStorage "
    "RequestTracker thread_safe_method require_thread_safe validate_thread_safety "
    "ExampleThreadSafeAdapter tool",
    "snakepit_bridge.session_context": "SessionContext",
    "snakepit_bridge.serialization": "TypeSerializer GracefulJSONEncoder BINARY_THRESHOLD "
    "UNSERIALIZABLE_KEY TYPE_KEY REPR_KEY",
    "snakepit_bridge.heartbeat": "HeartbeatConfig HeartbeatClient",
    "snakepit_bridge.logging_config": "configure_logging get_logger",
    "snakepit_bridge.zero_copy": "ZeroCopyRef",
    "snakepit_bridge.adapters.base": "BaseAdapter",
    "snakepit_bridge.adapters.template": "TemplateAdapter",
    "snakepit_bridge.adapters.showcase": "ShowcaseAdapter",
    "snakepit_bridge.adapters.showcase.adapter": "ShowcaseAdapter",
    "snakepit_bridge.adapters.showcase.tool": "Tool StreamChunk",
    "snakepit_bridge.adapters.threaded_showcase": "ThreadedShowcaseAdapter",
    "snakepit_bridge.core": "BaseCommandHandler ProtocolHandler setup_graceful_shutdown "
    "setup_broken_pipe_suppression",
    "snakepit_bridge_pb2": "ExecuteToolRequest ExecuteElixirToolRequest TelemetryEvent",
    "snakepit_bridge_pb2_grpc": "BridgeServiceStub BridgeServiceServicer "
    "add_BridgeServiceServicer_to_server",
}


@pytest.mark.parametrize("module", sorted(NAMES))
def test_names(module: str) -> None:
    found = importlib.import_module(module)
    for name in NAMES[module].split():
        assert getattr(found, name, None) is not None, f"{module}.{name}"


def test_what_the_package_offers_is_there() -> None:
    package = importlib.import_module("snakepit_bridge")
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert package.__version__ == "2.0.0"
    with pytest.raises(AttributeError, match="no attribute 'none'"):
        package.none  # noqa: B018


def test_importing_it_loads_nothing_large() -> None:
    code = (
        "import sys, snakepit_bridge, snakepit_bridge.base_adapter, snakepit_bridge.core;"
        "large = {'grpc', 'google', 'numpy', 'asyncio', 'orjson', 'dspy'} & set(sys.modules);"
        "sys.exit(' '.join(large) or 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=environment(),
        cwd=Path(sys.executable).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
