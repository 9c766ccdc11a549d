"""Generates the protocol modules from ../../proto while the package is built."""

from __future__ import annotations

import os
import sys

from setuptools import setup
from setuptools.command.build_py import build_py

_HERE = os.path.dirname(os.path.abspath(__file__))
_PROTO = os.path.normpath(os.path.join(_HERE, "..", "..", "proto"))
_NAME = "snakepit_bridge"


class BuildWithProtocol(build_py):
    """Puts snakepit_bridge_pb2 and snakepit_bridge_pb2_grpc beside the package."""

    def run(self) -> None:
        super().run()
        # In an editable install build_lib is a place that nobody imports from.
        self._generate(_HERE if self.editable_mode else self.build_lib)

    def _generate(self, target: str) -> None:
        source = os.path.join(_PROTO, f"{_NAME}.proto")
        if not os.path.exists(source):
            sys.exit(f"{source} is missing: install from a checkout of the whole project")
        import grpc_tools
        from grpc_tools import protoc

        os.makedirs(target, exist_ok=True)
        well_known = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
        arguments = [
            "protoc",
            f"-I{_PROTO}",
            f"-I{well_known}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            source,
        ]
        if protoc.main(arguments) != 0:
            sys.exit(f"cannot generate the protocol modules from {source}")


setup(cmdclass={"build_py": BuildWithProtocol})
