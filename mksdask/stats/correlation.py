"""2-point statistics f[h, h'; r] of each sample of an ensemble."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import DTypeLike

from mksdask.arrays import ArrayLike, precision_argument
from mksdask.bases.base import Basis
from mksdask.compute.operation import Operation, operation
from mksdask.compute.plans import Limit, Plan, SampleWork, chunk_layout, fft_operations
from mksdask.samples import Samples
from mksdask.stats.kernel import CorrelationKernel
from mksdask.stats.lags import LagFFT
from mksdask.stats.pairs import Pairs, indices_of, lag_labels, resolve_pairs


@dataclass(frozen=True)
class Correlation(Operation[Any]):
    """The computation of the 2-point statistics of samples.

    Parameters
    ----------
    samples : Samples
        Samples whose statistics are computed.
    pairs : tuple of (int, int)
        Pairs of state labels.
    kernel : CorrelationKernel
        Kernel of one block of samples.
    copies : int
        Number of copies of the result that the next step makes, if dask fuses that step with this one.
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
        """Check the options. The errors are those of `correlate`."""
        basis, grid = samples.basis, samples.grid
        pairs, precision = resolve_pairs(correlations, basis), precision_argument(dtype)
        is_real = basis.result_dtype(precision).kind != "c"
        transform = LagFFT.of(grid.shape, grid.periodic, cutoff, real=is_real)
        kernel = CorrelationKernel(basis, transform, indices_of(pairs, basis), precision)
        return cls(samples, pairs, kernel, copies)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the statistics of one sample, (*lags, n_pairs)."""
        return (*self.kernel.transform.shape, len(self.pairs))

    @property
    def work(self) -> SampleWork:
        """Memory and operations of a task."""
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
        """Plan one task for each chunk of samples."""
        data, transform = self.samples.data, self.kernel.transform
        stage = self.work.stage(data, limit)
        layout = chunk_layout(data, stage) | {"lags": transform.shape, "FFT lengths": transform.lengths}
        return Plan("correlate", layout, (stage,), limit)

    def compute(self) -> Any:
        """Compute the statistics without labels, (n_samples, *lags, n_pairs), lazily for lazy samples."""
        dtype = self.kernel.result_dtype
        return self.samples.mapped(self.kernel, tail=self.shape, dtype=dtype, name="correlate", work=self.work)

    def run(self) -> Any:
        """Compute the statistics. They are labelled if the samples are."""
        samples = self.samples
        dims, coords = lag_labels(samples.grid, self.kernel.transform.lags, self.pairs, samples.basis)
        return samples.label(self.compute(), dims=dims, coords=coords, name="two_point_statistics", attrs=samples.attrs)


@operation
def correlate(
    X: ArrayLike,
    basis: Basis | None,
    *,
    size: Sequence[int] | None = None,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    correlations: Pairs | None = None,
    cutoff: int | Sequence[int] | None = None,
    dtype: DTypeLike = "float32",
) -> Operation[Any]:
    r"""Compute the 2-point statistics of each sample: how often two local states occur at a lag r from one another.

    .. math:: f[h, h'; r] = \frac{1}{\Omega[r]} \sum_s m^*[h; s]\, m[h'; s + r]

    For phases, f[h, h'; r] is the probability that a voxel has phase h and the voxel at lag r from it has phase h'.
    Ω[r] is the number of pairs of voxels at lag r.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial)
        Local state of each voxel, as NumPy, dask, zarr or xarray, with 1 to 3 spatial axes. With ``basis=None``, X
        holds the microstructure function m itself, of shape (n_samples, *spatial, n_states); see `GivenStates`.
    basis : Basis or None
        Basis of the local state.
    size : tuple of int, optional
        Spatial shape of a sample. It is required for flat samples (n_samples, n_voxels), and for samples with one axis,
        unless X is a DataArray with the dims ``sample`` and ``x``.
    periodic_axes : sequence of int, optional
        Numbers of the periodic spatial axes. Default: those in the attribute ``periodic_axes`` of a DataArray, or none.
    confidence_index : array, shape (n_samples, *spatial) or (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel. m is multiplied by c, and ``Ω[r] = Σ_s c[s] c[s + r]``. A lag that no
        pair of voxels observes is NaN. Where c is 0, X may hold any value, also NaN. If X and the masks of samples have
        labels of samples, they are paired by them.
    correlations : list of (int, int), optional
        Pairs (h, h') of state labels. Default: (0, 0), (0, 1), …, (0, n - 1). With a primitive basis on a periodic
        domain, these determine all others. If the first state is constant, as in the other bases, its pairs are only
        means, so the autocorrelations (1, 1), …, (n - 1, n - 1) are added.
    cutoff : int or sequence of int, optional
        Largest lag c along each axis. Lags then run from -c to c. Default: lags from -(n//2) to (n - 1)//2.
    dtype : {"float32", "float64"}
        Precision of transforms and result. The rounding error is about ``1e-6 · max(1, Ω[0]/Ω[r])`` in float32.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, *lags, n_pairs)
        Lag 0 is at index n//2 of each axis, or at index `cutoff`. The statistics are complex if the basis is. A
        DataArray has the dims ``lag_x``, …, in the units of `X`, and ``pair``. A pair has a name such as "0,1" or, if
        phases have names, "pore–grain". The coordinates ``state_1`` and ``state_2`` hold its states.

    Raises
    ------
    ValueError
        If an axis, a pair or a cutoff does not exist, a chunk cuts through samples, the shape of X can be read in
        several ways, or `confidence_index` has other samples than X. When a block is computed: if a value is NaN or
        outside the domain, or, with ``basis=None``, X is not m[h; s].

    Notes
    -----
    The result is lazy for lazy input, with one task for each chunk. Beyond its input, a task needs memory for its
    result and for ``n_states + 6`` transforms of one sample. A chunk that does not fit into a worker is cut;
    `mksdask.plan` shows how. Axes that are not periodic are padded only to n + (largest lag), and rows of padding are
    not transformed.

    References
    ----------
    Cecen, A., Fast, T., Kalidindi, S. R. Versatile algorithms for the computation of 2-point spatial
    correlations in quantifying material structure. Integr. Mater. Manuf. Innov. 5 (2016) 1.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> X = np.array([[0, 0, 1, 1]])
    >>> f = correlate(X, PrimitiveBasis(2), size=(4,), periodic_axes=[0], correlations=[(0, 0)])
    >>> f[0, :, 0].tolist()  # lags -2, -1, 0, 1
    [0.0, 0.25, 0.5, 0.25]
    """
    samples = Samples.of(X, basis, size=size, confidence_index=confidence_index, periodic_axes=periodic_axes)
    return Correlation.of(samples, correlations, cutoff, dtype)


def autocorrelate(X: ArrayLike, basis: Basis | None, *, correlations: Pairs | None = None, **options: Any) -> Any:
    """Compute the autocorrelations f[h, h; r] of each sample. Options, shapes and errors are those of `correlate`.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial)
        Local state of each voxel.
    basis : Basis or None
        Basis of the local state.
    correlations : list of (int, int), optional
        Pairs (h, h). Default: one for each state.
    **options
        `size`, `periodic_axes`, `confidence_index`, `cutoff` and `dtype` of `correlate`.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, *lags, n_pairs)

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> autocorrelate(np.array([[0, 0, 1, 1]]), PrimitiveBasis(2), size=(4,), periodic_axes=0)[0, 2].tolist()
    [0.5, 0.5]
    """
    known = Samples.of(X, basis, size=options.get("size")).basis
    pairs = resolve_pairs([(h, h) for h in known.states] if correlations is None else correlations, known)
    if any(a != b for a, b in pairs):
        msg = f"autocorrelate takes pairs (h, h), got {pairs!r}; use correlate or crosscorrelate"
        raise ValueError(msg)
    return correlate(X, basis, correlations=pairs, **options)


def crosscorrelate(X: ArrayLike, basis: Basis | None, *, correlations: Pairs | None = None, **options: Any) -> Any:
    """Compute the cross-correlations f[h, h'; r], h ≠ h', of each sample, with the options of `correlate`.

    Shapes and errors are those of `correlate` too.

    Parameters
    ----------
    X : array, shape (n_samples, *spatial)
        Local state of each voxel.
    basis : Basis or None
        Basis of the local state.
    correlations : list of (int, int), optional
        Pairs (h, h'). Default: all pairs with h before h'.
    **options
        `size`, `periodic_axes`, `confidence_index`, `cutoff` and `dtype` of `correlate`.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, *lags, n_pairs)

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> crosscorrelate(np.array([[0, 0, 1, 1]]), PrimitiveBasis(2), size=(4,), periodic_axes=0)[0, :, 0].tolist()
    [0.5, 0.25, 0.0, 0.25]
    """
    known = Samples.of(X, basis, size=options.get("size")).basis
    pairs = (*itertools.combinations(known.states, 2),) if correlations is None else resolve_pairs(correlations, known)
    if any(a == b for a, b in pairs):
        msg = f"crosscorrelate takes pairs of different states, got {pairs!r}; use correlate or autocorrelate"
        raise ValueError(msg)
    if not pairs:
        msg = f"crosscorrelate needs a basis with two local states or more, got one with {len(known.states)}"
        raise ValueError(msg)
    return correlate(X, basis, correlations=pairs, **options)
