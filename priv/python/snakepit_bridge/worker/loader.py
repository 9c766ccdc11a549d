"""Finds the adapter that ``--adapter`` names.

A bare module (its adapter class, or its functions), ``package.module.Class``,
or ``package.module:Class``.
"""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import Any

from ..base_adapter import BaseAdapter
from ..dispatch import tool_names
from ..errors import BridgeError
from .lifetimes import lifetime_of

_REMEDY = (
    'set adapter_args: ["--adapter", "package.module.Class"] and, where the module '
    "lies outside the worker's path, PYTHONPATH in adapter_env"
)


def load_adapter(path: str) -> Any:
    """A class or a module. Raises BridgeError, with the reason as its cause."""
    module_name, colon, attribute = path.partition(":")
    if not path.strip() or (colon and not attribute):
        raise BridgeError(f"cannot import adapter {path!r}: not a module or class - {_REMEDY}")
    if colon:
        return _attribute(path, _import(path, module_name), attribute)
    try:
        return _from_module(path, importlib.import_module(module_name))
    except BridgeError:
        raise
    except ModuleNotFoundError as error:
        parent, _, last = module_name.rpartition(".")
        if not parent or error.name != module_name:
            raise _import_failure(path, error) from error
    except Exception as error:
        raise _import_failure(path, error) from error
    return _attribute(path, _import(path, parent), last)


def _import(path: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        raise _import_failure(path, error) from error


def _attribute(path: str, module: ModuleType, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part, None)
    if value is None:
        have = ", ".join(candidate.__name__ for candidate in _classes(module)) or "none"
        raise BridgeError(
            f"cannot import adapter {path!r}: module {module.__name__} has no {name!r} "
            f"(adapter classes in it: {have}) - {_REMEDY}"
        )
    if inspect.isclass(value):
        return _checked_class(path, value)
    if isinstance(value, ModuleType):
        return _from_module(path, value)
    raise BridgeError(
        f"cannot import adapter {path!r}: {name!r} is neither a class nor a module "
        f"but a {type(value).__name__} - {_REMEDY}"
    )


def _from_module(path: str, module: ModuleType) -> Any:
    if callable(getattr(module, "execute_tool", None)):
        return module
    classes = _classes(module)
    if len(classes) == 1:
        return _checked_class(path, classes[0])
    if classes:
        names = ", ".join(candidate.__name__ for candidate in classes)
        raise BridgeError(
            f"cannot import adapter {path!r}: the module has several adapter classes "
            f"({names}) - name one: {path}:{classes[0].__name__}"
        )
    if tool_names(module):
        return module
    raise BridgeError(
        f"cannot import adapter {path!r}: the module has neither an adapter class nor "
        f"functions - {_REMEDY}"
    )


def _classes(module: ModuleType) -> list[type]:
    """Adapter classes made in this module, or offered by a package's __init__."""
    offered = set(getattr(module, "__all__", ()))
    found: list[type] = []
    for name, value in vars(module).items():
        if not inspect.isclass(value) or name.startswith("_") or value is BaseAdapter:
            continue
        own = value.__module__ == module.__name__ or name in offered
        if own and _looks_like_adapter(value) and value not in found:
            found.append(value)
    return found


def _looks_like_adapter(kind: type) -> bool:
    if issubclass(kind, BaseAdapter) or callable(getattr(kind, "execute_tool", None)):
        return True
    return kind.__name__.endswith("Adapter")


def _checked_class(path: str, kind: type) -> type:
    try:
        inspect.signature(kind).bind()
    except TypeError as error:
        raise BridgeError(
            f"cannot use adapter {path!r}: {kind.__name__}() must take no arguments ({error})"
        ) from error
    except ValueError:
        pass
    if inspect.isabstract(kind):
        raise BridgeError(f"cannot use adapter {path!r}: {kind.__name__} is abstract")
    lifetime_of(kind)  # which may say that it cannot be used
    return kind


def _import_failure(path: str, error: Exception) -> BridgeError:
    return BridgeError(
        f"cannot import adapter {path!r}: {type(error).__name__}: {error} - {_REMEDY}"
    )
