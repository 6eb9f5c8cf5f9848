"""The accessor `.mks` of xarray: functions of the package as methods of labelled microstructures and statistics."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mksdask.arrays import SPATIAL_DIMS, Array, as_lazy, to_numpy
from mksdask.bases import PrimitiveBasis
from mksdask.bases.base import Basis
from mksdask.compute.graph import is_cheap
from mksdask.compute.plans import size_text
from mksdask.display.cards import card, centre_of, cut_of, picture, printed_unit, value_text
from mksdask.display.orientations import phase_ipf_colours
from mksdask.stats import correlate, correlate_volume, integral_range, radial_average, specific_surface
from mksdask.stats.windows import sample_windows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Attributes by which importers say where voxels came from.
ORIGIN = ("source", "format", "source_axes", "assumed")
# Data with larger values than this do not hold phase numbers.
MOST_PHASES = 256
# So many voxels are counted at once.
PIECE = 2**18
# A card shows at most so many samples or pairs.
MOST_DRAWN = 4


class MKSAccessor:
    """Functions of the package as methods ``.mks`` of labelled data.

    ``ds.mks`` works on the Datasets that `open_ensemble` and `open_volume` return, on their variables, and on
    statistics.

    Parameters
    ----------
    labelled : xarray.Dataset or xarray.DataArray
        Labelled data. A Dataset stands for its variable ``microstructure``, masked by its ``confidence_index`` if it
        has one.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from mksdask import create_volume, open_volume
    >>> url = tempfile.mkdtemp() + "/volume.zarr"
    >>> voxels = np.random.default_rng(0).integers(0, 2, size=(24, 24, 24), dtype="uint8")
    >>> create_volume(url, voxels, phases=("pore", "grain"), spacing=3, units="um")
    >>> S2 = open_volume(url).mks.correlate(cutoff=5)
    >>> S2.pair.values.tolist(), S2.lag_x.attrs["units"]
    (['pore–pore', 'pore–grain'], 'um')
    >>> round(float(S2.mks.specific_surface()[0]), 2)  # 1/um
    0.33
    """

    def __init__(self, labelled: xr.Dataset | xr.DataArray) -> None:
        self._labelled = labelled

    def _array(self) -> xr.DataArray:
        if isinstance(self._labelled, xr.DataArray):
            return self._labelled
        if "microstructure" not in self._labelled:
            msg = (
                f"the Dataset holds {sorted(map(str, self._labelled.data_vars))} but no variable 'microstructure'; use "
                ".mks of one of its variables"
            )
            raise AttributeError(msg)
        return self._labelled["microstructure"]

    def describe(self, *, fractions: bool = False) -> dict[str, Any]:
        """Describe microstructures or statistics: their kind, sizes, spacing and phases.

        Parameters
        ----------
        fractions : bool, default False
            Include the volume fractions of the phases. This reads all voxels.

        Returns
        -------
        dict of str to object
            Names and values, as `mksdask info` prints them.
        """
        X = self._array()
        lags = [str(dim) for dim in X.dims if str(dim).startswith("lag_")]
        axes = lags or [str(dim) for dim in X.dims if dim in SPATIAL_DIMS]
        kind = "2-point statistics" if lags else "ensemble" if "sample" in X.dims else "volume"
        found: dict[str, Any] = {"kind": kind, "lags" if lags else "size": tuple(X.sizes[dim] for dim in axes)}
        if "sample" in X.dims:
            found["samples"] = X.sizes["sample"]
        if "pair" in X.coords:
            found["pairs"] = [str(pair) for pair in X["pair"].to_numpy()]
        steps = {dim: float(X[dim][1] - X[dim][0]) for dim in axes if X.sizes[dim] > 1 and dim in X.coords}
        units = {str(X[dim].attrs.get("units", "voxel")) for dim in steps}
        found |= {"spacing": steps, "units": ", ".join(sorted(units)) or "voxel", "dtype": str(X.dtype)}
        found["bytes"] = X.nbytes
        if X.chunks:
            found["chunk"] = tuple(max(sizes) for sizes in X.chunks)
        if X.attrs.get("periodic_axes"):
            found["periodic"] = [str(dim) for dim in X.attrs["periodic_axes"]]
        numbers = self._phase_numbers()
        field = X if numbers is None else numbers
        if names := field.attrs.get("phases"):
            found["phases"] = list(names)
        if not lags:
            found |= {key.replace("_", " "): X.attrs[key] for key in ORIGIN if X.attrs.get(key)}
        if isinstance(self._labelled, xr.Dataset):
            others = [str(name) for name in self._labelled.data_vars if name != "microstructure"]
            found |= {"also": others} if others else {}
        if fractions and field.size and field.dtype.kind in "biu":
            counts = _counts(as_lazy(field.data))
            if counts is None:
                found["values"] = f"labels or grey levels, of which some are not from 0 to {MOST_PHASES - 1}"
            else:
                # Phases without a name are included, so that the fractions sum to 1.
                labels = dict(enumerate(names or ()))
                found["fractions"] = {
                    str(labels.get(int(phase), phase)): counts[phase] / field.size for phase in np.flatnonzero(counts)
                }
        return found

    def _facts(self) -> dict[str, Any]:
        """Describe as `describe` does, with sizes and units as a reader expects them."""
        facts = self.describe()
        return facts | {"bytes": size_text(facts["bytes"]), "units": printed_unit(facts["units"])}

    def __repr__(self) -> str:
        facts = self._facts()
        width = max(map(len, facts))
        return "\n".join(f"{name:<{width}}  {value_text(value)}" for name, value in facts.items())

    def _repr_html_(self) -> str:
        facts = self._facts()
        pictures, X = self._pictures(), self._array()
        n, what = (X.sizes["pair"], "pairs") if "pair" in X.dims else (X.sizes.get("sample", 1), "samples")
        notes = [f"{len(pictures)} of {n:,} {what} are drawn."] if 0 < len(pictures) < n else []
        return card(f"{facts.pop('kind')}", facts, pictures, notes=notes)

    def _pictures(self) -> list[str]:
        """Draw some samples or pairs, unless they must be computed first: showing a card must not compute."""
        X = self._array()
        if not X.size or not is_cheap(X.data):
            return []
        is_ensemble, is_statistics = "sample" in X.dims, "pair" in X.dims
        n_spatial = sum(dim in SPATIAL_DIMS or str(dim).startswith("lag_") for dim in X.dims)
        numbers = self._phase_numbers()
        drawn = [("", X, numbers)]
        if is_ensemble:
            rows = np.unique(np.linspace(0, len(X) - 1, MOST_DRAWN).astype(int))
            drawn = [(f"sample {row}", X[row], None if numbers is None else numbers[row]) for row in rows]
        if is_statistics:
            first = drawn[0][1]
            pairs = first["pair"].to_numpy()[:MOST_DRAWN]
            drawn = [(str(pair), first[..., p], None) for p, pair in enumerate(pairs)]
        phases = X.attrs.get("phases") or ()
        found = []
        for caption, field, of_voxels in drawn:
            values = np.real(to_numpy(centre_of(field, n_spatial)))
            if X.dims[-1] == "angle":
                beside = None if of_voxels is None else to_numpy(centre_of(of_voxels, n_spatial))
                if beside is None and len(set(filter(None, self._laue_groups()))) > 1:
                    # Nothing tells which orientation is of which phase.
                    return []
                values = phase_ipf_colours(values, beside, self._laue_groups())
                values = values[:, None] if n_spatial == 1 else values
            if values.ndim <= 3 and n_spatial:
                largest = len(phases) - 1.0 if len(phases) > 1 and not is_statistics else None
                words = ", ".join(filter(None, (caption, cut_of(field, n_spatial))))
                found.append(picture(values, words, largest=largest))
        return found

    def _phase_numbers(self) -> xr.DataArray | None:
        """The phase of each voxel, if it stands beside orientations."""
        is_there = isinstance(self._labelled, xr.Dataset) and "phase" in self._labelled
        return self._labelled["phase"] if is_there and self._array().dims[-1:] == ("angle",) else None

    def _laue_groups(self) -> list[str]:
        """Laue group of each phase of orientations."""
        numbers = self._phase_numbers()
        stated = self._array().attrs.get("laue_groups", []) if numbers is None else numbers.attrs.get("laue_groups", [])
        return [str(group) for group in stated] or ["cubic"]

    @property
    def basis(self) -> PrimitiveBasis:
        """A primitive basis with a state for each named phase, or for each number up to the largest phase number.

        Raises
        ------
        TypeError
            If the values are not phase numbers.
        """
        X = self._array()
        if X.dtype.kind not in "biu":
            msg = f"the microstructure holds {X.dtype}, not phase numbers; give a basis"
            raise TypeError(msg)
        return PrimitiveBasis(len(X.attrs.get("phases") or ()) or int(X.max()) + 1)

    def correlate(self, basis: Basis | None = None, **options: Any) -> xr.DataArray:
        """Compute 2-point statistics: `mksdask.stats.correlate` of an ensemble, `correlate_volume` of a volume.

        Parameters
        ----------
        basis : Basis, optional
            Basis of the local state. Default: `MKSAccessor.basis`.
        **options
            Options of these functions. A volume needs ``cutoff``.

        Raises
        ------
        ValueError
            If no dim is ``sample``, ``x``, ``y`` or ``z``, so that nothing tells an ensemble from a volume.
        """
        X = self._array()
        if not {"sample", *SPATIAL_DIMS} & set(X.dims):
            msg = (
                f"the dims {X.dims} do not say whether this is an ensemble or a volume; name them 'sample', 'x', 'y', "
                "'z', such as with .rename(dim_0='sample')"
            )
            raise ValueError(msg)
        if isinstance(self._labelled, xr.Dataset) and "confidence_index" in self._labelled:
            options.setdefault("confidence_index", self._labelled["confidence_index"])
        function = correlate if "sample" in X.dims else correlate_volume
        result: xr.DataArray = function(X, self.basis if basis is None else basis, **options)
        return result

    def sample_windows(self, **options: Any) -> xr.DataArray:
        """Cut windows out of a volume. See `mksdask.sample_windows`.

        Parameters
        ----------
        **options
            Options of that function, such as ``size`` and ``n``.
        """
        result: xr.DataArray = sample_windows(self._array(), **options)
        return result

    def radial_average(self, **options: Any) -> xr.DataArray:
        """Average statistics over all directions. See `mksdask.stats.radial_average`.

        Parameters
        ----------
        **options
            Options of that function.
        """
        return radial_average(self._array(), **options)

    def specific_surface(self) -> xr.DataArray:
        """Compute the interface area per volume from statistics. See `mksdask.stats.specific_surface`."""
        return specific_surface(self._array())

    def integral_range(self) -> xr.DataArray:
        """Compute the volume of an independent piece from statistics. See `mksdask.stats.integral_range`."""
        return integral_range(self._array())

    def plot(self, **options: Any) -> Figure:
        """Draw microstructures. Of an ensemble, the first four samples are drawn.

        Parameters
        ----------
        **options
            Options of `mksdask.tools.draw_microstructures`.
        """
        X, numbers = self._array(), self._phase_numbers()
        if X.dims[-1:] == ("angle",):
            options = {"laue_groups": self._laue_groups(), "phase": numbers} | options
        if "sample" not in X.dims:
            X = X.expand_dims("sample")
            options.setdefault("labels", [str(X.name or "volume")])
        if options.get("phase") is numbers is not None:
            options["phase"] = numbers[:4] if "sample" in numbers.dims else numbers.expand_dims("sample")
        X = X.isel(sample=slice(0, 4))
        return _drawing().draw_microstructures(X, **options)

    def plot_correlations(self, **options: Any) -> Figure:
        """Draw statistics. Of an ensemble, their mean is drawn.

        Parameters
        ----------
        **options
            Options of `mksdask.tools.draw_correlations`.
        """
        statistics = self._array()
        mean = statistics.mean("sample", keep_attrs=True) if "sample" in statistics.dims else statistics
        return _drawing().draw_correlations(mean, **options)


def _counts(data: Any) -> NDArray[np.int64] | None:
    """Count the voxels of each phase. Return None if some values are not phase numbers."""
    parts = data.map_blocks(
        _counts_of_block,
        chunks=(*((1,) * n for n in data.numblocks), (MOST_PHASES + 1,)),
        new_axis=data.ndim,
        dtype=np.int64,
        meta=np.empty((0,) * (data.ndim + 1), dtype=np.int64),
    )
    counts = to_numpy(parts.sum(axis=tuple(range(data.ndim)), split_every=4))
    return None if counts[-1] else counts[:-1]


def _counts_of_block(block: Array) -> NDArray[np.int64]:
    counts = np.zeros(MOST_PHASES + 1, dtype=np.int64)
    flat = block.reshape(-1)
    for start in range(0, flat.size, PIECE):
        values = flat[start : start + PIECE].astype(np.int64)
        # Values that are not phase numbers are counted in the last place.
        values[(values < 0) | (values >= MOST_PHASES)] = MOST_PHASES
        counts += np.bincount(values, minlength=MOST_PHASES + 1)
    return counts.reshape(*(1,) * block.ndim, -1)


def _drawing() -> Any:
    # Each worker imports this module with the package. Matplotlib would take tens of megabytes there for nothing.
    return import_module("mksdask.tools")
