"""Figures of microstructures, statistics, scores and linkages.

Each function returns a Figure, which you can save with `savefig` or leave as the value of a notebook cell. No function
opens a window, or changes the settings of matplotlib.

A figure is made for print: it is 88 or 180 mm wide, as one or two columns of a journal, whichever its panels need, and
no text is smaller than 6 points at that width. `figsize` chooses another size. Legends stand below the axes, where they
hide no data, and long names are broken into lines. Maps are drawn as an image is shown: the first axis of an array, x,
runs to the right, and the second, y, runs downwards. What is not known, NaN, is white, and grey where colours diverge.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
