"""Import of EBSD maps and images from the files of other programs into stores."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
