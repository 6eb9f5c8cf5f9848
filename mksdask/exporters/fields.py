"""What is exported: an array with its axes, steps, origin and names, and its values slab by slab."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from mksdask.arrays import SPATIAL_DIMS, Array, to_numpy
from mksdask.labels import ROLES, quantity
from mksdask.schema.units import METRES

# Number of bytes of a slab that is in memory at once.
SLAB_BYTES = 2**26
# Number of voxels along an axis of a piece that is turned at once.
PIECE = 128


@dataclass(frozen=True)
class Exported:
    """An array that is to be exported.

    Parameters
    ----------
    name : str
        Its name: the quantity that it holds, if it says which, and its own name otherwise.
    value_unit : str
        Unit of its values. Empty if it is not known.
    array : DataArray
        The values, with the dims (sample,) x, y(, z)(, component); samples and components may be absent.
    has_samples, has_components : bool
        Whether these axes are there.
    steps, origin : tuple of float
        Step and first coordinate along x, y(, z).
    unit : str or None
        Unit of steps and origin, by the name of this package.
    samples, components : tuple of str
        Names of the samples and of the components.
    phases : tuple of str
        Names of the phases, or none.
    """

    name: str
    value_unit: str
    array: xr.DataArray
    has_samples: bool
    has_components: bool
    steps: tuple[float, ...]
    origin: tuple[float, ...]
    unit: str | None
    samples: tuple[str, ...]
    components: tuple[str, ...]
    phases: tuple[str, ...]

    @classmethod
    def of(cls, array: xr.DataArray, select: Mapping[str, Any]) -> Exported:
        """Read the axes of an array.

        Parameters
        ----------
        array : DataArray
            A microstructure, a field or statistics.
        select : mapping
            For each axis to remove, the label or the number of what is kept, such as ``{"component": "xx"}``.

        Raises
        ------
        TypeError
            If the values are complex, or no numbers.
        ValueError
            If there is no spatial axis, several axes are neither spatial nor samples, or nothing of this label is
            there.
        """
        for dim, wanted in select.items():
            array = _selected(array, dim, wanted)
        if array.dtype.kind not in "biuf":
            hint = "export its real part, such as field.real" if array.dtype.kind == "c" else "export numbers"
            msg = f"{array.name or 'the array'} holds {array.dtype}, which image files do not hold; {hint}"
            raise TypeError(msg)
        spatial = [dim for dim in map(str, array.dims) if dim.removeprefix("lag_") in SPATIAL_DIMS]
        others = [str(dim) for dim in array.dims if str(dim) not in (*spatial, "sample")]
        if not spatial or len(others) > 1:
            told = f"the axes {others}, of which files hold one" if spatial else "no axis x, y or z"
            msg = f"{array.name or 'the array'} has {told}; its axes are {array.dims}. Choose along some by select="
            raise ValueError(msg)
        spatial.sort()
        has_samples = "sample" in array.dims
        grid = [_along(array, dim) for dim in spatial]
        units = {unit for _, _, unit in grid}
        ordered = array.transpose(*(("sample",) if has_samples else ()), *spatial, *others)
        said = quantity(array)
        is_named = array.name is not None and array.name not in ROLES
        return cls(
            str(array.name) if is_named else said.get("long_name", str(array.name or "field")),
            said.get("units", ""),
            ordered.astype(np.uint8) if array.dtype.kind == "b" else ordered,
            has_samples,
            bool(others),
            tuple(step for step, _, _ in grid),
            tuple(first for _, first, _ in grid),
            next(iter(units)) if len(units) == 1 else None,
            _labels(array, "sample") if has_samples else (),
            _labels(array, others[0]) if others else (),
            tuple(map(str, array.attrs.get("phases") or ())),
        )

    @property
    def title(self) -> str:
        """Its name and the unit of its values, such as "stress / MPa"."""
        return " / ".join(filter(None, (self.name, self.value_unit)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of voxels along x, y(, z)."""
        return tuple(map(int, self.array.shape[self.has_samples : self.array.ndim - self.has_components]))

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes x, y(, z)."""
        return tuple(map(str, self.array.dims[self.has_samples : self.array.ndim - self.has_components]))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values in files, native."""
        return np.dtype(np.float32) if self.array.dtype == np.float16 else self.array.dtype.newbyteorder("=")

    def slabs(self, sample: int | None = None) -> Iterator[Array]:
        """Yield the values slab by slab along the slowest axis, (n, y, x(, component)) in C order.

        Parameters
        ----------
        sample : int, optional
            Number of a sample. Default: all, one after the other.
        """
        if self.has_samples and sample is None:
            for number in range(self.array.sizes["sample"]):
                yield from self.slabs(number)
            return
        place = {} if sample is None else {"sample": sample}
        n, axis = self.shape[-1], self.has_samples + len(self.shape) - 1
        thickness = max(1, SLAB_BYTES * n // max(1, self.array[0].nbytes if self.has_samples else self.array.nbytes))
        if self.array.chunks is not None:
            # Slabs are several chunks thick, or equal parts of a chunk, so that few chunks are read twice.
            chunk = max(self.array.chunks[axis])
            n_parts = -(-chunk // thickness)
            thickness = thickness - thickness % chunk if n_parts == 1 else -(-chunk // n_parts)
        for first in range(0, n, thickness):
            part = self.array.isel(place | {self.array.dims[axis]: slice(first, first + thickness)})
            yield _turned(to_numpy(part), len(self.shape)).astype(self.dtype, copy=False)


def _turned(values: Array, n_spatial: int) -> Array:
    """Turn (x, y(, z)(, component)) into (z, y, x(, component)) in C order, piece by piece, which is faster."""
    order = (*range(n_spatial)[::-1], *range(n_spatial, values.ndim))
    out = np.empty([values.shape[axis] for axis in order], values.dtype)
    for first in np.ndindex(*(-(-n // PIECE) for n in values.shape[: min(n_spatial, 2)])):
        piece = tuple(slice(number * PIECE, (number + 1) * PIECE) for number in first)
        where = (slice(None),) * (n_spatial - len(piece)) + piece[::-1]
        out[where] = values[piece].transpose(order)
    return out


def _selected(array: xr.DataArray, dim: str, wanted: Any) -> xr.DataArray:
    """Keep one label, or one number, along an axis."""
    if dim not in array.dims:
        msg = f"select names the axis {dim!r}, and {array.name or 'the array'} has the axes {array.dims}"
        raise ValueError(msg)
    labels = list(_labels(array, dim))
    if str(wanted) in labels:
        return array.isel({dim: labels.index(str(wanted))})
    is_number = isinstance(wanted, int | np.integer) or (isinstance(wanted, str) and wanted.isdigit())
    if not is_number or not 0 <= int(wanted) < array.sizes[dim]:
        some = ", ".join(labels[:12]) + (", …" if len(labels) > 12 else "")
        msg = f"select: there is no {wanted!r} along {dim!r}; there are {some}"
        raise ValueError(msg)
    return array.isel({dim: int(wanted)})


def _labels(array: xr.DataArray, dim: str) -> tuple[str, ...]:
    """Names of what lies along an axis: labels, or numbers."""
    if dim in array.coords and array.coords[dim].ndim == 1:
        return tuple(map(str, array.coords[dim].to_numpy()))
    return tuple(map(str, range(array.sizes[dim])))


def _along(array: xr.DataArray, dim: str) -> tuple[float, float, str | None]:
    """Read the step, the first coordinate and the unit along an axis."""
    if dim not in array.coords or array.coords[dim].ndim != 1:
        return 1.0, 0.0, None
    places = array.coords[dim]
    step = float(places.attrs.get("spacing", 1.0))
    if places.size > 1:
        step = float(places[-1] - places[0]) / (places.size - 1)
    unit = str(places.attrs.get("units", ""))
    return step, float(places[0]) + _shift(array, dim), unit if unit in METRES else None


def _shift(array: xr.DataArray, dim: str) -> float:
    """Read where coordinate 0 lies in the space of the file from which a volume was imported."""
    origin = dict(zip(SPATIAL_DIMS, np.atleast_1d(array.attrs.get("origin", [])), strict=False))
    return float(origin.get(dim, 0.0))
