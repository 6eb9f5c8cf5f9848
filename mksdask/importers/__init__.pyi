from .ebsd import import_ebsd as import_ebsd
from .images import import_images as import_images
from .sources import AssumedWarning as AssumedWarning
