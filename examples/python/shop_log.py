"""A tool that has something to say."""

from __future__ import annotations

import logging
import warnings

from snakepit_bridge import BaseAdapter, tool

log = logging.getLogger("shop.prices")

PRICES = {"tea": 4.5}


class Shop(BaseAdapter):
    @tool(description="The price of a thing")
    def price(self, thing: str) -> float | None:
        log.debug("asked for %s", thing)
        if thing not in PRICES:
            log.warning("no price for %s", thing)
            return None
        return PRICES[thing]

    @tool(description="The price as it was asked for long ago")
    def cost(self, thing: str) -> float | None:
        warnings.warn("cost is now price", FutureWarning, stacklevel=1)
        return self.price(thing)
