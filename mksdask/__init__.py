"""Materials Knowledge Systems on dask: structure–property linkages for ensembles larger than memory.

The public names are listed in `__init__.pyi`. Each is imported when it is first used, so that ``import mksdask`` is
fast.
"""

import mksdask.startup  # noqa: F401  it handles signals while the rest is imported

# isort: split

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
