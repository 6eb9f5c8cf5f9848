"""`.mks` on labelled microstructures and statistics: the functions of the package as methods of xarray."""

from __future__ import annotations

from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from mksdask import tools
from mksdask.bases import PrimitiveBasis
from mksdask.bases.base import Basis
from mksdask.stats import correlate, correlate_volume, integral_range, radial_average, specific_surface
from mksdask.windows import sample_windows


@xr.register_dataset_accessor("mks")
@xr.register_dataarray_accessor("mks")
class MKSAccessor:
    """``ds.mks`` of what `open_ensemble` and `open_volume` return, and ``.mks`` of its variables and statistics.

    Parameters
    ----------
    labelled : xarray.Dataset or xarray.DataArray
        A Dataset stands for its ``microstructure``, masked by its ``confidence_index`` where it has one.

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
                f"the Dataset holds {sorted(map(str, self._labelled.data_vars))}, no variable 'microstructure'; use "
                ".mks of one of its variables"
            )
            raise AttributeError(msg)
        return self._labelled["microstructure"]

    @property
    def basis(self) -> PrimitiveBasis:
        """A primitive basis with a state for each named phase; without names, for each phase number there is.

        Raises
        ------
        TypeError
            If the values are no phase numbers.
        """
        X = self._array()
        if X.dtype.kind not in "biu":
            msg = f"the microstructure holds {X.dtype}, not phase numbers; give a basis"
            raise TypeError(msg)
        return PrimitiveBasis(len(X.attrs.get("phases") or ()) or int(X.max()) + 1)

    def correlate(self, basis: Basis | None = None, **options: Any) -> xr.DataArray:
        """2-point statistics: `mksdask.stats.correlate` of an ensemble, `correlate_volume` of a volume.

        Parameters
        ----------
        basis : Basis, optional
            Default: `basis`.
        **options
            As these take them. A volume needs ``cutoff``.
        """
        X = self._array()
        if isinstance(self._labelled, xr.Dataset) and "confidence_index" in self._labelled:
            options.setdefault("confidence_index", self._labelled["confidence_index"])
        function = correlate if "sample" in X.dims else correlate_volume
        result: xr.DataArray = function(X, self.basis if basis is None else basis, **options)
        return result

    def sample_windows(self, **options: Any) -> xr.DataArray:
        """Windows of a volume; see `mksdask.sample_windows`.

        Parameters
        ----------
        **options
            ``size``, ``n`` and the others.
        """
        result: xr.DataArray = sample_windows(self._array(), **options)
        return result

    def radial_average(self, **options: Any) -> xr.DataArray:
        """Mean of statistics over all directions; see `mksdask.stats.radial_average`.

        Parameters
        ----------
        **options
            As there.
        """
        return radial_average(self._array(), **options)

    def specific_surface(self) -> xr.DataArray:
        """Interface area to the volume, of statistics; see `mksdask.stats.specific_surface`."""
        return specific_surface(self._array())

    def integral_range(self) -> xr.DataArray:
        """Volume of an independent piece, of statistics; see `mksdask.stats.integral_range`."""
        return integral_range(self._array())

    def plot(self, **options: Any) -> Figure:
        """Draw microstructures; of an ensemble the first four.

        Parameters
        ----------
        **options
            As `mksdask.tools.draw_microstructures` takes them.
        """
        X = self._array()
        X = X.isel(sample=slice(0, 4)) if "sample" in X.dims else X.expand_dims("sample")
        return tools.draw_microstructures(X, **options)

    def plot_correlations(self, **options: Any) -> Figure:
        """Draw statistics; of an ensemble their mean.

        Parameters
        ----------
        **options
            As `mksdask.tools.draw_correlations` takes them.
        """
        statistics = self._array()
        mean = statistics.mean("sample", keep_attrs=True) if "sample" in statistics.dims else statistics
        return tools.draw_correlations(mean, **options)
