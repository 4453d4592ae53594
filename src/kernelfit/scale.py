"""The same verbs on Dask arrays, by their public names."""

from .api.dask import accumulate, find_kernel

__all__ = ["accumulate", "find_kernel"]
