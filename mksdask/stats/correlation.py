"""2-point statistics of ensembles: f[h, h'; r] of each sample."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import DTypeLike

from mksdask.arrays import ArrayLike, precision_argument, unwrap
from mksdask.bases.base import Basis
from mksdask.bases.given import local_states
from mksdask.compute.blocks import map_samples
from mksdask.compute.operation import Limit, Operation, Plan, SampleWork, chunk_layout, fft_operations, operation
from mksdask.samples import Samples
from mksdask.stats.kernel import CorrelationKernel
from mksdask.stats.lags import LagTransform
from mksdask.stats.pairs import Pairs, indices_of, lag_labels, resolve_pairs


@dataclass(frozen=True)
class Correlation(Operation[Any]):
    """The 2-point statistics of samples.

    Parameters
    ----------
    samples : Samples
        What they are statistics of.
    pairs : tuple of (int, int)
        Pairs of state labels.
    kernel : CorrelationKernel
        Computes a block.
    copies : int
        Copies of the result that a step makes which dask fuses with this one.
    """

    samples: Samples
    pairs: tuple[tuple[int, int], ...]
    kernel: CorrelationKernel
    copies: int = 0

    @classmethod
    def of(
        cls,
        samples: Samples,
        correlations: Pairs | None,
        cutoff: int | Sequence[int] | None,
        dtype: DTypeLike,
        *,
        copies: int = 0,
    ) -> Correlation:
        """Check the options; the errors are those of `correlate`."""
        basis, grid = samples.basis, samples.grid
        pairs, precision = resolve_pairs(correlations, basis), precision_argument(dtype)
        is_real = basis.result_dtype(precision).kind != "c"
        transform = LagTransform.plan(grid.shape, grid.periodic, cutoff, real=is_real)
        kernel = CorrelationKernel(basis, transform, indices_of(pairs, basis), precision)
        return cls(samples, pairs, kernel, copies)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the statistics of one sample, (*lags, n_pairs)."""
        return (*self.kernel.transform.shape, len(self.pairs))

    @property
    def work(self) -> SampleWork:
        """What the tasks need."""
        kernel, samples = self.kernel, self.samples
        n_transforms = len({state for pair in kernel.pairs for state in pair}) + len(kernel.pairs)
        result_bytes, is_masked = kernel.sample_bytes, samples.confidence is not None

        def task_bytes(n: int) -> int:
            return kernel.task_bytes(n, is_masked=is_masked) + self.copies * n * result_bytes

        return SampleWork(
            "statistics",
            samples.sample_bytes,
            task_bytes,
            result_bytes,
            n_transforms * fft_operations(kernel.transform.lengths, real=kernel.transform.real),
            "take fewer lags, pairs or states, or smaller samples",
        )

    def plan(self, limit: Limit) -> Plan:
        """One task for each chunk of samples."""
        data, transform = self.samples.data, self.kernel.transform
        stage = self.work.stage(data, limit)
        layout = chunk_layout(data, stage) | {"lags": transform.shape, "transform": transform.lengths}
        return Plan("correlate", layout, (stage,), limit)

    def compute(self) -> Any:
        """The statistics without labels, (n_samples, *lags, n_pairs); lazy for lazy samples."""
        samples = self.samples
        return map_samples(
            self.kernel,
            self.work.fitting(samples.data),
            samples.masks,
            tail=self.shape,
            dtype=self.kernel.result_dtype,
            name="correlate",
            shared=(samples.confidence,) if samples.has_shared_mask else (),
        )

    def run(self) -> Any:
        """The statistics, labelled as the samples are."""
        samples = self.samples
        dims, coords = lag_labels(samples.grid, self.kernel.transform.lags, self.pairs, samples.basis)
        return samples.label(self.compute(), dims=dims, coords=coords, name="two_point_statistics", attrs=samples.attrs)


@operation
def correlate(
    X: ArrayLike,
    basis: Basis | None,
    *,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    correlations: Pairs | None = None,
    cutoff: int | Sequence[int] | None = None,
    dtype: DTypeLike = "float32",
) -> Operation[Any]:
    r"""2-point statistics of each sample.

    .. math:: f[h, h'; r] = \frac{1}{\Omega[r]} \sum_s m^*[h; s]\, m[h'; s + r]

    Parameters
    ----------
    X : array, shape (n_samples, *spatial)
        Local state of each voxel, 1 to 3 spatial axes; NumPy, dask, zarr or xarray. With ``basis=None``, the
        microstructure function itself, (n_samples, *spatial, n_states).
    basis : Basis or None
        Basis of the local state.
    periodic_axes : sequence of int, optional
        Spatial axes that are periodic. Default: what a DataArray's ``periodic_axes`` attribute says, else none.
    confidence_index : array, shape (n_samples, *spatial) or (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel: m is weighted by c, and ``Ω[r] = Σ_s c[s] c[s + r]``. A lag that no
        pair of voxels observes is NaN. Where c is 0, X may hold anything, NaN too.
    correlations : list of (int, int), optional
        Pairs (h, h') of state labels. Default (0, 0), (0, 1), …, (0, n - 1), which determine all others of a primitive
        basis on a periodic domain. Where the first state is constant, as of the other bases, these are means, and the
        autocorrelations (1, 1), …, (n - 1, n - 1) follow.
    cutoff : int or sequence of int, optional
        Largest lag along each axis; lags then run from -cutoff to cutoff. Default -(n//2) to (n - 1)//2.
    dtype : {"float32", "float64"}
        Precision of transforms and result. The rounding error is about ``1e-6 · max(1, Ω[0]/Ω[r])`` in float32.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, *lags, n_pairs)
        Lag 0 is at index n//2 of each axis, or at `cutoff`. Complex for complex bases. A DataArray has dims
        ``lag_x``, … in the units of `X`, and ``pair``, such as "0,1" or, of named phases, "pore–grain", with
        ``state_1`` and ``state_2``.

    Raises
    ------
    ValueError
        If an axis, pair or cutoff does not exist, if a chunk cuts through samples, or, when the block is
        computed, if values are NaN or outside the domain.

    Notes
    -----
    Lazy for lazy input: one task a chunk, which needs its result and ``n_states + 6`` transforms of one sample beyond
    its input; a chunk that would not fit into a worker is cut, see `mksdask.plan`. Axes that are not periodic are
    padded to n + (largest lag) only, and rows of padding are not transformed.

    References
    ----------
    Cecen, A., Fast, T., Kalidindi, S. R. Versatile algorithms for the computation of 2-point spatial
    correlations in quantifying material structure. Integr. Mater. Manuf. Innov. 5 (2016) 1.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> X = np.array([[0, 0, 1, 1]])
    >>> f = correlate(X, PrimitiveBasis(2), periodic_axes=[0], correlations=[(0, 0)])
    >>> f[0, :, 0].tolist()  # lags -2, -1, 0, 1
    [0.0, 0.25, 0.5, 0.25]
    """
    samples = Samples.of(X, basis, confidence_index=confidence_index, periodic_axes=periodic_axes)
    return Correlation.of(samples, correlations, cutoff, dtype)


def autocorrelate(X: ArrayLike, basis: Basis | None, *, correlations: Pairs | None = None, **options: Any) -> Any:
    """Autocorrelations f[h, h; r] of each sample; see `correlate` for the options, shapes and errors.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial)
        Local state of each voxel.
    basis : Basis or None
        Basis of the local state.
    correlations : list of (int, int), optional
        Pairs (h, h). Default: those of all states.
    **options
        `periodic_axes`, `confidence_index`, `cutoff` and `dtype` of `correlate`.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, *lags, n_pairs)

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> autocorrelate(np.array([[0, 0, 1, 1]]), PrimitiveBasis(2), periodic_axes=0)[0, 2].tolist()
    [0.5, 0.5]
    """
    states = local_states(basis, unwrap(X)[0]).states
    pairs = [(h, h) for h in states] if correlations is None else correlations
    if any(a != b for a, b in pairs):
        msg = f"autocorrelate takes pairs (h, h), got {pairs!r}; use correlate or crosscorrelate"
        raise ValueError(msg)
    return correlate(X, basis, correlations=pairs, **options)


def crosscorrelate(X: ArrayLike, basis: Basis | None, *, correlations: Pairs | None = None, **options: Any) -> Any:
    """Cross-correlations f[h, h'; r], h ≠ h', of each sample; see `correlate` for the options, shapes and errors.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial)
        Local state of each voxel.
    basis : Basis or None
        Basis of the local state.
    correlations : list of (int, int), optional
        Pairs (h, h'). Default: all with h before h'.
    **options
        `periodic_axes`, `confidence_index`, `cutoff` and `dtype` of `correlate`.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, *lags, n_pairs)

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> crosscorrelate(np.array([[0, 0, 1, 1]]), PrimitiveBasis(2), periodic_axes=0)[0, :, 0].tolist()
    [0.5, 0.25, 0.0, 0.25]
    """
    states = local_states(basis, unwrap(X)[0]).states
    pairs = list(itertools.combinations(states, 2)) if correlations is None else correlations
    if any(a == b for a, b in pairs):
        msg = f"crosscorrelate takes pairs of different states, got {pairs!r}; use correlate or autocorrelate"
        raise ValueError(msg)
    if not pairs:
        msg = f"crosscorrelate needs two local states, the basis has {len(states)}"
        raise ValueError(msg)
    return correlate(X, basis, correlations=pairs, **options)
