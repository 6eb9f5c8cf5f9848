"""Images in NIfTI files, whose headers the package nibabel reads."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mksdask.importers.formats.dims import placed, select, sized
from mksdask.importers.formats.headers import turned
from mksdask.importers.formats.packed_files import Packed
from mksdask.importers.formats.packing import Packing
from mksdask.importers.formats.raw_files import Raw, described
from mksdask.importers.sources import Choice, Source

# Without this package, NIfTI files are refused.
with suppress(ImportError):
    import nibabel


def open_nifti(path: Path, choice: Choice) -> Source:
    """Open a NIfTI file, which may be packed by gzip."""
    choice.check(path, "channel", "time")
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        msg = f"{path} is packed by gzip, which is read here only of .nii.gz; unpack it first, by gunzip -k"
        raise ValueError(msg)
    if "nibabel" not in globals():
        msg = f"{path} needs the package nibabel, which is not installed: pip install 'mksdask[nifti]'"
        raise ImportError(msg)
    image: Any = nibabel.load(path)
    header, proxy = image.header, image.dataobj
    if not hasattr(header, "get_zooms"):
        msg = f"{path} is of kind {type(image).__name__}, which is no image of voxels; export a volume as NIfTI"
        raise ValueError(msg)
    shape = tuple(int(n) for n in proxy.shape[::-1])
    selection = select([*"xyztc"][: len(shape)][::-1], shape, choice, path)
    sizes = {axis: float(step) for axis, step in zip("xyz", header.get_zooms(), strict=False) if axis in selection.axes}
    steps, unit, told = sized(sizes, dict.fromkeys("xyz", header.get_xyzt_units()[0]), choice, path)
    turn = turned(image.affine[:3, :3].T, selection.axes)
    places = {axis: float(image.affine["xyz".index(axis), 3]) for axis in selection.axes if axis in "xyz"}
    origin = {} if turn else placed(places, sizes, steps)
    told = (*told, *selection.assumed, *turn)
    scale, offset = float(proxy.slope), float(proxy.inter)
    packing = Packing.of(
        {} if (scale, offset) == (1, 0) else {"scale_factor": scale, "add_offset": offset}, proxy.dtype
    )
    dtype, offset = np.dtype(proxy.dtype).str, int(proxy.offset)
    # Unpacked, the header precedes the values.
    is_packed = path.suffix.lower() == ".gz"
    raw = Packed(path, shape, dtype, packer="gzip", skip=offset) if is_packed else Raw(path, shape, dtype, offset)
    data = described(raw, selection, packing)
    return Source(data, selection.axes, steps, unit, told, format="nifti", origin=origin)
