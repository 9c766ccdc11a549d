"""The extension has what its types say, and they say what it has."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest
from local_peer import native_module

from snakepit_bridge import _native

STUB = Path(_native.__file__).with_name("_extension.pyi")
# What a type has anyway, or gets from its slots.
ASIDE = {"__new__", "__init__", "__len__", "__buffer__"}


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return native_module(tmp_path_factory.mktemp("extension"))


def said() -> dict[str, dict[str, ast.stmt]]:
    """Of each class: its members."""
    found: dict[str, dict[str, ast.stmt]] = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ClassDef):
            members = found[node.name] = {}
            for item in node.body:
                if isinstance(item, ast.FunctionDef):
                    members[item.name] = item
                elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    members[item.target.id] = item
    return found


def types_of(native: Any) -> dict[str, type]:
    made = {name: kind for name, kind in vars(native).items() if isinstance(kind, type)}
    capsule = native.dlpack_export(b"", 0, 8, 1, (0,), None, 0, True, True)
    made["Tensor"] = type(native.dlpack_import(capsule)[0])
    return made


def public(names: Any) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def test_the_module(native: Any) -> None:
    extension = set(said()["Extension"])
    # Bytes are shared where there is a lock; see ext_shared.c.
    assert extension - {"SharedBytes"} <= public(dir(native)) <= extension


def test_its_types(native: Any) -> None:
    stub, types = said(), types_of(native)
    assert set(types) | {"SharedBytes"} == set(stub) - {"Extension", "SegmentStats"}
    for name, kind in types.items():
        inherited = set(dir(kind.__base__))
        assert public(dir(kind)) - inherited == set(stub[name]) - ASIDE, name


def test_methods_and_properties_are_told_apart(native: Any) -> None:
    for name, kind in types_of(native).items():
        for member, node in said()[name].items():
            if member in ASIDE:
                continue
            is_method = isinstance(node, ast.FunctionDef) and not node.decorator_list
            assert inspect.ismethoddescriptor(getattr(kind, member)) == is_method, member


def test_positions_and_their_number(native: Any) -> None:
    """Each function takes as many arguments as it says, none by name."""
    for name, node in said()["Extension"].items():
        if not isinstance(node, ast.FunctionDef):
            continue
        function = getattr(native, name)
        names = [argument.arg for argument in node.args.posonlyargs + node.args.args]
        taken = len(names) - 1
        assert taken == 0 or node.args.args == [], name
        with pytest.raises(TypeError):
            function(*[None] * (taken + 1))
        if taken > 0:
            with pytest.raises(TypeError):
                function(**{names[-1]: None})


def test_the_figures_of_segments(native: Any) -> None:
    assert set(native.segment_stats()) == set(said()["SegmentStats"])


def test_types_that_nobody_makes(native: Any) -> None:
    types = types_of(native)
    for name in ("Buffer", "Call", "Request", "Tensor", "SharedBytes"):
        if name in types:
            with pytest.raises(TypeError):
                types[name]()
