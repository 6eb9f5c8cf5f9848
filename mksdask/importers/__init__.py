"""Import of EBSD maps and images from the files of other programs into stores."""

from mksdask.importers.ebsd import import_ebsd
from mksdask.importers.images import import_images

__all__ = ["import_ebsd", "import_images"]
