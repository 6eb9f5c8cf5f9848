"""Export: a store, or an array, into a file of another program."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import xarray as xr

from mksdask.exporters.fields import Exported
from mksdask.exporters.ome_zarr import write_ome_zarr
from mksdask.exporters.tiff import write_tiff
from mksdask.exporters.vtk import write_vti, write_vtkhdf
from mksdask.storage.atomic import Location, Url, attributes_of, check_apart, check_outside
from mksdask.storage.microstructures import open_store
from mksdask.storage.opening import open_dataset
from mksdask.storage.staging import staged_file

# The function that writes each kind of file.
FILES: dict[str, Callable[[Path, Any], None]] = {
    ".vti": write_vti,
    ".vtkhdf": write_vtkhdf,
    ".tif": write_tiff,
    ".tiff": write_tiff,
}


def export(
    source: Any,
    path: Url,
    *,
    variable: str | Sequence[str] | None = None,
    select: Mapping[str, Any] | None = None,
    mode: Literal["w-", "w"] = "w-",
) -> None:
    """Export an ensemble, a volume, a field or statistics into a file of another program.

    Values are read and written piece by piece, so they may be larger than memory.

    Parameters
    ----------
    source : str, path, Dataset or DataArray
        A store of an ensemble, a volume or a result; or what `open_ensemble` and `open_volume` return, or an array with
        named axes.
    path : str or path
        What to make. Its suffix says in which format: ``.zarr`` for OME-Zarr 0.5 (napari, Fiji), which may be a URL;
        ``.vti`` or ``.vtkhdf`` for VTK (ParaView); ``.tif`` or ``.ome.tif`` for TIFF (ImageJ, OME).
    variable : str or sequence of str, optional
        Names of the variables of a store. Default: ``microstructure``, or the only one. VTK takes several.
    select : mapping, optional
        For some axes, the label or the number of what is exported, such as ``{"sample": 0, "component": "xx"}``.
    mode : {"w-", "w"}
        "w-" refuses to overwrite anything. "w" replaces a file of the same format, or an OME-Zarr image that this
        function wrote.

    Raises
    ------
    FileExistsError
        If something is at `path` that may not be replaced.
    TypeError
        If values are complex, or no numbers.
    ValueError
        If the format is not known, or does not hold such an array. The message says what to choose. Also if `path` is
        the store, lies in it, or holds it.

    Notes
    -----
    Voxel sizes, the unit, the position of the first voxel, the names of phases, and the quantity that an array holds
    and its unit are written where the format has a place for them. Voxels are cells of VTK; samples are arrays of their
    own there, times of TIFF, and an axis of OME-Zarr; components are components of VTK, and channels elsewhere.
    OME-Zarr images of volumes have coarser levels, of every second voxel.

    A slab of at most 64 MiB, or a page of an image with two axes, is in memory at once, in about three copies. OME-Zarr
    is written by the workers of dask, shard by shard. Fields that are not stored yet are computed on the way, so store
    them first by `materialize` if their chunks are much larger than that. A file is written beside its place, and moved
    there when it is complete.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from mksdask import create_volume
    >>> from mksdask.importers import import_images
    >>> folder = tempfile.mkdtemp()
    >>> voxels = np.random.default_rng(0).integers(0, 2, (20, 30, 10), dtype="uint8")
    >>> create_volume(folder + "/rock.zarr", voxels, spacing=2.5, units="um", phases=("pore", "grain"))
    >>> export(folder + "/rock.zarr", folder + "/rock.vti")
    >>> again = import_images(folder + "/rock.vti", folder + "/again.zarr")
    >>> bool((again.microstructure == voxels).all()), float(again.x[1]), again.x.attrs["units"]
    (True, 2.5, 'um')
    """
    text = os.fspath(path).lower().rstrip("/")
    suffix = next((each for each in (*FILES, ".zarr") if text.endswith(each)), None)
    if suffix is None:
        msg = f"path {os.fspath(path)!r} must end with one of .zarr, {', '.join(FILES)}, which say the format"
        raise ValueError(msg)
    if mode not in ("w-", "w"):
        msg = f"mode must be 'w-' (refuse to overwrite) or 'w' (overwrite), got {mode!r}"
        raise ValueError(msg)
    if isinstance(source, str | os.PathLike):
        check_apart(path, source)
    fields = [Exported.of(array, select or {}) for array in _arrays(source, variable)]
    if suffix == ".zarr":
        write_ome_zarr(path, fields, mode)
        return
    location = Location.of(path)
    if not location.is_local:
        msg = f"{os.fspath(path)} is not on this machine, and {suffix} files are written there; export .zarr, or a path"
        raise ValueError(msg)
    check_outside(location)
    target = Path(location.path)
    if target.exists() and not (mode == "w" and _is_of_format(target, suffix)):
        told = "choose another path, or pass mode='w'" if mode == "w-" else f"it is no {suffix} file, and stays"
        msg = f"{os.fspath(path)} exists; {told}"
        raise FileExistsError(msg)
    target.parent.mkdir(parents=True, exist_ok=True)
    with staged_file(target, overwrite=mode == "w") as new:
        FILES[suffix](new, fields)


def _arrays(source: Any, variable: str | Sequence[str] | None) -> list[xr.DataArray]:
    """Return the arrays that are exported."""
    if isinstance(source, xr.DataArray):
        if variable is not None and variable != source.name:
            msg = f"variable={variable!r} names a variable of a store, and source is one array; leave it out"
            raise ValueError(msg)
        return [source]
    if isinstance(source, str | os.PathLike):
        dataset = _opened(source)
    elif isinstance(source, xr.Dataset):
        dataset = source
    else:
        msg = (
            f"source must be the path of a store, a Dataset, or a DataArray whose axes have names, got "
            f"{type(source).__name__}; name the axes, such as xr.DataArray(field, dims=('x', 'y', 'z'))"
        )
        raise TypeError(msg)
    known = list(map(str, dataset.data_vars))
    names = [variable] if isinstance(variable, str) else list(variable or ())
    if not names:
        names = ["microstructure"] if "microstructure" in known else known
        if len(names) != 1:
            msg = f"variable must name what is exported; the store holds {', '.join(known) or 'nothing'}"
            raise ValueError(msg)
    missing = [name for name in names if name not in known]
    if missing:
        msg = f"the store has no variable {missing[0]!r}; it holds {', '.join(known)}"
        raise ValueError(msg)
    arrays = [dataset[name] for name in names]
    grids = {tuple(str(dim) for dim in array.dims if str(dim) in ("x", "y", "z", "sample")) for array in arrays}
    if len(grids) > 1:
        msg = f"the variables {names} lie on different axes; export them one by one"
        raise ValueError(msg)
    return arrays


def _opened(url: Url) -> xr.Dataset:
    """Open a store of microstructures, or of results."""
    location = Location.of(url)
    if attributes_of(location).get("mksdask") in ("ensemble", "volume"):
        return open_store(url)
    try:
        return open_dataset(location, chunks={})
    except KeyError as error:
        if attributes_of(location).get("mksdask") == "model":
            msg = f"{os.fspath(url)} holds a model, which has no fields; export what it predicts"
            raise ValueError(msg) from error
        msg = f"{os.fspath(url)} holds arrays whose axes have no names; open them, and export arrays with names"
        raise ValueError(msg) from error


def _is_of_format(path: Path, suffix: str) -> bool:
    """Whether a file holds what its suffix says."""
    if not path.is_file():
        return False
    if suffix == ".vtkhdf":
        return bool(h5py.is_hdf5(path))
    with path.open("rb") as file:
        head = file.read(512)
    return head[:2] in (b"II", b"MM") if suffix.startswith(".tif") else b"<VTKFile" in head
