"""Figures of microstructures, statistics, scores and linkages.

Each function returns a Figure, which you can save with `savefig` or leave as the value of a notebook cell. No function
opens a window.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
