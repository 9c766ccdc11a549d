"""Finds the generated protocol modules.

An installed package has them at the top level. In a build of the Elixir
project they lie in the directory named by ``SNAKEPIT_PROTO_PATH``.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

from .errors import BridgeError

PATH_VARIABLE = "SNAKEPIT_PROTO_PATH"


def show() -> None:
    """Lets tools import the modules by their names."""
    directory = os.environ.get(PATH_VARIABLE, "")
    if directory and directory not in sys.path:
        sys.path.append(directory)


def messages() -> Any:
    """The module ``snakepit_bridge_pb2``."""
    return _load("snakepit_bridge_pb2")


def services() -> Any:
    """The module ``snakepit_bridge_pb2_grpc``."""
    return _load("snakepit_bridge_pb2_grpc")


def _load(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise _missing(error) from error
    show()
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise _missing(error) from error


def _missing(error: ModuleNotFoundError) -> BridgeError:
    if error.name in ("snakepit_bridge_pb2", "snakepit_bridge_pb2_grpc"):
        return BridgeError(
            f"cannot find the module {error.name} - install the package "
            f"(pip install snakepit-bridge[grpc]), or set {PATH_VARIABLE} to the "
            "directory that holds the generated protocol modules"
        )
    return BridgeError(
        f"cannot import {error.name}, needed by the protocol modules - "
        f"{sys.executable} lacks it: {sys.executable} -m pip install "
        "'grpcio>=1.60,<2' 'protobuf>=4.25,<8'"
    )
