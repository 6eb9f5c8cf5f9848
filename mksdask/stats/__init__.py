"""2-point statistics f[h, h'; r] of ensembles and of volumes, chords, and results that follow from statistics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
