"""Files of others, streamed into stores."""

from mksdask.importers.ebsd import import_ebsd

__all__ = ["import_ebsd"]
