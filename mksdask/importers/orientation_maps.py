"""Import of EBSD maps into stores, with orientations in one convention and none at points that are not indexed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from mksdask.arrays import Array, sizes_argument
from mksdask.bases.gsh import bunge_angles
from mksdask.compute.graph import token_of
from mksdask.importers.ebsd.files import open_ebsd
from mksdask.importers.ebsd.maps import EbsdFile, Records
from mksdask.importers.ebsd.orix import is_crystal_map
from mksdask.schema.arguments import checked
from mksdask.storage.atomic import Url, check_apart
from mksdask.storage.ensembles import create_ensemble, open_ensemble
from mksdask.storage.sources import recorded
from mksdask.storage.volumes import VOLUME_CHUNK, create_volume, open_volume

# Number of points of a map that are read together, about: a band is a whole number of rows.
BAND_POINTS = 2**20
# Laue groups of crystals whose x axis lies along a or along a*.
WITH_A_AXIS = ("trigonal-low", "trigonal", "hexagonal-low", "hexagonal")
# A half turn about a direction in the plane of the map brings the axes of the Euler angles to those of the map. This
# table gives the angle of that direction from x, in radians, for each direction of the first axis of the Euler angles.
HALF_TURNS = {"y": np.pi / 4, "-y": -np.pi / 4, "-x": np.pi / 2, "x": 0.0}


def half_turned(angles: Array, direction: float) -> Array:
    """Turn orientations by 180° about a direction in the plane of the map.

    If α is the angle of the direction from x, the turned orientation is
    ``Rz(2α) Rx(π) Rz(φ1) Rx(Φ) Rz(φ2) = Rz(2α + π - φ1) Rx(π - Φ) Rz(φ2 + π)``.

    Parameters
    ----------
    angles : ndarray, shape (..., 3)
        Bunge angles φ1, Φ, φ2 in radians.
    direction : float
        α in radians.

    Returns
    -------
    ndarray, shape (..., 3)
        Bunge angles of the turned orientations, in radians.
    """
    phi1, tilt, phi2 = np.moveaxis(angles, -1, 0)
    full = 2.0 * np.pi
    return np.stack([(2.0 * direction + np.pi - phi1) % full, np.pi - tilt, (phi2 + np.pi) % full], axis=-1)


@dataclass(frozen=True)
class _Bands:
    """The kernel that reads one band of rows of a map.

    Parameters
    ----------
    file : EbsdFile
        The map.
    n_rows : int
        Number of rows of a band: whole layers of a map with three axes. The last band may have fewer.
    window : (int, int) or None
        Size of the windows into which a band is cut.
    """

    file: EbsdFile
    n_rows: int
    window: tuple[int, int] | None

    def __call__(self, numbers: NDArray[np.int64]) -> Records:
        """Read a band by its number, as fields of shape (columns, rows), or (n_windows, *window)."""
        columns, rows = self.file.shape
        first = int(numbers[0]) * self.n_rows
        last = min(first + self.n_rows, rows)
        raw = self.file.read(first * columns, last * columns)
        converted = Records(self._oriented(raw, first * columns), raw.phase, raw.confidence)
        fields = [np.moveaxis(part.reshape(last - first, columns, *part.shape[1:]), 0, 1) for part in converted]
        if self.file.layers > 1:
            # (columns, layers · rows, ...) → (columns, rows, layers, ...)
            rows //= self.file.layers
            fields = [part.reshape(columns, -1, rows, *part.shape[2:]).swapaxes(1, 2) for part in fields]
        if self.window is not None:
            fields = [self._cut(field, self.window) for field in fields]
        return Records(fields[0].astype(np.float32), fields[1].astype(np.uint8), fields[2].astype(np.float32))

    def _oriented(self, raw: Records, start: int) -> Array:
        """Convert orientations to the frame of the map and to crystals with x along a, or NaN where there is none."""
        angles = raw.angles.astype(np.float64)
        is_indexed = raw.phase > 0
        outside = is_indexed & ~(np.abs(angles) <= 2.0 * np.pi + 1e-3).all(axis=-1)
        if outside.any():
            record = start + int(np.argmax(outside))
            msg = (
                f"{self.file.path}: record {record} has the Euler angles {angles[record - start].tolist()}, expected "
                "radians within ±2π; convert degrees to radians"
            )
            raise ValueError(msg)
        known = {phase.number for phase in self.file.phases}
        strange = is_indexed & ~np.isin(raw.phase, list(known))
        if strange.any():
            record = start + int(np.argmax(strange))
            msg = (
                f"{self.file.path}: record {record} is of phase {int(raw.phase[record - start])}, expected one of the "
                f"header's phases {sorted(known)}, or 0 for a point that is not indexed"
            )
            raise ValueError(msg)
        if self.file.axes != ("x", "y"):
            angles = half_turned(angles, HALF_TURNS[self.file.axes[0]])
        unique_b = [phase.number for phase in self.file.phases if phase.laue_group == "monoclinic"]
        is_turned = np.isin(raw.phase, unique_b) & np.isfinite(angles).all(axis=-1)
        if is_turned.any():
            # The axes z, x, y of the vendor's crystal become x, y, z, so that b is the main axis.
            turn = Rotation.from_matrix([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
            angles[is_turned] = bunge_angles(Rotation.from_euler("ZXZ", angles[is_turned]) * turn.inv())
        if self.file.has_reciprocal_axes:
            turned = [phase.number for phase in self.file.phases if phase.laue_group in WITH_A_AXIS]
            # The axis a* lies 30° from a, on the side of b.
            is_turned = np.isin(raw.phase, turned)
            angles[is_turned, 2] = (angles[is_turned, 2] - np.pi / 6) % (2.0 * np.pi)
        angles[~is_indexed] = np.nan
        return angles

    def _cut(self, field: Array, window: tuple[int, int]) -> Array:
        """Cut a field into windows: (columns, rows, ...) → (n_windows, *window, ...).

        Columns beyond the last whole window are dropped.
        """
        n = field.shape[0] // window[0]
        return field[: n * window[0]].reshape(n, *window, *field.shape[2:])


@checked
def import_ebsd(
    path: Any,
    url: Url,
    *,
    window: int | Sequence[int] | None = None,
    setting: int | None = None,
    scan: str | None = None,
    hexagonal: Literal["nearest"] | None = None,
    mode: Any = "w-",
    resume: bool = False,
) -> xr.Dataset:
    """Import an EBSD map into a store, as one volume or as an ensemble of windows.

    The map is streamed, so it may be larger than memory. Orientations are converted to the convention of this package.

    Parameters
    ----------
    path : str, path, or CrystalMap of orix
        File of EDAX OIM Analysis (``.ang``, ``.h5`` or ``.oh5``), of Oxford Channel 5 and AZtec (``.ctf``, ``.cpr``
        with its ``.crc``, or ``.h5oina``), of Bruker Esprit (``.h5``), or of orix and kikuchipy (``.h5``). What the
        file holds counts, and not its name.
    url : str or path
        Place of the store: a path, or any URL that fsspec knows.
    window : int or (int, int), optional
        Number of points of a window along x and y. With it, the store is an ensemble of windows that lie side by side,
        in order along x first. Points beyond the last whole window are left out. The coordinates ``corner_x`` and
        ``corner_y`` along ``sample`` say where each begins. Without it, the store is one volume.
        A map with three axes is stored as one volume only.
    setting : {1, 2, 3, 4}, optional
        Coordinate system of OIM Analysis, for EDAX files. By default it is read from the file; ``.ang`` files do not
        state it, and 2 is assumed for them. Maps of orix keep the Euler angles of the file from which they come; give 4
        if it was one of Oxford, or its setting if it was one of EDAX. By default their axes are those of the map.
    scan : str, optional
        Name of the scan, if an HDF5 file holds several.
    hexagonal : {"nearest"}, optional
        How a map of EDAX on a hexagonal grid is read. "nearest" gives each point of a rectangular grid of the same
        rows and steps the nearest record: the second row, the fourth, … are moved by half a step along x, and where
        they are shorter, their last record is repeated. Orientations are copied, not mixed. The attribute ``grid`` of
        the store says so. By default such maps are refused.
    mode : {"w-", "w"}
        "w-" refuses to overwrite anything, and "w" overwrites an ensemble or a volume.
    resume : bool, default False
        As in `import_images`.

    Returns
    -------
    xarray.Dataset
        The store, opened lazily. ``microstructure`` holds the Bunge angles in radians, float32, with the axes (sample,)
        x, y, (z,) angle. ``phase`` holds the number of the phase, counted from 1, or 0 where the point is not indexed.
        ``confidence_index`` lies in [0, 1]. The coordinates x and y are in µm. The attributes of ``microstructure``
        name the source and describe how the frames were converted. The attributes of ``phase`` hold the names and Laue
        groups of the phases.

    Raises
    ------
    FileExistsError
        If the store exists and `mode` is "w-".
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file is malformed or truncated. The message names the record and what was expected, and nothing is stored.
        Also if `window` is larger than the map, or an argument does not belong to this kind of file.
        Also if `url` is the input, lies in it, or holds it.

    Notes
    -----
    **Frame.** The sample frame is that of the map: x points to the right, y points down in the order of the rows, and z
    points into the specimen. An orientation is an active rotation from crystal to sample, as everywhere in this
    package. Vendors use other frames. The Euler angles of Oxford refer to the axes x and -y of the map. Those of EDAX
    refer to the axes A1 and A2, whose directions depend on the setting: y and x for 1; -y and -x for 2; -x and y for 3;
    x and -y for 4. Each of these frames is the frame of the map after a half turn about a direction in the plane of the
    map, and the import undoes this turn. Those of Bruker refer to -x and y. Those of an ``.h5oina`` file do so too if
    its scanning rotation is 0, and to x and -y if it is π. Trigonal and hexagonal crystals get their x axis along a; in
    files of Oxford and Bruker it lies along a*. Monoclinic crystals get their 2-fold axis b along z; vendors index them
    with b along y.

    **Points that are not indexed.** They get the phase 0, the confidence 0 and the orientation NaN. They are the points
    of phase 0; in Oxford files also the points with an error number, whose orientation may have been filled in by
    software; and in EDAX files also the points with a negative confidence index, a fit of 180° or angles of 4π. Files
    of Oxford and Bruker hold no confidence index, so their indexed points get the confidence 1. Maps of orix have one
    if their property ``ci`` holds it.

    **Memory.** Each thread reads about a million points at a time, or one row of windows.

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
    # The path is absolute because workers may run in another folder.
    if is_crystal_map(path):
        file = open_ebsd(path, setting, scan, hexagonal)
    else:
        check_apart(url, path)
        file = open_ebsd(str(Path(path).absolute()), setting, scan, hexagonal)
    columns, rows = file.shape
    if window is not None and file.layers > 1:
        msg = (
            f"window={window!r} cuts maps with two axes, and {path} has three; import it whole, then use sample_windows"
        )
        raise ValueError(msg)
    size = None
    if file.layers > 1:
        n_rows = min(file.layers, max(1, BAND_POINTS * file.layers // (columns * rows))) * (rows // file.layers)
        n_bands = -(-rows // n_rows)
    elif window is None:
        n_rows = min(rows, max(1, BAND_POINTS // columns))
        # A band that is longer than a chunk of the store is a whole number of chunks.
        chunk_rows = VOLUME_CHUNK[2]
        n_rows -= n_rows % chunk_rows if n_rows > chunk_rows else 0
        n_bands = -(-rows // n_rows)
    else:
        size = sizes_argument(window, name="window")
        if len(size) > 2:
            msg = f"window must be one number of points, or two for x and y, got {window!r}"
            raise ValueError(msg)
        size = size if len(size) == 2 else size * 2
        if size[0] > columns or size[1] > rows:
            msg = f"window must be no larger than the map of {columns} × {rows} points, got {window!r}"
            raise ValueError(msg)
        n_rows, n_bands = size[1], rows // size[1]
    kernel = _Bands(file.prepare(n_rows * columns), n_rows, None if size is None else (size[0], size[1]))
    bands = da.arange(n_bands, chunks=1)
    read = da.map_blocks(kernel, bands, dtype=object, meta=np.empty(0, dtype=object), name=_name(kernel))
    angles, phase, confidence = _fields(read, kernel)
    coords = {
        dim: xr.DataArray(np.arange(n) * step, dims=dim, attrs={"units": file.units, "spacing": step})
        for n, step, dim in _axes(file, size)
    }
    attrs: dict[str, Any] = {"source": Path(file.path).name, "frame": file.frame, "conversion": _conversion(file)}
    if file.even is not None:
        attrs["grid"] = "hexagonal; each second row was moved by half a step along x, to the nearest points of a grid"
    names = {0: "not indexed"} | {entry.number: entry.name for entry in file.phases}
    groups = {0: ""} | {entry.number: entry.laue_group for entry in file.phases}
    numbers = range(max(names) + 1)
    of_phases = {
        "phases": [names.get(number, "") for number in numbers],
        "laue_groups": [groups.get(number, "") for number in numbers],
    }
    # Figures of the orientations alone need the groups too.
    attrs["laue_groups"] = of_phases["laue_groups"]
    dims = tuple(map(str, coords)) if size is None else ("sample", *map(str, coords))
    if size is not None:
        attrs["windows"] = [columns // size[0], n_bands]
        # Windows are in order along x first.
        y, x = (n.reshape(-1) for n in np.mgrid[:n_bands, : columns // size[0]])
        for dim, n, points, step in zip("xy", (x, y), size, file.step, strict=True):
            coords[f"corner_{dim}"] = xr.DataArray(n * points * step, dims="sample", attrs={"units": file.units})
    microstructure = xr.DataArray(angles, dims=(*dims, "angle"), coords=coords, attrs=attrs)
    phases = xr.DataArray(phase, dims=dims, attrs=of_phases)
    options = {"phase": phases, "confidence_index": confidence, "mode": mode, "resume": resume}
    with recorded(*([] if is_crystal_map(path) else [path]), call="import_ebsd"):
        if size is None:
            per_layer = rows // file.layers
            shard = (columns, n_rows) if file.layers == 1 else (columns, per_layer, n_rows // per_layer)
            create_volume(url, microstructure, chunks=shard, **options)
            return open_volume(url)
        create_ensemble(url, microstructure, chunks=columns // size[0], **options)
        return open_ensemble(url)


def _name(kernel: _Bands) -> str:
    """Name of the layer of the graph. It changes if the file changes."""
    path = Path(kernel.file.path)
    return "read-ebsd-" + token_of(kernel, path.stat().st_mtime_ns if path.exists() else None)


def _axes(file: EbsdFile, size: Sequence[int] | None) -> list[tuple[int, float, str]]:
    """List the number of points, the step and the name of each axis of the map or of a window."""
    if file.layers > 1:
        shape = file.shape[0], file.shape[1] // file.layers, file.layers
        return list(zip(shape, (*file.step, file.z_step), "xyz", strict=True))
    return list(zip(file.shape if size is None else size, file.step, "xy", strict=True))


def _fields(read: da.Array, kernel: _Bands) -> list[da.Array]:
    """Return angles, phase and confidence as lazy arrays. One task reads the three blocks of a band together."""
    columns, rows = kernel.file.shape
    n_bands = read.numblocks[0]
    if kernel.file.layers > 1:
        per_layer = rows // kernel.file.layers
        ends = [min((band + 1) * kernel.n_rows, rows) // per_layer for band in range(n_bands)]
        chunks: tuple[Any, ...] = ((columns,), (per_layer,), tuple(np.diff([0, *ends]).tolist()))
        new_axes = [0, 1]
    elif kernel.window is None:
        lengths = [min(kernel.n_rows, rows - band * kernel.n_rows) for band in range(n_bands)]
        chunks = ((columns,), tuple(lengths))
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
    """Describe how the frames of a map are converted, for the attributes of the store."""
    axes = {"y": "x + y", "-y": "x - y", "-x": "y", "x": "x"}
    first, second = file.axes
    text = "the frame of the map: x right, y down, z into the specimen"
    if file.axes == ("x", "y"):
        text = f"orientations not turned, because they refer to {text}"
    else:
        turn = f"orientations turned by 180° about {axes[first]} of the map, from axes {first} and {second}"
        text = f"{turn} into {text}"
    if file.has_reciprocal_axes and any(phase.laue_group in WITH_A_AXIS for phase in file.phases):
        text += "; trigonal and hexagonal crystals turned by 30°, from x along a* to x along a"
    if any(phase.laue_group == "monoclinic" for phase in file.phases):
        text += "; monoclinic crystals turned, from the 2-fold axis b along y to b along z"
    return text
