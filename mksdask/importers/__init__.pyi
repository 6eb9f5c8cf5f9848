from .images import import_images as import_images
from .orientation_maps import import_ebsd as import_ebsd
from .sources import AssumedWarning as AssumedWarning
