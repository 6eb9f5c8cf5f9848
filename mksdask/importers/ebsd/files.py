"""The kinds of EBSD files: what a file holds chooses its reader."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py

from mksdask.importers.ebsd.bruker import BrukerHdf5
from mksdask.importers.ebsd.edax import EDAX_AXES, EdaxAng, EdaxHdf5
from mksdask.importers.ebsd.hdf5 import chosen_map, maps_in
from mksdask.importers.ebsd.maps import EbsdFile
from mksdask.importers.ebsd.orix import OrixMap, is_crystal_map
from mksdask.importers.ebsd.oxford import OxfordCrc, OxfordCtf, OxfordHdf5

# So many bytes at the start of a file tell whether it is a map.
HEAD = 2**16


def kind_of(path: str) -> str | None:
    """Return the kind of an EBSD file: "ang", "ctf", "crc" or "hdf5". Return None if it is none.

    Parameters
    ----------
    path : str
        The file.
    """
    if not Path(path).is_file():
        return None
    if Path(path).suffix.lower() in (".crc", ".cpr"):
        return "crc"
    with Path(path).open("rb") as file:
        head = file.read(HEAD)
    if h5py.is_hdf5(path):
        return "hdf5" if maps_in(path) else None
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"Channel Text File"):
        return "ctf"
    if head.startswith(b"#") and b"XSTEP" in head and b"NROWS" in head:
        return "ang"
    # The header of a damaged file may lack what tells its kind.
    suffix = Path(path).suffix.lower().removeprefix(".")
    return suffix if suffix in ("ang", "ctf") else None


def is_ebsd(path: Any) -> bool:
    """Whether a path is that of an EBSD map."""
    return isinstance(path, str | os.PathLike) and kind_of(os.fspath(path)) is not None


def open_ebsd(source: Any, setting: int | None, scan: str | None, hexagonal: str | None = None) -> EbsdFile:
    """Open the map in a file with the reader for its kind, and read its header.

    Parameters
    ----------
    source : str or CrystalMap
        The file; for an Oxford `.crc` or `.cpr` file, the other one must lie beside it. Or a map of orix.
    setting : {1, 2, 3, 4} or None
        Coordinate system of OIM Analysis, for EDAX files; or that of the program that made the map, for maps of orix.
    scan : str or None
        Name of the scan in an HDF5 file.
    hexagonal : {"nearest"} or None
        How points of a hexagonal grid are read.

    Returns
    -------
    EbsdFile
        The map. Its records are not read yet.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the kind is unknown, the header is malformed, or an argument does not belong to this kind of file.
    """
    if is_crystal_map(source):
        _refuse_scan(scan, "a CrystalMap")
        file: EbsdFile = OrixMap.of(source, *_orix_frame(setting))
    else:
        if not Path(source).is_file():
            msg = f"path {source!r} is no file that exists"
            raise FileNotFoundError(msg)
        file = _open(source, setting, scan)
    if not file.phases:
        msg = f"{file.path}: the header names no phase, expected at least one phase with its Laue group"
        raise ValueError(msg)
    if file.even is None and hexagonal is not None:
        msg = f"hexagonal={hexagonal!r} is for hexagonal grids, and the grid of {file.path} is square; leave it out"
        raise ValueError(msg)
    if file.even is not None and hexagonal != "nearest":
        msg = (
            f"{file.path}: the points lie on a hexagonal grid; convert the map to a square grid in OIM Analysis, or "
            "pass hexagonal='nearest', which moves each second row by half a step"
        )
        raise ValueError(msg)
    return file


def _open(path: str, setting: int | None, scan: str | None) -> EbsdFile:
    kind = kind_of(path)
    if kind != "hdf5" and kind is not None:
        _refuse_scan(scan, path)
    if kind == "ang":
        return EdaxAng.open(path, setting)
    if kind == "hdf5":
        name, maker = chosen_map(path, scan)
        if maker == "EDAX":
            return EdaxHdf5.open(path, setting, name)
        if maker == "orix":
            return OrixMap.open(path, *_orix_frame(setting), name)
        _refuse_setting(setting, path, maker)
        return OxfordHdf5.open(path, name) if maker == "Oxford" else BrukerHdf5.open(path, name)
    if kind is not None:
        _refuse_setting(setting, path, "Oxford")
        return OxfordCrc.open(path) if kind == "crc" else OxfordCtf.open(path)
    if Path(path).suffix.lower() in (".h5", ".hdf5", ".oh5", ".h5oina"):
        # The error tells what is wrong with the file.
        chosen_map(path, scan)
    msg = (
        f"{path} is no EBSD map that is known: .ang, .h5 or .oh5 (EDAX), .ctf, .crc with .cpr, or .h5oina (Oxford), "
        ".h5 (Bruker, orix)"
    )
    raise ValueError(msg)


def _orix_frame(setting: int | None) -> tuple[tuple[str, str], str]:
    """Choose the axes of the Euler angles of a map of orix."""
    if setting is None:
        return ("x", "y"), "orix, Euler angles refer to the axes of the map, assumed"
    if setting not in EDAX_AXES:
        msg = f"setting must be one of {sorted(EDAX_AXES)}, got {setting!r}"
        raise ValueError(msg)
    return EDAX_AXES[setting], f"orix, EDAX setting {setting}, given"


def _refuse_setting(setting: int | None, path: str, maker: str) -> None:
    if setting is not None:
        msg = f"setting={setting!r} is for EDAX files only, but {path} is a file of {maker}; leave setting out"
        raise ValueError(msg)


def _refuse_scan(scan: str | None, path: str) -> None:
    if scan is not None:
        msg = f"scan={scan!r} names a scan of an HDF5 file, but {path} holds only one map; leave scan out"
        raise ValueError(msg)
