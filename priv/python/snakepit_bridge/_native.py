"""Finds the C extension that carries calls over shared memory."""

from __future__ import annotations

import os
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING, Any, Optional, cast

from ._native_file import NAME, file_name
from ._proto import PATH_VARIABLE

if TYPE_CHECKING:
    from ._extension import Extension


def load() -> Optional[Extension]:
    """The module, or None where there is none for this interpreter.

    That of the build that started the worker comes before an installed one.
    """
    if NAME in sys.modules:
        return cast("Extension", sys.modules[NAME])
    path = os.path.join(os.environ.get(PATH_VARIABLE, ""), file_name())
    try:
        return cast("Extension", _load_file(path if os.path.isfile(path) else _installed()))
    except ImportError:
        return None


def _installed() -> str:
    spec = find_spec(NAME)
    origin = None if spec is None else spec.origin
    # A free-threaded interpreter would take one of the stable ABI, and crash.
    if origin is None or os.path.basename(origin) != file_name():
        raise ImportError(f"no {file_name()}")
    return origin


def _load_file(path: str) -> Any:
    loader = ExtensionFileLoader(NAME, path)
    spec = spec_from_file_location(NAME, path, loader=loader)
    if spec is None:
        raise ImportError(f"cannot load {path}")
    module = module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[NAME] = module
    return module
