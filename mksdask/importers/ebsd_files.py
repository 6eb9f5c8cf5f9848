"""The kinds of EBSD files: the suffix of a file chooses its reader."""

from __future__ import annotations

from pathlib import Path

from mksdask.importers.ebsd_edax import EdaxAng, EdaxHdf5
from mksdask.importers.ebsd_maps import EbsdFile
from mksdask.importers.ebsd_oxford import OxfordCrc, OxfordCtf


def open_ebsd(path: str, setting: int | None, scan: str | None) -> EbsdFile:
    """Open the map in a file with the reader for its suffix, and read its header.

    Parameters
    ----------
    path : str
        The file; for an Oxford `.crc` or `.cpr` file, the other one must lie beside it.
    setting : {1, 2, 3, 4} or None
        Coordinate system of OIM Analysis, for EDAX files.
    scan : str or None
        Name of the scan in an HDF5 file.

    Returns
    -------
    EbsdFile
        The map. Its records are not read yet.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the suffix is unknown, the header is malformed, or an argument does not belong to this kind of file.
    """
    if not Path(path).is_file():
        msg = f"path {path!r} is no file that exists"
        raise FileNotFoundError(msg)
    suffix = Path(path).suffix.lower()
    file = _open(path, suffix, setting, scan)
    if not file.phases:
        msg = f"{path}: the header names no phase, expected at least one phase with its Laue group"
        raise ValueError(msg)
    return file


def _open(path: str, suffix: str, setting: int | None, scan: str | None) -> EbsdFile:
    is_edax = suffix in (".h5", ".hdf5", ".oh5", ".ang")
    if setting is not None and not is_edax:
        msg = f"setting={setting!r} is for EDAX files only, but {path} is an Oxford file; leave setting out"
        raise ValueError(msg)
    if scan is not None and (not is_edax or suffix == ".ang"):
        msg = f"scan={scan!r} names a scan of an HDF5 file, but {path} holds only one map; leave scan out"
        raise ValueError(msg)
    if suffix == ".ang":
        return EdaxAng.open(path, setting)
    if is_edax:
        return EdaxHdf5.open(path, setting, scan)
    if suffix in (".crc", ".cpr"):
        return OxfordCrc.open(path)
    if suffix == ".ctf":
        return OxfordCtf.open(path)
    msg = f"{path}: the suffix must be .h5, .hdf5, .oh5, .ang (EDAX), .crc, .cpr or .ctf (Oxford), got {suffix!r}"
    raise ValueError(msg)
