"""Finds the C extension that carries calls over shared memory."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from typing import Any, Optional

from ._proto import PATH_VARIABLE

_NAME = "_snakepit_native"
_FILE = f"{_NAME}.abi3.so"


def load() -> Optional[Any]:
    """The module, or None where there is none for this interpreter.

    That of the build that started the worker comes before an installed one.
    """
    if "t" in getattr(sys, "abiflags", ""):
        return None  # the stable ABI knows no interpreter without a global lock
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    path = os.path.join(os.environ.get(PATH_VARIABLE, ""), _FILE)
    try:
        return _load_file(path) if os.path.isfile(path) else import_module(_NAME)
    except ImportError:
        return None


def _load_file(path: str) -> Any:
    loader = ExtensionFileLoader(_NAME, path)
    spec = spec_from_loader(_NAME, loader, origin=path)
    if spec is None:
        raise ImportError(f"cannot load {path}")
    module = module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[_NAME] = module
    return module
