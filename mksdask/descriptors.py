"""Shape of phases in numbers: clusters, interfaces, junctions, diffusion; a transformer beside 2-point statistics."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from mksdask.arrays import Array, ArrayLike, axes_argument, label, names, to_numpy, unwrap, unwrap_samples
from mksdask.compute.blocks import map_samples
from mksdask.samples import as_samples, periodic_axes_of, spacing_of

DESCRIPTORS = ("fraction", "clusters", "largest", "interface", "junctions", "diffusivity")
RESIDUAL = 1e-8
# Mean length of a projection: of lines to the area of an interface in 3D, of length in 2D, of points in 1D.
_PER_CROSSING = {1: 1.0, 2: np.pi / 2.0, 3: 2.0}


@dataclass(frozen=True)
class _Shape:
    """The kernel: descriptors of each sample of a block."""

    descriptors: tuple[str, ...]
    n_phases: int
    periodic: tuple[bool, ...]
    spacing: tuple[float, ...]

    def __call__(self, block: Array) -> Array:
        if block.size and (block.min() < 0 or block.max() >= self.n_phases or not np.array_equal(block, block.round())):
            msg = f"X must hold phase numbers 0…{self.n_phases - 1}, got values from {block.min()} to {block.max()}"
            raise ValueError(msg)
        rows = [
            np.concatenate([np.atleast_1d(METHODS[name](self, sample)) for name in self.descriptors])
            for sample in block.astype(np.int64)
        ]
        return np.array(rows, dtype=np.float64).reshape(len(block), -1)

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        phases, axes = range(self.n_phases), "xyz"[: len(self.spacing)]
        found = {
            "fraction": [f"fraction {phase}" for phase in phases],
            "clusters": [f"clusters {phase}" for phase in phases],
            "largest": [f"largest cluster {phase}" for phase in phases],
            "interface": [f"interface {a}-{b}" for a, b in itertools.combinations(phases, 2)],
            "junctions": ["junctions"],
            "diffusivity": [f"diffusivity {axis} {phase}" for phase in phases for axis in axes],
        }
        return [name for descriptor in self.descriptors for name in found[descriptor]]

    def fractions(self, sample: Array) -> Array:
        return np.bincount(sample.ravel(), minlength=self.n_phases) / sample.size

    def clusters(self, sample: Array) -> Array:
        volume = sample.size * float(np.prod(self.spacing))
        return np.array([self._labelled(sample == phase)[1] / volume for phase in range(self.n_phases)])

    def largest(self, sample: Array) -> Array:
        found = []
        for phase in range(self.n_phases):
            labels, n = self._labelled(sample == phase)
            sizes = np.bincount(labels.ravel(), minlength=n + 1)[1:]
            found.append(sizes.max() / sizes.sum() if n else 0.0)
        return np.array(found)

    def _labelled(self, mask: Array) -> tuple[Array, int]:
        """Clusters of voxels that share faces, across periodic sides too, numbered from 1."""
        labels, n = scipy.ndimage.label(mask)
        ends: list[Array] = []
        for axis in np.flatnonzero(self.periodic):
            first, last = np.take(labels, 0, axis=axis).ravel(), np.take(labels, -1, axis=axis).ravel()
            both = (first > 0) & (last > 0)
            ends.append(np.stack([first[both], last[both]]))
        if not n or not ends:
            return labels, n
        rows, columns = np.concatenate(ends, axis=1) - 1
        graph = scipy.sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n))
        n_joined, joined = scipy.sparse.csgraph.connected_components(graph, directed=False)
        return np.concatenate([[0], joined + 1])[labels], n_joined

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
        """Voxels and those beside them along each axis."""
        found = []
        for axis, is_periodic in enumerate(self.periodic):
            if is_periodic:
                found.append((sample, np.roll(sample, -1, axis)))
            else:
                n = sample.shape[axis]
                found.append((np.take(sample, range(n - 1), axis), np.take(sample, range(1, n), axis)))
        return found

    def junctions(self, sample: Array) -> float:
        """Edges of voxels around which three phases or more meet, their length to the volume; points in 2D."""
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
        """Effective over intrinsic diffusivity of a phase from side to side: finite volumes, conjugate gradients."""
        sideways = _Shape((), 2, tuple(p and i != axis for i, p in enumerate(self.periodic)), self.spacing)
        labels, _ = sideways._labelled(mask)
        ends = [np.take(labels, side, axis=axis) for side in (0, -1)]
        through = np.intersect1d(ends[0], ends[1])
        mask = np.isin(labels, through[through > 0])
        if not mask.any():
            return 0.0
        n, length = int(mask.sum()), mask.shape[axis]
        number = np.full(mask.shape, -1)
        number[mask] = np.arange(n)
        diagonal, rows, columns, values = np.zeros(n), [], [], []
        for along, (here, there) in enumerate(sideways._neighbours(number)):
            both = (here >= 0) & (there >= 0) & (here != there)
            a, b, conductance = here[both], there[both], 1.0 / self.spacing[along] ** 2
            rows += [a, b]
            columns += [b, a]
            values += [np.full(2 * len(a), -conductance)]
            diagonal += conductance * (np.bincount(a, minlength=n) + np.bincount(b, minlength=n))
        sides = [number[tuple(side if i == axis else slice(None) for i in range(mask.ndim))] for side in (0, -1)]
        inlet, outlet = (side[side >= 0] for side in sides)
        half = 2.0 / self.spacing[axis] ** 2
        np.add.at(diagonal, inlet, half)
        np.add.at(diagonal, outlet, half)
        matrix = scipy.sparse.coo_matrix(
            (
                np.concatenate([*values, diagonal]),
                (np.concatenate([*rows, np.arange(n)]), np.concatenate([*columns, np.arange(n)])),
            ),
            shape=(n, n),
        ).tocsr()
        source = np.zeros(n)
        source[inlet] = half
        # Exact where the phase runs straight through.
        depth = np.argwhere(mask)[:, axis]
        start = 1.0 - (depth + 0.5) / length
        scale = scipy.sparse.diags(1.0 / diagonal)
        concentration, failed = scipy.sparse.linalg.cg(matrix, source, x0=start, rtol=RESIDUAL, M=scale, maxiter=20 * n)
        if failed:
            msg = f"diffusion did not converge in {20 * n} iterations"
            raise RuntimeError(msg)
        flux = half * float((1.0 - concentration[inlet]).sum()) * self.spacing[axis] ** 2
        area = mask.size // length
        return flux * length / area


METHODS: dict[str, Callable[[_Shape, Array], Any]] = {
    "fraction": _Shape.fractions,
    "clusters": _Shape.clusters,
    "largest": _Shape.largest,
    "interface": _Shape.interfaces,
    "junctions": _Shape.junctions,
    "diffusivity": _Shape.diffusivities,
}


class ShapeDescriptors(TransformerMixin, BaseEstimator):
    r"""Shape of the phases of each sample in numbers; lazily for lazy input, one task a chunk.

    =============  ====================================================================================================
    fraction       Volume fraction of each phase.
    clusters       Connected components of each phase, of voxels that share a face, to the volume.
    largest        Share of each phase that is in its largest cluster; 0 if there is none of it.
    interface      Area between each two phases to the volume: crossings P of lines along the axes,
                   :math:`S_V = 2 \langle P \rangle` in 3D, :math:`\pi \langle P \rangle / 2` in 2D.
    junctions      Length of lines around which three phases or more meet, to the volume; in 2D the number of points.
    diffusivity    Effective over intrinsic diffusivity :math:`D_{eff}/D` along each axis through each phase alone, from
                   side to side: 0 if it does not percolate. The tortuosity factor is its fraction over this.
    =============  ====================================================================================================

    Parameters
    ----------
    n_phases : int, optional
        Phases. Default: those that `fit` sees, or that a DataArray names.
    descriptors : sequence of str
        Any of the above, in their order.
    periodic_axes : int or sequence of int, optional
        Axes along which samples are periodic. Default: what a DataArray says, or none.

    Attributes
    ----------
    n_phases_ : int
        Number of phases.
    n_features_out_ : int
        Number of columns.

    Notes
    -----
    Lengths are in the units of a DataArray, or voxels. Diffusion is by finite volumes with fixed concentrations at two
    sides and none through the others (unless these are periodic), and costs far more than the rest: half a second for
    each phase and axis of 64³ voxels, where clusters and interfaces take milliseconds.

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

    Beside statistics, in one linkage:

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
        descriptors: Sequence[str] = DESCRIPTORS,
        periodic_axes: int | Sequence[int] | None = None,
    ) -> None:
        self.n_phases = n_phases
        self.descriptors = descriptors
        self.periodic_axes = periodic_axes

    def fit(self, X: ArrayLike, y: object = None, size: Sequence[int] | None = None) -> Self:
        """See how many phases there are, and of what size samples are.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial), or (n_samples, n_voxels) with `size`
            Phase of each voxel. Read if nothing says how many there are.
        y : None
            Ignored.
        size : tuple of int, optional
            Spatial shape of flat samples.

        Raises
        ------
        ValueError
            If a parameter is not as it must be.
        """
        data, labels = unwrap_samples(as_samples(X, size))
        strange = [name for name in self.descriptors if name not in DESCRIPTORS]
        if isinstance(self.descriptors, str) or strange or not len(self.descriptors):
            msg = f"descriptors must be some of {', '.join(DESCRIPTORS)}, got {self.descriptors!r}"
            raise ValueError(msg)
        named = () if labels is None else labels.attrs.get("phases") or ()
        wanted = self.n_phases if self.n_phases is not None else len(named) or int(to_numpy(data.max())) + 1
        if isinstance(wanted, bool) or not isinstance(wanted, int | np.integer) or wanted < 1:
            msg = f"n_phases must be a positive integer, got {self.n_phases!r}"
            raise ValueError(msg)
        self.n_phases_, self.size_ = int(wanted), tuple(int(n) for n in data.shape[1:])
        self.periodic_axes_ = periodic_axes_of(labels) if self.periodic_axes is None else self.periodic_axes
        self.n_features_out_ = len(self._kernel(None).names)
        return self

    def _kernel(self, labels: Any) -> _Shape:
        n_spatial = len(self.size_)
        return _Shape(
            tuple(self.descriptors),
            self.n_phases_,
            axes_argument(self.periodic_axes_, n_spatial),
            tuple(step for _, step, _ in spacing_of(labels, n_spatial)) if labels is not None else (1.0,) * n_spatial,
        )

    def transform(self, X: ArrayLike, size: Sequence[int] | None = None) -> Any:
        """Descriptors of each sample.

        Parameters
        ----------
        X : array, shape (n_samples, *spatial) or flat
            Phase of each voxel.
        size : tuple of int, optional
            Spatial shape of flat samples; default that of `fit`.

        Returns
        -------
        array of the kind of `X`, shape (n_samples, n_features_out_)
            float64.

        Raises
        ------
        ValueError
            If X has another number of axes than in `fit`, or holds anything but phase numbers.
        """
        check_is_fitted(self, "n_phases_")
        if size is None and unwrap(X)[0].ndim == 2 and len(self.size_) > 1:
            size = self.size_
        data, labels = unwrap_samples(as_samples(X, size))
        if data.ndim != 1 + len(self.size_):
            msg = f"X must have samples of {len(self.size_)} axes as in fit, got shape {tuple(data.shape)}"
            raise ValueError(msg)
        kernel = self._kernel(labels)
        found = map_samples(kernel, data, tail=(self.n_features_out_,), dtype=np.float64, name="descriptors")
        if labels is None:
            return found
        return label(
            found, labels, dims=("descriptor",), coords={"descriptor": names(kernel.names)}, name="descriptors"
        )

    def get_feature_names_out(self, input_features: object = None) -> Array:
        """Names of the columns.

        Parameters
        ----------
        input_features : None
            Ignored.
        """
        check_is_fitted(self, "n_phases_")
        return np.array(self._kernel(None).names, dtype=object)
