"""Import of EBSD maps and images from the files of other programs into stores."""

from mksdask.importers.ebsd import import_ebsd
from mksdask.importers.images import import_images
from mksdask.importers.sources import AssumedWarning

__all__ = ["AssumedWarning", "import_ebsd", "import_images"]
