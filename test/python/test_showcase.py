"""Every tool of the showcase adapters, through a real worker."""

from __future__ import annotations

import hashlib
import signal
import statistics
from pathlib import Path
from typing import Any, Callable

import pytest
from harness import PATIENCE, ToolFailed

UNARY = {
    "ping": {"test": True},
    "echo": {"x": 1},
    "add": {"a": 5, "b": 3},
    "compute": {"operation": "multiply", "a": 7, "b": 6},
    "info": {},
    "adapter_info": {},
    "get_stats": {},
    "telemetry_demo": {"operation": "x", "delay_ms": 1},
    "process_text": {"text": "hello", "operation": "upper"},
    "ml_analyze_text": {"text": "a good day. a bad night."},
    "process_binary": {"data": b"abc"},
    "create_tensor": {"name": "t", "shape": [2, 3]},
    "create_embedding": {"text": "x", "dimensions": 8},
    "generate_embeddings": {"texts": ["a", "b"], "dimensions": 4},
    "benchmark_encoding": {"start_kb": 1, "end_kb": 17, "step_kb": 16},
    "list_elixir_tools": {},
    "concurrent_demo": {"task_count": 3},
    "cpu_bound_task": {"task_id": 1, "duration_ms": 1},
    "sleep_task": {"duration_ms": 1, "task_number": 2},
    "lightweight_task": {"iteration": 1},
    "get_pool_stats": {},
    "describe": {"values": [1, 2, 3, 4]},
    "unserializable": {},
    "serialization_demo": {},
    "exact_values": {},
    "init_session": {},
    "set_counter": {"value": 3},
    "get_counter": {},
    "increment_counter": {},
    "set_variable": {"name": "v", "value": 1},
    "get_variable": {"name": "v"},
    "get_worker_info": {"call_number": 1},
    "cleanup": {},
    "load_sample_data": {"rows": 10},
    "preprocess_data": {},
    "generate_features": {},
    "select_features": {},
    "cross_validate": {"folds": 3},
    "predict_single": {},
    "predict_batch_with_embeddings": {"batch_size": 2},
    "process_images": {"images": [b"\x00\xff"], "return_tensors": True},
    "create_program": {"name": "p"},
}

STREAMS = {
    "stream_data": {"count": 3, "delay": 0.001},
    "ping_stream": {"count": 3},
    "stream_progress": {"steps": 3, "delay_ms": 1},
    "stream_fibonacci": {"count": 10},
    "generate_dataset": {"rows": 10, "chunk_size": 4},
    "process_large_dataset": {"total_rows": 10, "chunk_size": 4},
    "process_dataset": {"total_records": 10, "chunk_size": 4},
    "batch_process": {"items": [1, 2, 3]},
    "tail_and_analyze": {"lines": ["ERROR x", "warn y", "info z", "?"], "block": 2},
    "train_model": {"epochs": 2},
    "distributed_training": {"model_config": {"epochs": 2}, "dataset_path": "d"},
    "batch_inference": {"batch_items": ["a", "b"], "model_path": "m"},
}

# Tested by themselves below.
SPECIAL = {"error_demo", "crash", "call_elixir_demo", "execute_program", "infinite_stream"}


def test_every_tool_is_tested_here(showcase: Any) -> None:
    capabilities = showcase.call("adapter_info")["capabilities"]
    assert set(capabilities) == {*UNARY, *STREAMS, *SPECIAL}


@pytest.mark.parametrize("tool", sorted(UNARY))
def test_unary_tools_answer_and_can_be_streamed(showcase: Any, tool: str) -> None:
    arguments = UNARY[tool]
    if tool == "get_variable":
        showcase.call("set_variable", {"name": "v", "value": 1})
    assert showcase.call(tool, arguments) is not None
    if tool == "get_variable":
        showcase.call("set_variable", {"name": "v", "value": 1})
    assert len(showcase.items(tool, arguments)) == 1


@pytest.mark.parametrize("tool", sorted(STREAMS))
def test_streaming_tools_stream(showcase: Any, tool: str) -> None:
    assert len(showcase.items(tool, STREAMS[tool])) > 1
    with pytest.raises(ToolFailed, match="call it with execute_stream"):
        showcase.call(tool, STREAMS[tool])


def test_documented_results(showcase: Any) -> None:
    pong = showcase.call("ping", {"message": "hi"})
    assert pong["status"] == "pong"
    assert pong["message"] == "hi"
    assert isinstance(pong["timestamp"], int)
    assert showcase.call("echo", {"a": [1]}) == {"echoed": {"a": [1]}}
    assert showcase.call("add", {"a": 5, "b": 3}) == {"result": 8}
    assert showcase.call("add", {"a": 2**70, "b": 1}) == {"result": 2**70 + 1}
    assert showcase.call("compute", {"operation": "sqrt", "a": 16}) == {"result": 4.0}
    info = showcase.call("adapter_info")
    assert info["adapter_name"] == "ShowcaseAdapter"
    assert info["version"] == "2.0.0"
    stats = showcase.call("get_stats")
    assert stats["adapter"]["name"] == "ShowcaseAdapter"
    assert stats["system"]["memory_mb"] > 1
    assert showcase.call("get_pool_stats")["worker_pid"] == str(showcase.process.pid)


@pytest.mark.parametrize(
    ("operation", "result"),
    [("upper", "HELLO"), ("lower", "hello"), ("reverse", "olleH"), ("length", 5)],
)
def test_process_text(showcase: Any, operation: str, result: Any) -> None:
    answer = showcase.call("process_text", {"text": "Hello", "operation": operation})
    assert answer == {"result": result, "success": True}


def test_unknown_operations_name_the_known_ones(showcase: Any) -> None:
    for tool, arguments in {
        "process_text": {"text": "x"},
        "compute": {"a": 1},
        "process_binary": {"data": b""},
    }.items():
        with pytest.raises(ToolFailed, match="unknown operation 'no'; known: "):
            showcase.call(tool, {**arguments, "operation": "no"})


def test_process_binary(showcase: Any) -> None:
    data = bytes(range(256))
    answer = showcase.call("process_binary", {"operation": "checksum"}, binaries={"data": data})
    assert answer["checksum"] == hashlib.sha256(data).hexdigest()
    answer = showcase.call("process_binary", {"data": data, "operation": "reverse"})
    assert answer["data"] == data[::-1]


def test_session_state_is_per_session(showcase: Any) -> None:
    showcase.call("set_counter", {"value": 10}, session="a")
    showcase.call("init_session", session="b")
    assert showcase.call("increment_counter", session="a")["value"] == 11
    assert showcase.call("increment_counter", session="b")["value"] == 1
    assert showcase.call("get_counter", session="a") == {"value": 11, "session_id": "a"}
    assert showcase.call("cleanup", session="a")["existed"] is True
    assert showcase.call("get_counter", session="a")["value"] == 0
    with pytest.raises(ToolFailed, match="no variable 'nope'"):
        showcase.call("get_variable", {"name": "nope"})


def test_describe_a_column_of_a_file(showcase: Any, tmp_path: Path) -> None:
    numbers = [1.5, 2.5, 10.0, -3.0]
    path = tmp_path / "data.csv"
    path.write_text("name,x\n" + "".join(f"n,{x}\n" for x in numbers) + "empty,\n")
    answer = showcase.call("describe", {"path": str(path), "column": "x"})
    assert answer["rows"] == 4
    assert answer["mean"] == pytest.approx(statistics.fmean(numbers))
    assert answer["std"] == pytest.approx(statistics.pstdev(numbers))
    assert (answer["min"], answer["max"]) == (-3.0, 10.0)
    assert answer["median"] == 2.0
    with pytest.raises(ToolFailed, match="no column 'y'; it has: name, x"):
        showcase.call("describe", {"path": str(path), "column": "y"})
    with pytest.raises(ToolFailed, match="line 2: 'n' in column 'name' is not a number"):
        showcase.call("describe", {"path": str(path), "column": "name"})
    with pytest.raises(ToolFailed, match="FileNotFoundError"):
        showcase.call("describe", {"path": str(tmp_path / "none"), "column": "y"})


def test_chunk_keys_of_streams(showcase: Any) -> None:
    items = showcase.items("process_large_dataset", {"total_rows": 10, "chunk_size": 4})
    assert items[0] == {"processed_rows": 4, "total_rows": 10, "progress_percent": 40.0}
    assert items[-1]["final_stats"]["total_rows"] == 10
    items = showcase.items("batch_inference", {"images": ["i"], "model_path": "m"})
    assert set(items[0]) == {"image", "prediction", "confidence"}
    assert items[-1] == {"total_processed": 1}
    items = showcase.items("batch_process", {"items": ["a", "b"]})
    assert items == [
        {"progress": 50.0, "item": "a"},
        {"progress": 100.0, "item": "b"},
        {"total": 2},
    ]
    items = showcase.items("distributed_training", STREAMS["distributed_training"])
    assert set(items[0]) == {"epoch", "train_loss", "val_acc"}
    assert items[-1]["final_model_path"] == "d.final"
    items = showcase.items("process_dataset", {"total_records": 10, "chunk_size": 4})
    assert items[0] == {"progress": 40.0, "records_processed": 4, "total_records": 10}
    assert items[-1] == {"total_processed": 10}
    items = showcase.items("stream_fibonacci", {"count": 300})
    assert items[299]["value"] > 2**200


def test_serialization_demo(showcase: Any) -> None:
    answer = showcase.call("serialization_demo", {"demo_type": "mixed_list"})["data"]
    assert answer[5:7] == [(1, 2), b"\x00\xff"]
    assert answer[8]["__ffi_unserializable__"] is True
    answer = showcase.call("serialization_demo", {"demo_type": "complex"})["data"]
    assert answer["point"] == {"x": 1, "y": 2}
    assert answer["nested"]["when"] == "2026-01-02"
    answer = showcase.call("exact_values")
    assert answer["map"] == {1: "one", None: "none"}
    assert answer["set"] == {1, 2, 3}


def test_programs(showcase: Any) -> None:
    made = showcase.call("create_program", {"name": "p", "steps": 2})
    answer = showcase.call("execute_program", {"program_id": made["program_id"], "input": 5})
    assert answer["program"] == {"name": "p", "steps": 2}


@pytest.mark.parametrize(
    ("error_type", "name"),
    [
        ("value", "ValueError"),
        ("runtime", "RuntimeError"),
        ("other", "OtherDemoError"),
        ("key", "KeyError"),
        ("module_not_found", "ModuleNotFoundError"),
        ("stop_iteration", "StopIteration"),
        ("system_exit", "SystemExit"),
        ("memory", "MemoryError"),
    ],
)
def test_error_demo(showcase: Any, error_type: str, name: str) -> None:
    with pytest.raises(ToolFailed) as error:
        showcase.call("error_demo", {"error_type": error_type})
    assert error.value.report["type"] == name


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("exit", 3),
        ("kill", -signal.SIGKILL),
        ("segv", -signal.SIGSEGV),
        ("abort", -signal.SIGABRT),
    ],
)
def test_crash(start_worker: Callable[..., Any], how: str, status: int) -> None:
    worker = start_worker("snakepit_bridge.adapters.showcase")
    worker.start("crash", {"how": how, "code": 3}).exception()
    assert worker.process.wait(PATIENCE) == status


def test_template(start_worker: Callable[..., Any]) -> None:
    worker = start_worker("snakepit_bridge.adapters.template.TemplateAdapter")
    assert worker.call("ping")["status"] == "pong"
    assert worker.call("echo", {"a": 1}) == {"echoed": {"a": 1}}
    assert worker.call("whoami", session="me") == {"session_id": "me"}
    assert worker.items("count", {"to": 2}) == [{"number": 1}, {"number": 2}]


def test_threaded_showcase(start_worker: Callable[..., Any]) -> None:
    worker = start_worker(
        "snakepit_bridge.adapters.threaded_showcase.ThreadedShowcaseAdapter",
        "--max-workers",
        "4",
        script="grpc_server_threaded.py",
    )
    assert worker.call("ping")["pid"] == worker.process.pid
    for cached in (False, True):
        answer = worker.call("compute_intensive", {"data": [1.0, 2.0], "iterations": 10})
        assert answer["cached"] is cached
    assert len(worker.call("matrix_multiply", {"input_vector": [1.0, 2.0]})["result"]) == 16
    assert len(worker.items("batch_process", {"items": [1, 2], "delay_ms": 1})) == 2
    calls = [worker.start("stress_test", {"duration_ms": 1}) for _ in range(16)]
    assert all(call.result().success for call in calls)
    stats = worker.call("get_adapter_stats")
    assert stats["tracker"]["total_requests"] == 1 + 2 + 1 + 16
    assert stats["tracker"]["total_active_requests"] == 0
    history = worker.call("get_history", {"limit": 5})
    assert len(history["history"]) == 5
    assert history["total"] == 2 + 1 + 1 + 16
    assert worker.call("clear_caches")["cleared"] == {"cache": 1, "history": 20}
