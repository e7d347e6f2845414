"""Shards on a Dask cluster: how a client is obtained, and what its workers are checked for."""
