"""2-point statistics of one volume of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import DTypeLike

from mksdask.arrays import ArrayLike, precision_argument
from mksdask.bases.base import Basis
from mksdask.compute.operation import Limit, Operation, Plan, operation
from mksdask.compute.watching import Watch
from mksdask.samples import Volume
from mksdask.stats.all_lags import correlate_all_lags, plan_all_lags
from mksdask.stats.microstructure import VolumeCorrelation
from mksdask.stats.pairs import Pairs, resolve_pairs
from mksdask.stats.tile_sum import plan_tile_sum, sum_tiles
from mksdask.storage.atomic import Url


@dataclass(frozen=True)
class _VolumeStatistics(Operation[Any]):
    """The arguments of `correlate_volume`."""

    problem: VolumeCorrelation
    cutoff: int | Sequence[int] | None
    return_std: bool
    memory_limit: int | str | None
    scratch: Url | None
    watch: Watch

    def __post_init__(self) -> None:
        if self.cutoff is None and self.return_std:
            msg = "return_std needs a cutoff: its replicates are tiles, which all lags do without; pass cutoff="
            raise ValueError(msg)
        if self.cutoff is None and self.watch is not False:
            msg = "watch needs a cutoff: all lags are known when the last pass ends, and not in part; pass cutoff="
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
    r"""2-point statistics of one volume of any size, for lags up to a cutoff or for all.

    .. math:: f[h, h'; r] = \frac{1}{\Omega[r]} \sum_s m^*[h; s]\, m[h'; s + r]

    Exact. With a cutoff, the volume is cut into tiles, each is read with a halo of the cutoff, and what they contribute
    is added in double precision. Without one, it is transformed out of core: planes, then lines, then back.

    Parameters
    ----------
    volume : array, shape (*spatial,)
        Local state of each voxel, 1 to 3 axes, chunked however it is: NumPy, zarr, dask, or what `open_volume` gives.
        With ``basis=None`` the microstructure function itself, (*spatial, n_states); for orientations, their angles.
    basis : Basis or None
        Basis of the local state.
    cutoff : int, sequence of int, or None
        Largest lag along each axis, up to n - 1 on an axis that is not periodic and (n - 1)//2 on a periodic one. None
        for all lags, -(n//2) … (n - 1)//2.
    correlations : list of (int, int), optional
        Pairs (h, h') of state labels. Default as in `correlate`.
    periodic_axes : sequence of int, optional
        Axes that are periodic. Default: what a DataArray's ``periodic_axes`` attribute says, else none.
    confidence_index : array, shape (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel, as in `correlate`.
    dtype : {"float32", "float64"}
        Precision of the transforms; sums are in double precision. The rounding error is about
        ``1e-6 · max(1, Ω[0]/Ω[r])`` in float32, however many tiles there are.
    return_std : bool, default False
        Return a standard error too.
    memory_limit : int or str, optional
        Bytes of a worker, such as "4GiB". Default: what the cluster's workers have, or this machine.
    scratch : str or path, optional
        A store that keeps the sums of runs of tiles, or the statistics themselves if they are of all lags. They are
        computed at once then, and a call that was killed goes on with what is missing when it is made again; see
        `mksdask.storage.materialize`. It is yours to remove. For all lags, spectra stand beside it meanwhile, in
        ``{scratch}.planes`` and ``{scratch}.lines``; without it, in dask's temporary folder, which all workers must
        see.

    watch : bool, path or callable, default False
        With a cutoff: compute at once, and show the statistics of the first pair meanwhile, of the tiles that are done:
        True in the cell of a notebook, or a line in a terminal; in a picture such as "live.png"; or by calling a
        function with a `mksdask.PartialResult`, about once a second. The result is in memory then.

    Returns
    -------
    f : dask array or DataArray, shape (*lags, n_pairs)
        With a cutoff lazy and float64 (complex128 for complex bases); lag 0 is at index `cutoff`. Without one of
        `dtype` (or its complex counterpart), a lazy view of `scratch`, or in memory where that is not given; lag 0 is
        at index n//2. A DataArray has dims ``lag_x``, … in the units of the volume, and ``pair``.
    std : the same kind and shape
        With `return_std`: the infinitesimal jackknife over the runs of tiles as replicates. It is an error of the mean
        of the material where runs are much larger than its features.

    Raises
    ------
    ValueError
        If an axis, pair or cutoff does not exist, if nothing fits into `memory_limit` (with the limit that would do),
        if all lags are wanted with `return_std` or `watch`, or, when it is computed, if values are NaN or outside the
        domain.

    Notes
    -----
    With a cutoff, each voxel is read about ``(1 + 2 cutoff / tile)³`` times. A task adds up a run of tiles. There are
    at most 128 runs, whatever the workers, so that results are equal to the last bit from run to run. A zarr array, and
    a dask array that is one in chunks, are read by the tasks themselves. Any other dask array is cut in the graph, one
    task a tile, and what neighbouring tiles share is kept in memory meanwhile: better write it with `create_volume`
    first.

    For all lags, a voxel takes 8 bytes on disk for each state (float32, twice that where the statistics are complex),
    and then as much for each pair and kept lag; axes that are not periodic are padded to one and a half times their
    length. `mksdask.plan` says how much it is. With `confidence_index` all of it is in double precision.

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
