"""All tools of the showcase, gathered from the handlers."""

from __future__ import annotations

from ...base_adapter import BaseAdapter
from .handlers.basic import BasicTools
from .handlers.binary import BinaryTools
from .handlers.bridge import BridgeTools
from .handlers.concurrent import ConcurrencyTools
from .handlers.data import DataTools
from .handlers.faults import FaultTools
from .handlers.ml import MachineLearningTools
from .handlers.serialization import SerializationTools
from .handlers.sessions import SessionTools
from .handlers.streaming import StreamingTools
from .handlers.text import TextTools


class ShowcaseAdapter(
    BasicTools,
    BinaryTools,
    BridgeTools,
    ConcurrencyTools,
    DataTools,
    FaultTools,
    MachineLearningTools,
    SerializationTools,
    SessionTools,
    StreamingTools,
    TextTools,
    BaseAdapter,
):
    """Every documented demonstration tool."""

    # State is kept per session behind locks, so it may run in threads.
    __thread_safe__ = True
