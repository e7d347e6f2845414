"""The closed set of backends and how one is chosen."""

from gpukm.backends.select import BACKENDS, Selection, probe, select

__all__ = ["BACKENDS", "Selection", "probe", "select"]
