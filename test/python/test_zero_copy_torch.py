"""PyTorch's tensors as handles and handles as tensors, in a worker of the interpreter that
SNAKEPIT_TEST_TORCH_PYTHON names; where it names none, conftest.py says that these are left
out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
from local_peer import LocalWorker, build_extension
from segment_peer import Lender

from snakepit_bridge.zero_copy import ZERO_COPY_KEY

TYPES = [
    *("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32"),
    *("float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "uint16", "uint32"),
]
VIEWS = [
    *("transposed", "steps", "broadcast", "part", "gradient", "of a gradient", "parameter"),
    *("conjugate", "negative", "inference"),
]


@pytest.fixture(scope="module")
def lender(tmp_path_factory: pytest.TempPathFactory, proto_path: str) -> Iterator[Lender]:
    path = build_extension(tmp_path_factory.mktemp("extension"))
    env = {"SNAKEPIT_ZERO_COPY": "1", "SNAKEPIT_ZERO_COPY_THRESHOLD": "256"}
    worker = LocalWorker(
        "torch_tools:TorchTools",
        tmp_path_factory.mktemp("worker"),
        env=env,
        proto_path=path,
        python=os.environ["SNAKEPIT_TEST_TORCH_PYTHON"],
    )
    lender = Lender(worker)
    yield lender
    worker.kill()
    lender.close()


def run(lender: Lender, tool: str, **arguments: Any) -> Any:
    return lender.value(lender.worker.start(tool, arguments))


def lend(lender: Lender, array: Any, dtype: str = "", **fields: Any) -> tuple[Any, Any]:
    """A segment with the array, and the handle that says so."""
    data = numpy.ascontiguousarray(array).tobytes()
    segment, (tag,) = lender.lend([data])
    handle = {
        ZERO_COPY_KEY: True,
        "kind": "dlpack",
        "device": "cpu",
        "dtype": dtype or str(array.dtype),
        "shape": list(array.shape),
        "data": tag,
        **fields,
    }
    return segment, handle


def check_handle(result: Any, dtype: str, shape: list[int]) -> Any:
    handle = result["value"]
    assert handle[ZERO_COPY_KEY]
    assert (handle["kind"], handle["dtype"], handle["shape"]) == ("dlpack", dtype, shape)
    assert handle["data"] == result["bytes"]
    return handle


def test_the_worker_is_what_it_should_be(lender: Lender) -> None:
    about = run(lender, "about")
    assert about["native"] is True
    assert about["version"] >= [1, 13]


@pytest.mark.parametrize("shape", [[30, 70], [], [0, 3], [1]], ids=str)
@pytest.mark.parametrize("dtype", TYPES)
def test_types_and_shapes(lender: Lender, dtype: str, shape: list[int]) -> None:
    if run(lender, "types", names=[dtype]) == []:
        # Older versions lack some, and newer ones none.
        assert run(lender, "about")["version"] < [2, 3]
        return
    check_handle(run(lender, "typed", dtype=dtype, shape=shape, handle=True), dtype, shape)


@pytest.mark.parametrize("dtype", ["bool", "float32", "bfloat16", "complex64"])
def test_large_tensors_go_as_handles_by_themselves(lender: Lender, dtype: str) -> None:
    check_handle(run(lender, "typed", dtype=dtype, shape=[30, 70], handle=False), dtype, [30, 70])


def test_small_tensors_are_lists(lender: Lender) -> None:
    result = run(lender, "typed", dtype="float32", shape=[2, 3], handle=False)
    assert result["value"] == [[0.0, 1.0, 2.0], [3.0, 4.0, 0.0]]


@pytest.mark.parametrize("handle", [True, False])
@pytest.mark.parametrize("view", VIEWS)
def test_however_it_lies_the_numbers_are_right(lender: Lender, view: str, handle: bool) -> None:
    result = run(lender, "viewed", view=view, handle=handle)
    found = check_handle(result, result["value"]["dtype"], result["value"]["shape"])
    assert found["copy"] is (view in ("transposed", "steps", "broadcast"))


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_what_pytorch_does_not_hand_out(lender: Lender, kind: str) -> None:
    assert "its library does not hand out" in run(lender, "refused", kind=kind)


def test_a_tensor_in_memory_of_empty_is_given_as_it_lies(lender: Lender) -> None:
    result = run(lender, "own", size=100_000)
    assert check_handle(result, "float32", [100_000])["copy"] is False


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "float16", "complex64"])
def test_a_handle_is_a_tensor(lender: Lender, dtype: str) -> None:
    array = (numpy.arange(60_000) % 7).reshape(200, 300).astype(dtype)
    segment, handle = lend(lender, array)
    seen = lender.call("take", {"ref": handle}, [segment])
    assert (seen["dtype"], seen["shape"]) == (f"torch.{dtype}", [200, 300])
    assert seen["bytes"] == array.tobytes()
    # Older versions take no capsules that say that memory is read-only.
    assert seen["same"] is (run(lender, "about")["version"] >= [2, 9])
    assert seen["shared"] is True
    lender.wait_released(segment)


def test_types_that_numpy_has_not(lender: Lender) -> None:
    bits = (numpy.arange(60_000) % 7).astype("uint16")
    segment, handle = lend(lender, bits, "bfloat16")
    seen = lender.call("take", {"ref": handle}, [segment])
    assert (seen["dtype"], seen["bytes"]) == ("torch.bfloat16", bits.tobytes())
    lender.wait_released(segment)


def test_capsules_of_both_kinds(lender: Lender) -> None:
    array = numpy.arange(1000, dtype="float32").reshape(10, 100)
    segment, handle = lend(lender, array)
    seen = lender.call("capsules", {"ref": handle}, [segment])
    assert seen["names"] == ["dltensor", "dltensor_versioned", "used_dltensor"]
    assert seen["bytes"] == array.tobytes()
    assert seen["again"] == [[10, 100], array.tobytes()]
    assert "consumed before" in seen["twice"]
    lender.wait_released(segment)


@pytest.mark.parametrize("way", ["dlpack", "ref.numpy()", "array"])
def test_what_is_written_in_place_arrives(lender: Lender, way: str) -> None:
    """PyTorch has no tensors that cannot be written. What is returned is what is there, and
    what the BEAM puts into the memory next is seen."""
    array = numpy.arange(50_000, dtype="float32")
    segment, handle = lend(lender, array)
    if way == "array":
        handle["metadata"] = {"as": "numpy"}
    result = lender.call("double", {"ref": handle, "way": way}, [segment])
    assert result["bytes"] == (array * 2).tobytes()
    check_handle(result, "float32", [50_000])
    lender.wait_released(segment)
    other = (array + 1).tobytes()
    segment.fill([other])
    assert lender.call("read", {"ref": {**handle, "metadata": {}}}, [segment]) == other
    lender.wait_released(segment)
