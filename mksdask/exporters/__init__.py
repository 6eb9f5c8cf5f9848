"""Export of stores and fields into the files of other programs: OME-Zarr, VTK and TIFF."""

from mksdask.exporters.export import export

__all__ = ["export"]
