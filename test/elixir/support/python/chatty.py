"""Tools that log, warn and print."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from typing import Any

from snakepit_bridge import BaseAdapter, tool

_log = logging.getLogger("shop.prices")


class Chatty(BaseAdapter):
    @tool(description="One record of each level")
    def levels(self, text: str) -> None:
        for name in ("debug", "info", "warning", "error", "critical"):
            getattr(_log, name)("%s %s", name, text)

    @tool(description="A record with a traceback")
    def fails(self) -> None:
        try:
            raise ValueError("no such price")
        except ValueError:
            _log.exception("in the shop")

    @tool(description="A warning of Python's")
    def warns(self, text: str) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(text, RuntimeWarning, stacklevel=1)
        return sys._getframe().f_lineno - 1

    @tool(description="A record from a thread of the tool's own")
    def from_thread(self, text: str) -> None:
        thread = threading.Thread(target=_log.error, args=(text,), name="shopkeeper")
        thread.start()
        thread.join()

    @tool(description="The record is the last that the process does")
    def dies(self, text: str) -> None:
        _log.error(text)
        os.abort()

    @tool(description="More records than anybody reads")
    def floods(self, count: int, text: str) -> int:
        for n in range(count):
            _log.error("%s %d", text, n)
        return count

    @tool(description="As it is, on either stream")
    def writes(self, text: str, stream: int) -> None:
        data = text.encode()
        while data:
            data = data[os.write(stream, data) :]

    @tool(description="print()")
    def prints(self, text: str) -> None:
        print(text)

    @tool(description="The level of Python's root logger")
    def level(self) -> str:
        return logging.getLevelName(logging.getLogger().level)

    @tool(description="Its own number")
    def pid(self) -> Any:
        return os.getpid()
