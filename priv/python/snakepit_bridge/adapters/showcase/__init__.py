"""The adapter that shows what adapters can do; default of a new pool."""

from .adapter import ShowcaseAdapter

__all__ = ["ShowcaseAdapter"]
