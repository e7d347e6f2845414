"""How steps over parts of the data are run; knows nothing of k-means."""

from gpukm.executors.base import Executor, Placement
from gpukm.executors.local import LocalExecutor, LocalPlacement

__all__ = ["Executor", "LocalExecutor", "LocalPlacement", "Placement"]
