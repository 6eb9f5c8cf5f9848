"""Everything that knows dask: kernels over chunks, plans, clients, progress."""
