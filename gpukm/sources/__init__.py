"""Where rows come from: arrays and files, in memory or streamed."""

from gpukm.sources.base import Batch, Source
from gpukm.sources.open import open_source

__all__ = ["Batch", "Source", "open_source"]
