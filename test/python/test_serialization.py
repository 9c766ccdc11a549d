"""TypeSerializer, the JSON encoder, ZeroCopyRef."""

from __future__ import annotations

import datetime
import json
import math
import pickle
import threading
from typing import Any

import pytest
from samples import EDGE_CASES, EDGE_IDS, exactly_equal

from snakepit_bridge import ZeroCopyRef
from snakepit_bridge.errors import DecodeError
from snakepit_bridge.serialization import (
    BINARY_THRESHOLD,
    REPR_KEY,
    TYPE_KEY,
    UNSERIALIZABLE_KEY,
    GracefulJSONEncoder,
    TypeSerializer,
    wire_type,
)

encode, decode = TypeSerializer.encode_any, TypeSerializer.decode_any


def any_of(url: str, value: bytes) -> Any:
    from google.protobuf.any_pb2 import Any as AnyMessage

    return AnyMessage(type_url=f"type.googleapis.com/{url}", value=value)


def test_constants() -> None:
    assert BINARY_THRESHOLD == 10240
    assert (UNSERIALIZABLE_KEY, TYPE_KEY, REPR_KEY) == (
        "__ffi_unserializable__",
        "__type__",
        "__repr__",
    )


@pytest.mark.parametrize("value", EDGE_CASES, ids=EDGE_IDS)
def test_round_trip(value: Any) -> None:
    message, binary = encode(value, "map")
    assert binary is None
    assert exactly_equal(decode(message), value)


def test_typed_values() -> None:
    assert decode(any_of("snakepit.float", b"1")) == 1.0
    assert math.isnan(decode(any_of("snakepit.float", b'"NaN"')))
    assert decode(any_of("snakepit.float", b'"-Infinity"')) == -math.inf
    assert exactly_equal(decode(any_of("snakepit.integer", b"3.0")), 3)
    assert decode(any_of("google.protobuf.StringValue", b'"text"')) == "text"
    assert decode(any_of("google.protobuf.StringValue", b"")) is None
    assert encode(3, "float")[0].value == b"3.0"
    assert encode(3.0, "integer")[0].value == b"3"
    assert encode(math.nan, "float")[0].value == b'"NaN"'


@pytest.mark.parametrize(
    ("value", "kind"),
    [("x", "float"), (1.5, "integer"), (True, "integer"), (1, "boolean"), (5, "tensor")],
)
def test_values_of_another_type(value: Any, kind: str) -> None:
    with pytest.raises(ValueError, match=f"is not of type {kind}"):
        encode(value, kind)


def test_small_tensors_are_json_and_large_ones_binary() -> None:
    small = [[float(10 * i + j) for j in range(10)] for i in range(10)]
    message, binary = encode(small, "tensor")
    assert binary is None
    assert message.type_url.endswith("snakepit.tensor")
    assert json.loads(message.value)["shape"] == [10, 10]
    assert decode(message).tolist() == small
    large = [[float(100 * i + j) / 3 for j in range(100)] for i in range(100)]
    message, binary = encode(large, "tensor")
    assert message.type_url.endswith("snakepit.tensor.binary")
    header = json.loads(message.value)
    assert (header["shape"], header["dtype"]) == ([100, 100], "float64")
    assert binary is not None
    assert len(binary) == 80_000
    assert decode(message, binary) == large


def test_embeddings() -> None:
    assert decode(encode([1.5, 2.5], "embedding")[0]) == [1.5, 2.5]
    vector = [n / 7 for n in range(5000)]
    message, binary = encode(vector, "embedding")
    assert message.type_url.endswith("embedding.binary")
    assert decode(message, binary) == vector


def test_uneven_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        encode([[1, 2], [3]], "tensor")
    with pytest.raises(ValueError, match="numbers only"):
        encode(["a"], "embedding")


def test_binary_values_are_checked() -> None:
    header = b'{"binary_format":"raw","dtype":"float64","shape":[2,3]}'
    with pytest.raises(DecodeError, match="do not fill the shape"):
        decode(any_of("snakepit.tensor.binary", header), b"\0" * 32)
    with pytest.raises(DecodeError, match="float64"):
        decode(any_of("snakepit.tensor.binary", header), b"\0" * 7)
    with pytest.raises(DecodeError, match="not a map"):
        decode(any_of("snakepit.tensor.binary", b"[]"), b"")


def test_pickle_wants_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    message = any_of("snakepit.tensor.binary", b'{"binary_format":"pickle"}')
    data = pickle.dumps([1, 2])
    with pytest.raises(DecodeError, match="SNAKEPIT_ALLOW_PICKLE=1"):
        decode(message, data)
    monkeypatch.setenv("SNAKEPIT_ALLOW_PICKLE", "1")
    assert decode(message, data) == [1, 2]


def test_struct() -> None:
    from google.protobuf.any_pb2 import Any as AnyMessage
    from google.protobuf.struct_pb2 import Struct

    struct = Struct()
    struct.update({"a": "b"})
    message = AnyMessage()
    message.Pack(struct)
    assert decode(message) == {"a": "b"}
    assert decode(any_of("google.protobuf.Struct", b'{"a":1}')) == {"a": 1}


@pytest.mark.parametrize(
    ("value", "constraints"),
    [
        (5, {"min": 1, "max": 5}),
        ("abc", {"min_length": 3, "max_length": 3}),
        ("a", {"choices": ["a", "b"]}),
        ([1.0, 2.0], {"dimensions": 2}),
        ([[1], [2]], {"shape": [2, 1]}),
        (1, {}),
        (1, {"min": None}),
    ],
)
def test_constraints_kept(value: Any, constraints: Any) -> None:
    TypeSerializer.validate_constraints(value, "float", constraints)


@pytest.mark.parametrize(
    ("value", "constraints"),
    [
        (0, {"min": 1}),
        (6, {"max": 5}),
        ("ab", {"min_length": 3}),
        ("abcd", {"max_length": 3}),
        ("c", {"choices": ["a", "b"]}),
        ("os", {"allowed_modules": ["math"]}),
        ([1.0], {"dimensions": 2}),
        ([[1], [2]], {"shape": [1, 2]}),
    ],
)
def test_constraints_broken(value: Any, constraints: Any) -> None:
    with pytest.raises(ValueError, match=r"minimum|maximum|not one of|dimensions|shape"):
        TypeSerializer.validate_constraints(value, "float", constraints)


def test_json_encoder() -> None:
    value = {"when": datetime.date(2026, 1, 2), "lock": threading.Lock(), "b": b"\0", "s": {1}}
    back = json.loads(json.dumps(value, cls=GracefulJSONEncoder))
    assert back["when"] == "2026-01-02"
    assert back["lock"] == {UNSERIALIZABLE_KEY: True, TYPE_KEY: "_thread.lock"}
    assert back["b"] == {"__snakepit_type__": "bytes", "d": "AA=="}
    assert back["s"] == [1]


def test_wire_types() -> None:
    assert wire_type(math.nan, b'"NaN"') == "float"
    assert wire_type(object(), b"1.5") == "float"
    assert wire_type(object(), b"15") == "integer"
    assert wire_type(object(), b"true") == "boolean"


def test_zero_copy_ref() -> None:
    payload = {"__snakepit_zero_copy__": True, "kind": "arrow", "bytes": 8, "copy": True}
    ref = ZeroCopyRef.from_payload(payload)
    assert (ref.kind, ref.bytes, ref.copy, ref.device, ref.dtype) == (
        "arrow",
        8,
        True,
        None,
        None,
    )
    assert (ref.shape, ref.owner, ref.ref, ref.metadata) == (None, None, None, {})
    assert ref.to_payload() == payload
    assert ZeroCopyRef({"metadata": {"a": 1}, "device": None}).to_payload() == {
        "metadata": {"a": 1},
        "__snakepit_zero_copy__": True,
    }
    decoded = decode(any_of("x.StringValue", json.dumps(payload).encode()))
    assert isinstance(decoded, ZeroCopyRef)
