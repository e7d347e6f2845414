"""Work on a Dask cluster: who does what, what runs on workers, and how a cluster is obtained."""
