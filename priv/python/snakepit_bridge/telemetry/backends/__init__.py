"""Where events go."""

from .base import TelemetryBackend
from .grpc import GrpcBackend
from .stderr import StderrBackend

__all__ = ["GrpcBackend", "StderrBackend", "TelemetryBackend"]
