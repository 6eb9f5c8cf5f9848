"""All that knows dask: kernels that run on chunks, plans of memory, clients of a cluster, and progress."""
