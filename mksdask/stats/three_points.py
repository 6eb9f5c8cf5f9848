"""3-point statistics of each sample of an ensemble, for chosen offsets of the third point.

The product of the first state and of the third state shifted by an offset is one more field. Its correlation with the
second state is a product in Fourier space, as for 2-point statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from mksdask.arrays import Array, ArrayLike, is_lazy, names, precision_argument, shown
from mksdask.bases.base import Basis
from mksdask.compute.operation import Operation, operation
from mksdask.compute.plans import Limit, Plan, SampleWork, chunk_layout, fft_operations
from mksdask.samples import Grid, Samples, check_confidence
from mksdask.stats.lags import LagFFT

Triple = tuple[int, int, int]
NAME = "three_point_statistics"


def shifted(field: Array, offset: Sequence[int], periodic: Sequence[bool]) -> Array:
    """Return the field whose value at s is that of `field` at s + offset: (*spatial,). It is 0 beyond a side."""
    out = field
    for axis, (step, wraps) in enumerate(zip(offset, periodic, strict=True)):
        if not step:
            continue
        out = np.roll(out, -step, axis)
        if not wraps:
            lost = slice(-step, None) if step > 0 else slice(0, -step)
            out[(slice(None),) * axis + (lost,)] = 0
    return out


@dataclass(frozen=True)
class ThreePointKernel:
    """The kernel of one block of samples.

    Parameters
    ----------
    basis : Basis
        Basis of the local state.
    transform : LagFFT
        Transform of samples to their lags.
    offsets : tuple of tuple of int
        Offsets r' of the third point, in voxels.
    triples : tuple of (int, int, int)
        Triples of positions of states in the basis.
    dtype : dtype
        float32 or float64.
    """

    basis: Basis
    transform: LagFFT
    offsets: tuple[tuple[int, ...], ...]
    triples: tuple[Triple, ...]
    dtype: np.dtype[Any]

    @property
    def tail(self) -> tuple[int, ...]:
        """Shape of the statistics of one sample, (*lags, n_offsets, n_triples)."""
        return (*self.transform.shape, len(self.offsets), len(self.triples))

    @property
    def result_dtype(self) -> np.dtype[Any]:
        """The dtype of the statistics."""
        return self.dtype if self.transform.real else np.result_type(self.dtype, np.complex64)

    @property
    def n_transforms(self) -> int:
        """Number of Fourier transforms of a sample."""
        n_products = len({(a, c) for a, _, c in self.triples}) + len(self.triples)
        return len(self.offsets) * n_products + len({b for _, b, _ in self.triples})

    def __call__(self, block: Array, confidence: Array | None = None, shared: Array | None = None) -> Array:
        """Compute the statistics of a block: (n, *spatial) → (n, *lags, n_offsets, n_triples)."""
        out = np.empty((len(block), *self.tail), dtype=self.result_dtype)
        states = sorted({state for triple in self.triples for state in triple})
        weights = None
        for number, sample in enumerate(block):
            mask = shared if confidence is None else confidence[number]
            if weights is None or confidence is not None:
                weights = self._weights(mask)
            given = None if mask is None else mask[None].astype(self.dtype, copy=False)
            fields = dict(zip(states, self.basis.weighted_fields(sample[None], given, states, self.dtype), strict=True))
            whole = {state: field[0] for state, field in fields.items()}
            self.correlate(whole, whole, weights, out[number])
        return out

    def correlate(
        self, firsts: dict[int, Array], fields: dict[int, Array], weights: Sequence[Array | float], out: Array
    ) -> None:
        """Write the statistics of one sample, (*lags, n_offsets, n_triples), where s runs over `firsts`."""
        spectra = {b: self.transform.forward(fields[b][None]) for b in {triple[1] for triple in self.triples}}
        for number, offset in enumerate(self.offsets):
            for first, third in sorted({(a, c) for a, _, c in self.triples}):
                product = firsts[first] * shifted(fields[third], offset, self.transform.periodic).conj()
                of_product = self.transform.forward(product[None]).conj()
                for position, (a, second, c) in enumerate(self.triples):
                    if (a, c) == (first, third):
                        target = out[None, ..., number, position]
                        self.transform.inverse(of_product * spectra[second], target, weights[number])

    def _weights(self, mask: Array | None) -> list[Array]:
        """Compute 1/Ω[r, r'] for each offset r'. It is NaN where no three voxels are observed."""
        if mask is not None:
            check_confidence(mask)
        found = []
        for offset in self.offsets:
            omega = self.counts(offset)
            if mask is not None:
                known, observed = self.confident(mask, mask, offset)
                omega = np.where(observed > 0, known, 0.0)
            with np.errstate(divide="ignore"):
                found.append(np.where(omega > 0, 1.0 / omega, np.nan).astype(self.dtype))
        return found

    def counts(self, offset: Sequence[int]) -> Array:
        """Count the voxels s for which s, s + r and s + r' all lie in the sample, at each lag r."""
        counts = np.ones((1,) * len(offset))
        transform = self.transform
        for axis, (step, n, wraps, lags) in enumerate(
            zip(offset, transform.spatial, transform.periodic, transform.lags, strict=True)
        ):
            low, high = np.maximum(np.maximum(-lags, 0), -step), np.minimum(np.minimum(n - lags, n), n - step)
            along = np.full(len(lags), n) if wraps else np.maximum(high - low, 0)
            counts = counts * along.astype(float).reshape([-1 if a == axis else 1 for a in range(len(offset))])
        return counts

    def confident(self, first: Array, mask: Array, offset: Sequence[int]) -> tuple[Array, Array]:
        """Compute Ω[r, r'] = Σ_s c[s] c[s + r] c[s + r'] in float64, and the number of observed voxels s.

        The part `first` of the mask holds c[s].
        """
        transform = LagFFT(self.transform.spatial, self.transform.periodic, self.transform.reach, real=True)

        def correlated(first: Array, weights: Array) -> Array:
            product = first * shifted(weights, offset, transform.periodic)
            out = np.empty((1, *transform.shape))
            spectra = transform.forward(product[None]).conj() * transform.forward(weights[None])
            transform.inverse(spectra, out, 1.0)
            return out[0]

        observed = np.rint(correlated((first > 0).astype(np.float64), (mask > 0).astype(np.float64)))
        return correlated(first.astype(np.float64), mask.astype(np.float64)), observed

    def task_bytes(self, n_samples: int, *, is_masked: bool) -> int:
        """Peak bytes of a task beyond its input: its result, and the work arrays of one sample."""
        result = n_samples * int(np.prod(self.tail)) * self.result_dtype.itemsize
        *leading, last = self.transform.lengths
        frequencies = int(np.prod(leading)) * (last // 2 + 1 if self.transform.real else last)
        n_states = len({state for triple in self.triples for state in triple})
        n_voxels, n_lags = int(np.prod(self.transform.spatial)), int(np.prod(self.transform.shape))
        work = (n_states + 5) * frequencies * 2 * self.dtype.itemsize
        work += (n_states + 3) * n_voxels * self.result_dtype.itemsize
        work += n_lags * (len(self.offsets) * self.dtype.itemsize + 24)
        if is_masked:
            work += 16 * 4 * frequencies
        return result + work + self.basis.work_bytes(n_voxels, n_states, self.dtype)


@dataclass(frozen=True)
class _ThreePoints(Operation[Any]):
    """The checked arguments of `correlate3`."""

    samples: Samples
    triples: tuple[Triple, ...]
    kernel: ThreePointKernel

    @property
    def work(self) -> SampleWork:
        kernel, is_masked = self.kernel, self.samples.confidence is not None
        return SampleWork(
            "3-point statistics",
            self.samples.sample_bytes,
            lambda n: kernel.task_bytes(n, is_masked=is_masked),
            int(np.prod(kernel.tail)) * kernel.result_dtype.itemsize,
            kernel.n_transforms * fft_operations(kernel.transform.lengths, real=kernel.transform.real),
            "take fewer offsets, lags or triples, or smaller samples",
        )

    def plan(self, limit: Limit) -> Plan:
        data, transform = self.samples.data, self.kernel.transform
        stage = self.work.stage(data, limit)
        layout = chunk_layout(data, stage) | {"lags": transform.shape, "offsets": len(self.kernel.offsets)}
        return Plan("correlate3", layout, (stage,), limit)

    def run(self) -> Any:
        samples, kernel = self.samples, self.kernel
        found = samples.mapped(kernel, tail=kernel.tail, dtype=kernel.result_dtype, name="correlate3", work=self.work)
        dims, coords = labels_of(samples.grid, kernel.transform, kernel.offsets, self.triples)
        return samples.label(found, dims=dims, coords=coords, name=NAME, attrs=samples.attrs)


def labels_of(
    grid: Grid, transform: LagFFT, offsets: Sequence[Sequence[int]], triples: Sequence[Triple]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Make the dims and coordinates of statistics: lags and offsets in the units of the grid, and names of triples."""
    coords: dict[str, Any] = grid.lags(transform.lags)
    dims = (*coords, "offset", "triple")
    for axis, steps in zip(grid.axes, np.array(offsets).T, strict=True):
        coords[f"offset_{axis.name}"] = ("offset", steps * axis.step, {"units": axis.units})
    coords["triple"] = names([",".join(map(str, triple)) for triple in triples])
    return dims, coords


def _rows(value: Any, width: int) -> Array | None:
    """Make an array of rows of a width, (n, width), or return None if the value holds something else."""
    try:
        found = np.asarray(None if is_lazy(value) else value)
    except (TypeError, ValueError):
        return None
    return found if found.ndim == 2 and found.shape[1] == width and len(found) else None


def _offsets_argument(offsets: Any, transform: LagFFT) -> tuple[tuple[int, ...], ...]:
    n = len(transform.spatial)
    given = _rows(offsets, n)
    if given is None or given.dtype.kind not in "iu":
        msg = f"offsets must be vectors of {n} integers, such as [{(2,) + (0,) * (n - 1)}], got {shown(offsets)}"
        raise ValueError(msg)
    if (np.abs(given) >= np.array(transform.spatial)).any():
        msg = (
            f"offsets must be shorter than samples of {transform.spatial} voxels along each axis, got {shown(offsets)}"
        )
        raise ValueError(msg)
    return tuple(tuple(map(int, offset)) for offset in given)


def _triples_argument(correlations: Any, basis: Basis) -> tuple[Triple, ...]:
    states = basis.states
    if correlations is None:
        return tuple((h, h, h) for h in states)
    triples = _rows(correlations, 3)
    if triples is None or not np.isin(triples, states).all():
        msg = f"correlations must be triples of local states out of {tuple(states)}, got {shown(correlations)}"
        raise ValueError(msg)
    return tuple((int(a), int(b), int(c)) for a, b, c in triples)


@operation
def correlate3(
    X: ArrayLike,
    basis: Basis | None,
    offsets: Sequence[Sequence[int]],
    *,
    size: Sequence[int] | None = None,
    periodic_axes: int | Sequence[int] | None = None,
    confidence_index: ArrayLike | None = None,
    correlations: Sequence[Triple] | None = None,
    cutoff: int | Sequence[int] | None = None,
    dtype: DTypeLike = "float32",
) -> Operation[Any]:
    r"""Compute 3-point statistics of each sample: how often three local states occur at the corners of a triangle.

    .. math:: f[h, h', h''; r, r'] = \frac{1}{\Omega[r, r']} \sum_s m^*[h; s]\, m[h'; s + r]\, m[h''; s + r']

    The corner r' takes the given offsets, and r takes all lags. Structures of equal 2-point statistics can differ in
    3-point statistics.

    Parameters
    ----------
    X, basis, size, periodic_axes, cutoff, dtype
        As in `correlate`.
    offsets : sequence of sequences of int
        Offsets r' of the third point, in voxels. Offsets of a few voxels along the axes are a good start.
    confidence_index : array, shape (n_samples, *spatial) or (*spatial,), optional
        Weight c[s] in [0, 1] of each voxel. m is multiplied by c, and ``Ω[r, r'] = Σ_s c[s] c[s + r] c[s + r']``.
    correlations : list of (int, int, int), optional
        Triples (h, h', h'') of state labels. Default: (h, h, h) for each state.

    Returns
    -------
    array of the kind of `X`, shape (n_samples, *lags, n_offsets, n_triples)
        Lag 0 is at index n//2 of each axis, or at index `cutoff`. Where no three voxels are observed, it is NaN. At the
        offset 0, it holds 2-point statistics. A DataArray has the dims ``lag_x``, …, ``offset`` and ``triple``, and the
        coordinates ``offset_x``, ….

    Raises
    ------
    ValueError
        As in `correlate`, or if an offset is longer than a sample, or a triple does not exist.

    Notes
    -----
    The result is lazy for lazy input, with one task for each chunk. For each offset, a sample takes a Fourier transform
    for each pair (h, h''), and one for each triple.

    References
    ----------
    Torquato, S. Random Heterogeneous Materials. Springer, 2002, section 2.1.
    Jiao, Y., Stillinger, F. H., Torquato, S. A superior descriptor of random textures and its predictive capacity. PNAS
    106 (2009) 17634, for structures that 2-point statistics do not tell apart.

    Examples
    --------
    >>> import numpy as np
    >>> from mksdask import PrimitiveBasis
    >>> X = np.array([[1, 1, 0, 1, 0, 0, 0]])
    >>> basis, options = PrimitiveBasis(2), {"size": (7,), "periodic_axes": [0], "correlations": [(1, 1, 1)]}
    >>> f = correlate3(X, basis, [[1]], **options)
    >>> (f[0, :, 0, 0] * 7).round().astype(int).tolist()  # the voxels 0, 1 and 3 make the lag 3
    [0, 0, 0, 1, 1, 0, 1]
    """
    samples = Samples.of(X, basis, size=size, confidence_index=confidence_index, periodic_axes=periodic_axes)
    kernel, triples = kernel_of(samples.grid, samples.basis, offsets, correlations, cutoff, dtype)
    return _ThreePoints(samples, triples, kernel)


def kernel_of(
    grid: Grid, basis: Basis, offsets: Any, correlations: Any, cutoff: Any, dtype: DTypeLike
) -> tuple[ThreePointKernel, tuple[Triple, ...]]:
    """Check arguments, and make the kernel of a whole sample, and triples of labels."""
    precision = precision_argument(dtype)
    transform = LagFFT.of(grid.shape, grid.periodic, cutoff, real=basis.result_dtype(precision).kind != "c")
    triples = _triples_argument(correlations, basis)
    positions = tuple(tuple(map(basis.states.index, triple)) for triple in triples)
    kernel = ThreePointKernel(basis, transform, _offsets_argument(offsets, transform), positions, precision)  # type: ignore[arg-type]
    return kernel, triples
