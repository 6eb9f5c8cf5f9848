"""2-point statistics of one volume of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import DTypeLike

from mksdask.arrays import ArrayLike, precision_argument
from mksdask.bases.base import Basis
from mksdask.compute.operation import Operation, operation
from mksdask.compute.plans import Limit, Plan
from mksdask.compute.watching import Watch
from mksdask.samples import Volume
from mksdask.schema.arguments import checked
from mksdask.stats.all_lags import correlate_all_lags, plan_all_lags
from mksdask.stats.microstructure import VolumeCorrelation
from mksdask.stats.pairs import Pairs, resolve_pairs
from mksdask.stats.tile_sum import plan_tile_sum, sum_tiles
from mksdask.storage.atomic import Url


@dataclass(frozen=True)
class _VolumeStatistics(Operation[Any]):
    """The checked arguments of `correlate_volume`."""

    problem: VolumeCorrelation
    cutoff: int | Sequence[int] | None
    return_std: bool
    memory_limit: int | str | None
    scratch: Url | None
    watch: Watch

    def __post_init__(self) -> None:
        if self.cutoff is None and self.return_std:
            msg = "return_std needs a cutoff, because its replicates are tiles, and all lags use no tiles; pass cutoff="
            raise ValueError(msg)
        if self.cutoff is None and self.watch is not False:
            msg = "watch needs a cutoff, because without one no lag is known before the last pass ends; pass cutoff="
            raise ValueError(msg)

    def plan(self, limit: Limit) -> Plan:
        if self.cutoff is None:
            return plan_all_lags(self.problem, limit, scratch=self.scratch)
        return plan_tile_sum(self.problem, self.cutoff, limit, return_std=self.return_std, scratch=self.scratch)

    def run(self) -> Any:
        limit = Limit.of(self.memory_limit)
        if self.cutoff is None:
            return correlate_all_lags(self.problem, limit, scratch=self.scratch)
        return sum_tiles(
            self.problem, self.cutoff, limit, return_std=self.return_std, scratch=self.scratch, watch=self.watch
        )


@operation
@checked
def correlate_volume(
    volume: ArrayLike,
    basis: Basis | None,
    *,
    cutoff: int | Sequence[int] | None,
    correlations: Pairs | None = None,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    dtype: DTypeLike = "float32",
    return_std: bool = False,
    memory_limit: int | str | None = None,
    scratch: Url | None = None,
    watch: Watch = False,
) -> Operation[Any]:
    r"""Compute the 2-point statistics of one volume of any size, for lags up to a cutoff or for all lags.

    .. math:: f[h, h'; r] = \frac{1}{\Omega[r]} \sum_s m^*[h; s]\, m[h'; s + r]

    The result is exact. With a cutoff, the volume is cut into tiles. Each tile is read with a halo as wide as the
    cutoff, and the contributions of tiles are added in double precision. Without a cutoff, the volume is Fourier
    transformed out of core: first planes, then lines, and then back.

    Parameters
    ----------
    volume : array, shape (*spatial,)
        Local state of each voxel, with 1 to 3 axes and any chunks: NumPy, zarr, dask, or a variable of the Dataset that
        `open_volume` returns. With ``basis=None``, the microstructure function itself, (*spatial, n_states). A volume
        of orientations has one more axis, which holds the angles.
    basis : Basis or None
        Basis of the local state.
    cutoff : int, sequence of int, or None
        Largest lag along each axis. It may be up to n - 1, or (n - 1)//2 if the axis is periodic. None keeps all lags,
        -(n//2) … (n - 1)//2.
    correlations : list of (int, int), optional
        Pairs (h, h') of state labels. Default: as in `correlate`.
    periodic_axes : sequence of int, optional
        Numbers of the periodic axes. Default: those in the attribute ``periodic_axes`` of a DataArray, or none.
    confidence_index : array, shape (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel, as in `correlate`.
    dtype : {"float32", "float64"}
        Precision of the transforms. Sums are in double precision. For any number of tiles, the rounding error is about
        ``1e-6 · max(1, Ω[0]/Ω[r])`` in float32.
    return_std : bool, default False
        Return a standard error too.
    memory_limit : int or str, optional
        Bytes of a worker, such as "4GiB". Default: the memory of the workers of the cluster, or of this machine.
    scratch : str or path, optional
        A store that keeps the sums of runs of tiles, or for all lags the statistics themselves. With `scratch`, the
        call computes at once. If it is killed, the same call continues where the first one stopped; see
        `mksdask.storage.materialize`. You remove the store yourself. For all lags, spectra are kept beside it during
        the call, in ``{scratch}.planes`` and ``{scratch}.lines``, and a second call at the same time is refused.
        Without `scratch`, they are kept in the temporary folder of dask, which all workers must see.
    watch : bool, path or callable, default False
        With a cutoff: compute at once, and show the statistics of the first pair for the tiles that are done. True
        shows them in the cell of a notebook, or as a line in a terminal. A path such as "live.png" keeps a picture
        there. A function is called with a `mksdask.PartialResult`, about once a second. The result is in memory.

    Returns
    -------
    f : dask array or DataArray, shape (*lags, n_pairs)
        With a cutoff, the result is lazy and float64, or complex128 for complex bases, and lag 0 is at index `cutoff`.
        Without a cutoff it has `dtype`, or its complex counterpart, and lag 0 is at index n//2. It is then a lazy view
        of `scratch`, or in memory if there is no `scratch`. A DataArray has the dims ``lag_x``, …, in the units of the
        volume, and ``pair``.
    std : the same kind and shape
        Only with `return_std`: the standard error by the infinitesimal jackknife, with the runs of tiles as replicates.
        If runs are much larger than the features of the material, it is the error of the mean of the material.

    Raises
    ------
    ValueError
        If an axis, a pair or a cutoff does not exist; if no tile fits into `memory_limit` (the message names the
        smallest limit that would do); or if `return_std` or `watch` has no cutoff. When the result is computed: if a
        value is NaN or outside the domain.

    Notes
    -----
    With a cutoff, each voxel is read about ``(1 + 2 cutoff / tile)³`` times. A task adds up a run of tiles. There are
    at most 128 runs for any number of workers, so results for one limit of memory are equal to the last bit. If the
    volume is a zarr array, or a dask array that only views one or a box of one in chunks, each task reads its tiles
    itself. Any other dask array, such as a threshold of grey values, is cut in the graph, with one task for each tile,
    and parts that neighbouring tiles share stay in memory until they are used. It is better to write such a volume with
    `create_volume` first.

    For all lags, a voxel takes 8 bytes on disk for each state in float32, and then as much for each pair and lag that
    is kept. Complex statistics take twice as much. Axes that are not periodic are padded to one and a half times their
    length. With `confidence_index`, all numbers are in double precision. `mksdask.plan` shows the total.

    References
    ----------
    Cecen, A., Fast, T., Kalidindi, S. R. Versatile algorithms for the computation of 2-point spatial
    correlations in quantifying material structure. Integr. Mater. Manuf. Innov. 5 (2016) 1.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> volume = np.random.default_rng(0).integers(0, 2, (60, 50, 40))
    >>> f = correlate_volume(volume, PrimitiveBasis(2), cutoff=4, correlations=[(0, 0)])
    >>> f.shape
    (9, 9, 9, 1)
    >>> bool(np.isclose(f[4, 4, 4, 0].compute(), (volume == 0).mean()))
    True
    """
    found = Volume.of(volume, basis, confidence_index=confidence_index, periodic_axes=periodic_axes)
    problem = VolumeCorrelation(found, resolve_pairs(correlations, found.basis), precision_argument(dtype))
    return _VolumeStatistics(problem, cutoff, return_std, memory_limit, scratch, watch)
