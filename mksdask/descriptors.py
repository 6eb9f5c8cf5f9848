"""Descriptors of the shape of phases, to use beside 2-point statistics: clusters, interfaces, junctions, diffusion."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike, is_lazy, names, unwrap
from mksdask.bases.primitive import PrimitiveBasis
from mksdask.compute.blocks import computed, fold_samples, map_samples
from mksdask.samples import Grid, Samples
from mksdask.schema.arguments import checked
from mksdask.simulation.conjugate_gradients import ConvergenceError
from mksdask.simulation.diffusion import diffusivity
from mksdask.stats.components import label_sample

# By this factor the residual of the diffusion is reduced, in at most so many iterations.
RESIDUAL = 1e-5
MOST_ITERATIONS = 10_000
# Labels, which are not phases, would make millions of pairs of phases.
MOST_PHASES = 1024
# Interface per volume over crossings per length of a line: area in 3D, length in 2D, points in 1D (Cauchy).
_PER_CROSSING = {1: 1.0, 2: np.pi / 2.0, 3: 2.0}


@dataclass(frozen=True)
class _Shape:
    """The kernel: a function that computes the descriptors of each sample of a block."""

    descriptors: tuple[str, ...]
    n_phases: int
    periodic: tuple[bool, ...]
    spacing: tuple[float, ...]

    def __call__(self, block: Array) -> Array:
        if block.size and (block.min() < 0 or block.max() >= self.n_phases or not np.array_equal(block, block.round())):
            msg = (
                f"X must hold phase numbers 0…{self.n_phases - 1}, got values from {block.min()} to {block.max()}; "
                "renumber the phases, or give n_phases"
            )
            raise ValueError(msg)
        rows = [
            np.concatenate([np.atleast_1d(DESCRIPTORS[name][0](self, sample)) for name in self.descriptors])
            for sample in block.astype(np.int64)
        ]
        return np.array(rows, dtype=np.float64).reshape(len(block), -1)

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        phases, axes = range(self.n_phases), "xyz"[: len(self.spacing)]
        return [column for name in self.descriptors for column in DESCRIPTORS[name][1](phases, axes)]

    def fractions(self, sample: Array) -> Array:
        return np.bincount(sample.ravel(), minlength=self.n_phases) / sample.size

    def clusters(self, sample: Array) -> Array:
        volume = sample.size * float(np.prod(self.spacing))
        return np.array([label_sample(sample == phase, self.periodic)[1] / volume for phase in range(self.n_phases)])

    def largest(self, sample: Array) -> Array:
        found = []
        for phase in range(self.n_phases):
            labels, n = label_sample(sample == phase, self.periodic)
            sizes = np.bincount(labels.ravel(), minlength=n + 1)[1:]
            found.append(sizes.max() / sizes.sum() if n else 0.0)
        return np.array(found)

    def interfaces(self, sample: Array) -> Array:
        pairs = list(itertools.combinations(range(self.n_phases), 2))
        crossings = np.zeros(len(pairs))
        for axis, (here, there) in enumerate(self._neighbours(sample)):
            low, high = np.minimum(here, there), np.maximum(here, there)
            counts = np.bincount((low * self.n_phases + high).ravel(), minlength=self.n_phases**2)
            shares = np.array([counts[a * self.n_phases + b] for a, b in pairs]) / max(1, here.size)
            crossings += shares / self.spacing[axis]
        return np.asarray(_PER_CROSSING[sample.ndim] * crossings / sample.ndim)

    def _neighbours(self, sample: Array) -> list[tuple[Array, Array]]:
        """List, for each axis, the voxels and their neighbours along the axis."""
        found = []
        for axis, is_periodic in enumerate(self.periodic):
            if is_periodic:
                found.append((sample, np.roll(sample, -1, axis)))
            else:
                n = sample.shape[axis]
                found.append((np.take(sample, range(n - 1), axis), np.take(sample, range(1, n), axis)))
        return found

    def junctions(self, sample: Array) -> float:
        """Compute the length of voxel edges at which three or more phases meet, per volume. In 2D, count points."""
        total, volume = 0.0, sample.size * float(np.prod(self.spacing))
        for a, b in itertools.combinations(range(sample.ndim), 2):
            corners = [sample]
            for axis in (a, b):
                n = sample.shape[axis]
                if self.periodic[axis]:
                    corners += [np.roll(corner, -1, axis) for corner in corners]
                else:
                    low, high = range(n - 1), range(1, n)
                    corners = [np.take(corner, part, axis) for corner in corners for part in (low, high)]
            around = np.sort(np.stack(corners), axis=0)
            kinds = 1 + np.count_nonzero(np.diff(around, axis=0), axis=0)
            lengths = [step for axis, step in enumerate(self.spacing) if axis not in (a, b)]
            total += np.count_nonzero(kinds >= 3) * float(np.prod(lengths))
        return total / volume

    def diffusivities(self, sample: Array) -> Array:
        return np.array(
            [self._diffusivity(sample == phase, axis) for phase in range(self.n_phases) for axis in range(sample.ndim)]
        )

    def _diffusivity(self, mask: Array, axis: int) -> float:
        """Compute D_eff/D of a phase from side to side, by finite volumes and conjugate gradients."""
        sideways = _Shape((), 2, tuple(p and i != axis for i, p in enumerate(self.periodic)), self.spacing)
        labels, _ = label_sample(mask, sideways.periodic)
        ends = [np.take(labels, side, axis=axis) for side in (0, -1)]
        through = np.intersect1d(ends[0], ends[1])
        mask = np.isin(labels, through[through > 0])
        if not mask.any():
            return 0.0
        # A voxel is no neighbour of itself.
        periodic = [p and n > 1 for p, n in zip(sideways.periodic, mask.shape, strict=True)]
        try:
            return diffusivity(
                mask,
                axis,
                spacing=self.spacing,
                periodic=periodic,
                tolerance=RESIDUAL,
                max_iterations=MOST_ITERATIONS,
            )
        except ConvergenceError as error:
            msg = f"diffusivity along {'xyz'[axis]} did not converge; leave 'diffusivity' out of descriptors. {error}"
            raise ConvergenceError(msg) from error


# The function of one sample, and the names of its columns for given phases and axes.
DESCRIPTORS: dict[str, tuple[Callable[[_Shape, Array], Any], Callable[[range, str], list[str]]]] = {
    "fraction": (_Shape.fractions, lambda phases, _: [f"fraction {phase}" for phase in phases]),
    "clusters": (_Shape.clusters, lambda phases, _: [f"clusters {phase}" for phase in phases]),
    "largest": (_Shape.largest, lambda phases, _: [f"largest cluster {phase}" for phase in phases]),
    "interface": (
        _Shape.interfaces,
        lambda phases, _: [f"interface {a}-{b}" for a, b in itertools.combinations(phases, 2)],
    ),
    "junctions": (_Shape.junctions, lambda *_: ["junctions"]),
    "diffusivity": (
        _Shape.diffusivities,
        lambda phases, axes: [f"diffusivity {axis} {phase}" for phase in phases for axis in axes],
    ),
}


class ShapeDescriptors(TransformerMixin, BaseEstimator):
    r"""Transformer that describes the shape of the phases of each sample by numbers.

    The result is lazy for lazy input, with one task for each chunk. The descriptors are:

    =============  ====================================================================================================
    fraction       Volume fraction of each phase.
    clusters       Number of connected components of each phase per volume. Connected voxels share a face.
    largest        Share of each phase that lies in its largest cluster, or 0 if the phase does not occur.
    interface      Area between each two phases per volume, from the crossings P of lines along the axes:
                   :math:`S_V = 2 \langle P \rangle` in 3D, :math:`\pi \langle P \rangle / 2` in 2D.
    junctions      Length of the lines at which three or more phases meet, per volume. In 2D, the number of such points.
    diffusivity    Effective over intrinsic diffusivity :math:`D_{eff}/D` through each phase alone, from side to side
                   along each axis. It is 0 if the phase does not percolate. The tortuosity factor of a phase is its
                   volume fraction divided by this value.
    =============  ====================================================================================================

    Parameters
    ----------
    n_phases : int, optional
        Number of phases. Default: the phases that a DataArray names, or those that `fit` sees.
    descriptors : sequence of str
        Some of the descriptors above. The columns follow this order. Default: all of them.
    periodic_axes : int or sequence of int, optional
        Axes along which samples are periodic. Default: the periodic axes that a DataArray names, or none.

    Attributes
    ----------
    n_phases_ : int
        Number of phases.
    n_features_out_ : int
        Number of columns of the result.

    Notes
    -----
    Lengths are in the units of a DataArray, or in voxels. Diffusion is computed by finite volumes. Two opposite sides
    have fixed concentrations, and nothing flows through the other sides unless they are periodic. The conjugate
    gradients are those of `mksdask.simulation`, with the empty box as their preconditioner. Diffusion costs far more
    than the rest: a fraction of a second for each phase and axis of 64³ voxels, a few seconds of 128³, and about 70
    bytes for each voxel. Clusters and interfaces take milliseconds.

    References
    ----------
    Cooper, S. J. et al. TauFactor: an open-source application for calculating tortuosity factors from tomographic
    data. SoftwareX 5 (2016) 203.

    Examples
    --------
    >>> import numpy as np
    >>> layers = np.zeros((1, 6, 6), dtype=int)
    >>> layers[:, :, 3:] = 1
    >>> shape = ShapeDescriptors(descriptors=["fraction", "diffusivity"]).fit(layers)
    >>> shape.get_feature_names_out().tolist()
    ['fraction 0', 'fraction 1', 'diffusivity x 0', 'diffusivity y 0', 'diffusivity x 1', 'diffusivity y 1']
    >>> shape.transform(layers).round(6).tolist()
    [[0.5, 0.5, 0.5, 0.0, 0.5, 0.0]]

    Use them beside statistics in one linkage:

    >>> from sklearn.pipeline import FeatureUnion, make_pipeline
    >>> from mksdask import MKSStructureAnalysis, PrimitiveBasis
    >>> from mksdask.regression import KernelRegressor
    >>> both = FeatureUnion([("statistics", MKSStructureAnalysis(PrimitiveBasis(2))), ("shape", ShapeDescriptors(2))])
    >>> linkage = make_pipeline(both, KernelRegressor())
    """

    def __init__(
        self,
        n_phases: int | None = None,
        *,
        descriptors: Sequence[str] = tuple(DESCRIPTORS),
        periodic_axes: int | Sequence[int] | None = None,
    ) -> None:
        self.n_phases = n_phases
        self.descriptors = descriptors
        self.periodic_axes = periodic_axes

    @checked
    def fit(self, X: ArrayLike, y: object = None, size: Sequence[int] | None = None) -> Self:
        """Find the number of phases and the size of the samples.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, n_voxels) with `size`
            Phase of each voxel. The voxels are read only if neither `n_phases` nor a DataArray says how many phases
            there are.
        y : None
            Ignored.
        size : tuple of int, optional
            Spatial shape of flat samples.

        Raises
        ------
        ValueError
            If a parameter is not valid.
        """
        samples = self._samples(X, size)
        strange = is_lazy(self.descriptors) or [name for name in self.descriptors if name not in DESCRIPTORS]
        if isinstance(self.descriptors, str) or strange or not len(self.descriptors):
            msg = f"descriptors must be some of {', '.join(DESCRIPTORS)}, got {self.descriptors!r}"
            raise ValueError(msg)
        wanted = self.n_phases
        if wanted is None:
            wanted = (
                len(samples.grid.phases)
                or int(computed(fold_samples(np.max, max, samples.data, name="largest-phase"))) + 1
            )
        if isinstance(wanted, bool) or not isinstance(wanted, int | np.integer) or wanted < 1:
            msg = f"n_phases must be a positive integer, got {self.n_phases!r}"
            raise ValueError(msg)
        if wanted > MOST_PHASES:
            msg = f"descriptors are of at most {MOST_PHASES} phases, got n_phases={wanted}; number the phases 0, 1, …"
            raise ValueError(msg)
        self.n_phases_, self.grid_ = int(wanted), samples.grid
        self.size_, self.periodic_axes_ = samples.spatial, samples.grid.periodic_axes
        self.n_features_out_ = len(self._kernel(samples.grid).names)
        return self

    def _samples(self, X: ArrayLike, size: Sequence[int] | None) -> Samples:
        """Samples of phase numbers."""
        return Samples.of(X, PrimitiveBasis(1), size=size, periodic_axes=self.periodic_axes)

    def _kernel(self, grid: Grid) -> _Shape:
        return _Shape(tuple(self.descriptors), self.n_phases_, self.grid_.periodic, grid.steps)

    @checked
    def transform(self, X: ArrayLike, size: Sequence[int] | None = None) -> Any:
        """Compute the descriptors of each sample.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, n_voxels)
            Phase of each voxel.
        size : tuple of int, optional
            Spatial shape of flat samples. Default: the shape in `fit`.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_features_out_)
            Descriptors, float64.

        Raises
        ------
        ValueError
            If X has another number of axes than in `fit`, or holds values that are not phase numbers.
        """
        check_is_fitted(self, "n_phases_")
        if size is None and unwrap(X)[0].ndim == 2 and len(self.size_) > 1:
            size = self.size_
        samples = self._samples(X, size)
        if len(samples.spatial) != len(self.size_):
            msg = f"X must have samples of {len(self.size_)} axes as in fit, got shape {tuple(samples.data.shape)}"
            raise ValueError(msg)
        samples.grid.check_phases(self.grid_)
        samples.grid.check_order(self.grid_.dims, "fit saw")
        kernel = self._kernel(samples.grid)
        found = map_samples(kernel, samples.data, tail=(self.n_features_out_,), dtype=np.float64, name="descriptors")
        return samples.label(
            found, dims=("descriptor",), coords={"descriptor": names(kernel.names)}, name="descriptors"
        )

    def get_feature_names_out(self, input_features: object = None) -> Array:
        """Return the names of the columns.

        Parameters
        ----------
        input_features : None
            Ignored.
        """
        check_is_fitted(self, "n_phases_")
        return np.array(self._kernel(self.grid_).names, dtype=object)
