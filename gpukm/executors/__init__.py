"""How steps over shards are run; knows nothing of k-means."""

from gpukm.executors.local import LocalExecutor

__all__ = ["LocalExecutor"]
