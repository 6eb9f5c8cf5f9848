"""EBSD maps into stores: orientations in one convention, unindexed points without one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mksdask.arrays import sizes_argument
from mksdask.bases.gsh import bunge_angles
from mksdask.importers.ebsd_files import EbsdFile, Records, open_ebsd
from mksdask.storage.atomic import Url, check_apart
from mksdask.storage.ensembles import create_ensemble, create_volume, open_ensemble, open_volume

Array = NDArray[Any]

# Points of a map that are read together, a whole number of rows.
BAND_POINTS = 2**20
WITH_A_AXIS = ("trigonal-low", "trigonal", "hexagonal-low", "hexagonal")
HALF_TURNS = {"y": np.pi / 4, "-y": -np.pi / 4, "-x": np.pi / 2, "x": 0.0}


def half_turned(angles: Array, direction: float) -> Array:
    """Bunge angles of orientations turned by 180° about a direction in the plane of the map.

    With α the angle of the direction from x,
    ``Rz(2α) Rx(π) Rz(φ1) Rx(Φ) Rz(φ2) = Rz(2α + π - φ1) Rx(π - Φ) Rz(φ2 + π)``.

    Parameters
    ----------
    angles : ndarray, shape (..., 3)
        Radians.
    direction : float
        α in radians.
    """
    phi1, tilt, phi2 = np.moveaxis(angles, -1, 0)
    full = 2.0 * np.pi
    return np.stack([(2.0 * direction + np.pi - phi1) % full, np.pi - tilt, (phi2 + np.pi) % full], axis=-1)


@dataclass(frozen=True)
class _Bands:
    """The kernel of one band of rows of a map."""

    file: EbsdFile
    n_rows: int  # rows of a band; the last may have fewer
    window: tuple[int, int] | None

    def __call__(self, numbers: NDArray[np.int64]) -> Records:
        """Band by its number: fields of (columns, rows), or of (n_windows, *window)."""
        columns, rows = self.file.shape
        first = int(numbers[0]) * self.n_rows
        last = min(first + self.n_rows, rows)
        raw = self.file.read(first * columns, last * columns)
        converted = Records(self._oriented(raw, first * columns), raw.phase, raw.confidence)
        fields = [np.moveaxis(part.reshape(last - first, columns, *part.shape[1:]), 0, 1) for part in converted]
        if self.window is not None:
            fields = [self._cut(field, self.window) for field in fields]
        return Records(fields[0].astype(np.float32), fields[1].astype(np.uint8), fields[2].astype(np.float32))

    def _oriented(self, raw: Records, start: int) -> Array:
        """Orientations in the frame of the map, of crystals with x along a; NaN where there is none."""
        angles = raw.angles.astype(np.float64)
        is_indexed = raw.phase > 0
        outside = is_indexed & ~(np.abs(angles) <= 2.0 * np.pi + 1e-3).all(axis=-1)
        if outside.any():
            record = start + int(np.argmax(outside))
            msg = (
                f"{self.file.path}: record {record} has the Euler angles {angles[record - start].tolist()}, expected "
                "radians within ±2π"
            )
            raise ValueError(msg)
        known = {phase.number for phase in self.file.phases}
        strange = is_indexed & ~np.isin(raw.phase, list(known))
        if strange.any():
            record = start + int(np.argmax(strange))
            msg = (
                f"{self.file.path}: record {record} is of phase {int(raw.phase[record - start])}, expected one of the "
                f"header's phases {sorted(known)}, or 0 for none"
            )
            raise ValueError(msg)
        angles = half_turned(angles, HALF_TURNS[self.file.axes[0]])
        unique_b = [phase.number for phase in self.file.phases if phase.laue_group == "monoclinic"]
        is_turned = np.isin(raw.phase, unique_b) & np.isfinite(angles).all(axis=-1)
        if is_turned.any():
            # Axes z, x, y of the vendor's crystal become x, y, z, so that b is the main axis.
            turn = Rotation.from_matrix([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
            angles[is_turned] = bunge_angles(Rotation.from_euler("ZXZ", angles[is_turned]) * turn.inv())
        if self.file.has_reciprocal_axes:
            turned = [phase.number for phase in self.file.phases if phase.laue_group in WITH_A_AXIS]
            # a* lies 30° from a towards b.
            is_turned = np.isin(raw.phase, turned)
            angles[is_turned, 2] = (angles[is_turned, 2] - np.pi / 6) % (2.0 * np.pi)
        angles[~is_indexed] = np.nan
        return angles

    def _cut(self, field: Array, window: tuple[int, int]) -> Array:
        """(columns, rows, ...) → (n_windows, *window, ...); what is left of the rows is dropped."""
        n = field.shape[0] // window[0]
        return field[: n * window[0]].reshape(n, *window, *field.shape[2:])


def import_ebsd(
    path: str | os.PathLike[str],
    url: Url,
    *,
    window: int | Sequence[int] | None = None,
    setting: int | None = None,
    scan: str | None = None,
    mode: Any = "w-",
) -> xr.Dataset:
    """Stream an EBSD map into a store, whole or cut into the windows of an ensemble.

    Parameters
    ----------
    path : str or path
        ``.h5`` or ``.ang`` of EDAX OIM Analysis; ``.cpr`` with its ``.crc``, or ``.ctf``, of Oxford Channel 5 and
        AZtec.
    url : str or path
        Where the store goes: a path, or any URL that fsspec knows.
    window : int or (int, int), optional
        Points of a window along x and y: the store is an ensemble of them, side by side, along x first. Points beyond
        the last whole window are left out. Without it, the store is one volume.
    setting : {1, 2, 3, 4}, optional
        Coordinate system of OIM Analysis. Default: what the file says; ``.ang`` files do not, and 2 is assumed.
    scan : str, optional
        Name of the scan, where an HDF5 file holds several.
    mode : {"w-", "w"}
        Refuse to overwrite, or overwrite an ensemble or a volume.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily: ``microstructure``, Bunge angles in radians (float32), (sample,) x, y, angle;
        ``phase``, the number of the phase from 1, 0 where the point is not indexed; ``confidence_index`` in [0, 1].
        Coordinates x and y are in µm. The attributes of ``microstructure`` say where it comes from and what was done to
        the frames, those of ``phase`` the names and Laue groups.

    Raises
    ------
    FileExistsError
        If the store exists and `mode` is "w-".
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file is malformed or truncated, with the record and what was expected; nothing is stored then. If `window`
        is larger than the map, or an argument does not belong to this kind of file. If `url` is the input, lies in it,
        or holds it.

    Notes
    -----
    **Frame.** The sample frame is that of the map: x to the right, y down as the rows of the map run, z into the
    specimen; the orientation is that of the package, active, crystal to sample. Oxford's Euler angles refer to axes x
    and -y of the map, EDAX's to axes A1 and A2 that the setting places: 1, y and x; 2, -y and -x; 3, -x and y; 4, x
    and -y. All are half turns about a direction in the plane of the map, and undone. Trigonal and hexagonal crystals
    get their x axis along a, where Oxford has it along a*. Monoclinic ones, which vendors index with the 2-fold axis b
    along y, get it along z.

    **Not indexed** are points of phase 0, Oxford's with an error number, whose orientation software has filled in, and
    EDAX's with a negative confidence index, a fit of 180° or angles of 4π. They get phase 0, confidence 0 and the
    orientation NaN. Oxford files hold no confidence index: indexed points get 1.

    **Memory.** About a million points are read at a time, or one row of windows, by each thread.

    References
    ----------
    Britton, T. B. et al. Tutorial: Crystal orientations and EBSD — Or which way is up? Mater. Charact. 117 (2016) 113.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with open(folder + "/map.ctf", "w") as file:
    ...     _ = file.write("Channel Text File\\nXCells\\t2\\nYCells\\t1\\nXStep\\t0.5\\nYStep\\t0.5\\nPhases\\t1\\n")
    ...     _ = file.write("3.6;3.6;3.6\\t90;90;90\\tCopper\\t11\\t225\\n")
    ...     _ = file.write("Phase\\tX\\tY\\tError\\tEuler1\\tEuler2\\tEuler3\\n")
    ...     _ = file.write("1\\t0\\t0\\t0\\t10\\t20\\t30\\n0\\t0.5\\t0\\t3\\t0\\t0\\t0\\n")
    >>> ds = import_ebsd(folder + "/map.ctf", folder + "/map.zarr")
    >>> ds.confidence_index.values.tolist(), ds.phase.attrs["phases"]
    ([[1.0], [0.0]], ['not indexed', 'Copper'])
    """
    # Workers may run in another folder.
    check_apart(url, path)
    file = open_ebsd(str(Path(path).absolute()), setting, scan)
    columns, rows = file.shape
    if window is None:
        n_rows = min(rows, max(1, BAND_POINTS // columns))
        # Whole chunks of the store, of 512 rows at most.
        n_rows -= n_rows % 512 if n_rows > 512 else 0
        n_bands = -(-rows // n_rows)
        size = None
    else:
        if np.size(window) > 2:
            msg = f"window must be one number of points, or two, got {window!r}"
            raise ValueError(msg)
        size = sizes_argument(np.broadcast_to(np.asarray(window), 2), name="window")
        if size[0] > columns or size[1] > rows:
            msg = f"window must be no larger than the map of {columns} × {rows} points, got {window!r}"
            raise ValueError(msg)
        n_rows, n_bands = size[1], rows // size[1]
    kernel = _Bands(file.prepare(n_rows * columns), n_rows, None if size is None else (size[0], size[1]))
    bands = da.arange(n_bands, chunks=1)
    read = da.map_blocks(kernel, bands, dtype=object, meta=np.empty(0, dtype=object), name=_name(kernel))
    angles, phase, confidence = _fields(read, kernel)
    x, y = (
        xr.DataArray(np.arange(n) * step, dims=dim, attrs={"units": "um", "spacing": step})
        for n, step, dim in _axes(file, size)
    )
    attrs: dict[str, Any] = {"source": Path(file.path).name, "frame": file.frame, "conversion": _conversion(file)}
    names = {0: "not indexed"} | {entry.number: entry.name for entry in file.phases}
    groups = {0: ""} | {entry.number: entry.laue_group for entry in file.phases}
    numbers = range(max(names) + 1)
    of_phases = {
        "phases": [names.get(number, "") for number in numbers],
        "laue_groups": [groups.get(number, "") for number in numbers],
    }
    dims = ("x", "y") if size is None else ("sample", "x", "y")
    if size is not None:
        attrs["windows"] = [columns // size[0], n_bands]
    microstructure = xr.DataArray(angles, dims=(*dims, "angle"), coords={"x": x, "y": y}, attrs=attrs)
    phases = xr.DataArray(phase, dims=dims, attrs=of_phases)
    if size is None:
        create_volume(
            url, microstructure, phase=phases, confidence_index=confidence, chunks=(columns, n_rows), mode=mode
        )
        return open_volume(url)
    create_ensemble(
        url, microstructure, phase=phases, confidence_index=confidence, chunks=columns // size[0], mode=mode
    )
    return open_ensemble(url)


def _name(kernel: _Bands) -> str:
    from dask.base import tokenize

    return "read-ebsd-" + tokenize(kernel, Path(kernel.file.path).stat().st_mtime_ns)


def _axes(file: EbsdFile, size: Sequence[int] | None) -> list[tuple[int, float, str]]:
    return list(zip(file.shape if size is None else size, file.step, "xy", strict=True))


def _fields(read: da.Array, kernel: _Bands) -> list[da.Array]:
    """Angles, phase and confidence as lazy arrays whose blocks one task has read together."""
    columns, rows = kernel.file.shape
    n_bands = read.numblocks[0]
    if kernel.window is None:
        lengths = [min(kernel.n_rows, rows - band * kernel.n_rows) for band in range(n_bands)]
        chunks: tuple[Any, ...] = ((columns,), tuple(lengths))
        new_axes = [0]
    else:
        chunks = ((columns // kernel.window[0],) * n_bands, *((n,) for n in kernel.window))
        new_axes = [1, 2]
    out = []
    for name, dtype, tail in (("angles", "f4", ((3,),)), ("phase", "u1", ()), ("confidence", "f4", ())):
        out.append(
            read.map_blocks(
                attrgetter(name),
                chunks=(*chunks, *tail),
                new_axis=[*new_axes, *([len(chunks)] if tail else [])],
                dtype=dtype,
                meta=np.empty((0,) * (len(chunks) + len(tail)), dtype=dtype),
                name=f"ebsd-{name}-{read.name}",
            )
        )
    return out


def _conversion(file: EbsdFile) -> str:
    axes = {"y": "x + y", "-y": "x - y", "-x": "y", "x": "x"}
    first, second = file.axes
    text = (
        f"orientations turned by 180° about {axes[first]} of the map, from axes {first} and {second} into the frame of "
        "the map: x right, y down, z into the specimen"
    )
    if file.has_reciprocal_axes and any(phase.laue_group in WITH_A_AXIS for phase in file.phases):
        text += "; trigonal and hexagonal crystals turned by 30°, from x along a* to x along a"
    if any(phase.laue_group == "monoclinic" for phase in file.phases):
        text += "; monoclinic crystals turned, from the 2-fold axis b along y to b along z"
    return text
