"""Texture of crystals: the orientation distribution, pole figures, and misorientations of neighbours."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
