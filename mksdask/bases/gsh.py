"""Generalized spherical harmonics: functions of crystal orientation that have the symmetry of the crystal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.spatial.transform import Rotation

from mksdask.arrays import Array, is_number
from mksdask.bases.base import Basis, check_finite, chosen_labels
from mksdask.bases.wigner import WignerSums, wigner_matrices
from mksdask.schema import NOTHING, Choice, Listed, Saved, Whole

# The rotation groups of the 11 Laue groups, as scipy names them. The main axis is z, the first 2-fold axis across it x.
LAUE_GROUPS = {
    "triclinic": "C1",
    "monoclinic": "C2",
    "orthorhombic": "D2",
    "tetragonal-low": "C4",
    "tetragonal": "D4",
    "trigonal-low": "C3",
    "trigonal": "D3",
    "hexagonal-low": "C6",
    "hexagonal": "D6",
    "cubic-low": "T",
    "cubic": "O",
}
# The functions that are evaluated together take about this many bytes.
GROUP_BYTES = 2**26
LARGEST_DEGREE = 64


class HarmonicIndex(NamedTuple):
    """Index of a function T_l^{μn}.

    `l` is the degree. `mu` numbers the functions of the crystal symmetry from 0. `n` is the order on the side of the
    specimen, from -l to l; if the specimen has a symmetry, it numbers the functions of that symmetry from 0.
    """

    l: int  # noqa: E741
    mu: int
    n: int


def bunge_angles(rotations: Rotation) -> NDArray[np.float64]:
    """Compute the Bunge angles of active rotations from crystal to sample, ``R = Rz(φ1) Rx(Φ) Rz(φ2)``.

    Parameters
    ----------
    rotations : scipy.spatial.transform.Rotation
        One rotation or many.

    Returns
    -------
    ndarray, shape (..., 3)
        φ1 in [0, 2π), Φ in [0, π], φ2 in [0, 2π), radians. Where Φ is 0 or π, φ2 is 0.

    Examples
    --------
    >>> from scipy.spatial.transform import Rotation
    >>> bunge_angles(Rotation.from_euler("ZXZ", [0.1, 0.2, 0.3])).round(12).tolist()
    [0.1, 0.2, 0.3]
    """
    matrix = rotations.as_matrix()
    sine = np.hypot(matrix[..., 0, 2], matrix[..., 1, 2])
    is_flat = sine < 1e-12
    phi1 = np.where(
        is_flat,
        np.arctan2(matrix[..., 1, 0], matrix[..., 0, 0]),
        np.arctan2(matrix[..., 0, 2], -matrix[..., 1, 2]),
    )
    phi2 = np.where(is_flat, 0.0, np.arctan2(matrix[..., 2, 0], matrix[..., 2, 1]))
    tilt = np.arctan2(sine, matrix[..., 2, 2])
    return np.stack([phi1 % (2.0 * np.pi), tilt, phi2 % (2.0 * np.pi)], axis=-1)


def symmetry_rotations(group: str, *, name: str = "domain") -> Rotation:
    """Return the rotations of a Laue group. The main axis is z, and the first 2-fold axis across it is x.

    Parameters
    ----------
    group : str
        One of `LAUE_GROUPS`. ``"cubic"`` is m-3m, ``"hexagonal"`` is 6/mmm, and ``"monoclinic"`` has its 2-fold axis
        along z.
    name : str
        Name of the argument in error messages.

    Raises
    ------
    ValueError
        If `group` is not a Laue group.
    """
    if group not in LAUE_GROUPS:
        msg = f"{name} must be one of {', '.join(LAUE_GROUPS)}, got {group!r}"
        raise ValueError(msg)
    return Rotation.create_group(LAUE_GROUPS[group], axis="Z")


@lru_cache(maxsize=1024)
def invariants(group: str, degree: int) -> NDArray[np.complex128]:
    """Compute orthonormal vectors b with D^l(s) b = b for all rotations s of a Laue group.

    The columns of the projector ``Σ_s D^l(s) / |G|`` are orthonormalised. At each step, the longest remaining column
    comes next; among columns of equal length, the first one, where orders run from -l to l. The first nonzero entry of
    each vector is positive.

    Parameters
    ----------
    group : str
        One of `LAUE_GROUPS`.
    degree : int
        Degree l.

    Returns
    -------
    ndarray, shape (n_functions, 2 l + 1), complex128
        One vector in each row. The orders along a row run from -l to l.
    """
    rotations = symmetry_rotations(group)
    projector = wigner_matrices(degree, bunge_angles(rotations)).mean(axis=0)
    vectors: list[NDArray[np.complex128]] = []
    for _ in range(round(float(np.trace(projector).real))):
        lengths = np.linalg.norm(projector, axis=0)
        column = projector[:, int(np.argmax(lengths > lengths.max() - 1e-9))]
        # A second projection makes the column orthogonal to the vectors found before, up to rounding.
        for vector in vectors:
            column = column - vector * np.vdot(vector, column)
        column = column / np.linalg.norm(column)
        column[np.abs(column) < 1e-12] = 0.0
        first = column[np.argmax(column != 0.0)]
        column = column * (abs(first) / first)
        vectors.append(column)
        projector = projector - np.outer(column, column.conj() @ projector)
    found = np.array(vectors, dtype=np.complex128).reshape(-1, 2 * degree + 1)
    found.flags.writeable = False
    return found


def count_functions(domain: str, sample_symmetry: str, degree: int) -> int:
    """Number of functions up to a degree, without making them.

    The trace of D^l of a rotation by ω is Σ_m cos(m ω), and its mean over a group the number of invariant functions.

    Parameters
    ----------
    domain, sample_symmetry : str
        Two of `LAUE_GROUPS`.
    degree : int
        Largest l.

    Examples
    --------
    >>> count_functions("cubic", "triclinic", 4)
    10
    """
    total = 0
    for l in range(degree + 1):  # noqa: E741
        orders = np.arange(-l, l + 1)
        n_crystal, n_sample = (
            round(float(np.cos(np.outer(symmetry_rotations(group).magnitude(), orders)).sum(axis=1).mean()))
            for group in (domain, sample_symmetry)
        )
        total += n_crystal * (len(orders) if sample_symmetry == "triclinic" else n_sample)
    return total


def check_angles(angles: Array) -> None:
    """Check that an array holds Bunge angles in radians, shape (..., 3).

    Raises
    ------
    TypeError
        If they are complex.
    ValueError
        If the last axis does not have length 3, a value is not finite, or the angles look like degrees.
    """
    if angles.ndim < 1 or angles.shape[-1] != 3:
        msg = f"X must hold the Bunge angles φ1, Φ, φ2 along its last axis, got shape {angles.shape}"
        raise ValueError(msg)
    if angles.dtype.kind == "c":
        msg = f"X must be real angles, got {angles.dtype}"
        raise TypeError(msg)
    if not angles.size:
        return
    largest = max(float(angles.max()), -float(angles.min()))
    check_finite(largest)
    if largest > 2.0 * np.pi + 1e-4:
        msg = (
            f"X holds angles up to {largest:g}, which are not Bunge angles in radians; use numpy.deg2rad(X) if they "
            "are degrees, and give voxels without an orientation a confidence_index of 0"
        )
        raise ValueError(msg)


class GSHBasis(Basis):
    r"""Basis of generalized spherical harmonics, for crystal orientations, with the symmetry of the crystal.

    The local state is the orientation ``g = Rz(φ1) Rx(Φ) Rz(φ2)`` in Bunge angles, an active rotation from crystal to
    sample. Let b_μ be the orthonormal vectors that all rotations of the crystal leave unchanged (`invariants`). Then

    .. math:: T_l^{\mu n}(g) = (2 l + 1) \sum_k b_{\mu k}\, D^l_{n k}(g),

    so that T(g s) = T(g) for each rotation s of the crystal. The mean of ``|T|²`` over all orientations is 2l + 1, and
    different T are orthogonal. The first state is the constant 1.

    Parameters
    ----------
    n_states : int, sequence of int or None, default 15
        Number of functions, or a list of their positions in the order of l, then n, then μ; see `index_`. A number is
        reduced if there are fewer functions up to `max_degree`. None takes all functions up to `max_degree`.
    domain : str, default "triclinic"
        Laue group of the crystal: triclinic, monoclinic (2-fold axis along z), orthorhombic, tetragonal-low,
        tetragonal, trigonal-low, trigonal, hexagonal-low, hexagonal, cubic-low or cubic. The groups without "-low" have
        2-fold axes across the main axis. The main axis is z. Trigonal, tetragonal and hexagonal crystals have a 2-fold
        axis along x.
    max_degree : int, optional
        Largest degree l. Default: as high as `n_states` needs.
    sample_symmetry : str, default "triclinic"
        Symmetry of the specimen, one of the same groups: T(s g) = T(g) for its rotations s. A rolled sheet with its
        axes along x, y, z is an orthorhombic specimen.

    Attributes
    ----------
    index_ : list of HarmonicIndex
        (l, mu, n) of each state.

    Notes
    -----
    The functions are evaluated together by the three-term recurrence of Wigner's d-functions in l, which is stable. If
    they would take more than 64 MB, they are evaluated in groups of 64 MB.

    References
    ----------
    Bunge, H.-J. Texture Analysis in Materials Science. Butterworths, 1982, chapter 14.
    Kostelec, P. J., Rockmore, D. N. FFTs on the rotation group. J. Fourier Anal. Appl. 14 (2008) 145.

    Examples
    --------
    >>> import numpy as np
    >>> basis = GSHBasis(n_states=10, domain="cubic")
    >>> basis.index_[1]
    HarmonicIndex(l=4, mu=0, n=-4)
    >>> X = np.random.default_rng(0).uniform(0, np.pi, (2, 5, 5, 3))
    >>> m = basis.discretize(X)
    >>> m.shape, m.dtype
    ((2, 5, 5, 10), dtype('complex128'))
    >>> quarter_turn = [0.0, 0.0, np.pi / 2]  # the crystal turns about its own z
    >>> bool(np.allclose(basis.discretize(X + quarter_turn), m))
    True
    """

    state_axes = 1
    state_size = 3
    is_complex = True
    _saved = Saved(
        {
            "n_states": Whole(1, sized=True) | Listed(Whole(0, sized=True), 1) | NOTHING,
            "domain": Choice(*LAUE_GROUPS),
            "max_degree": Whole(0, LARGEST_DEGREE) | NOTHING,
            "sample_symmetry": Choice(*LAUE_GROUPS),
        }
    )

    def __init__(
        self,
        n_states: int | Sequence[int] | None = 15,
        *,
        domain: str = "triclinic",
        max_degree: int | None = None,
        sample_symmetry: str = "triclinic",
    ) -> None:
        self.n_states = n_states
        self.domain = domain
        self.max_degree = max_degree
        self.sample_symmetry = sample_symmetry

    def _restored(self, most: int) -> None:
        n_functions = count_functions(self.domain, self.sample_symmetry, self.max_degree or 0)
        if self.n_states is None and n_functions > most:
            msg = f"{n_functions} functions up to degree {self.max_degree} are more than the {most} bytes of the store"
            raise ValueError(msg)
        # Refuses states that make no sense.
        _ = self.identity

    @property
    def states(self) -> tuple[int, ...]:
        """Positions of the functions in the order of l, n, μ.

        Raises
        ------
        ValueError
            If `n_states`, `max_degree` or a symmetry is not valid.
        """
        highest = self.max_degree
        if highest is not None and not (is_number(highest) and 0 <= highest <= LARGEST_DEGREE):
            msg = f"max_degree must lie between 0 and {LARGEST_DEGREE} or be None, got {highest!r}"
            raise ValueError(msg)
        if self.n_states is None:
            if highest is None:
                msg = "n_states=None takes all functions up to max_degree, got max_degree=None; give max_degree"
                raise ValueError(msg)
            return tuple(range(len(_functions_up_to(self.domain, self.sample_symmetry, highest))))
        symmetry_rotations(self.domain)
        symmetry_rotations(self.sample_symmetry, name="sample_symmetry")
        labels = chosen_labels(self.n_states)
        if highest is not None and np.ndim(self.n_states) == 0:
            labels = labels[: len(_functions_up_to(self.domain, self.sample_symmetry, highest))]
        if min(labels) < 0:
            msg = f"n_states of a GSHBasis must be positions from 0 upwards, got {self.n_states!r}"
            raise ValueError(msg)
        return labels

    @property
    def index_(self) -> list[HarmonicIndex]:
        """(l, mu, n) of each state."""
        known = self._known()
        return [known[label] for label in self.states]

    @property
    def unity(self) -> NDArray[np.float64] | None:
        """Weight 1 for l = 0, whose function is 1 everywhere. None if it is not among the states."""
        return 1.0 * (np.array(self.states) == 0) if 0 in self.states else None

    @property
    def placeholder(self) -> float:
        """Angle 0."""
        return 0.0

    @property
    def identity(self) -> tuple[Any, ...]:
        """Name of the class, symmetries and functions."""
        return type(self).__name__, self.domain, self.sample_symmetry, tuple(self.index_)

    def _known(self) -> tuple[HarmonicIndex, ...]:
        """List all functions up to a degree that is high enough for `states`."""
        labels = self.states
        symbols = self.domain, self.sample_symmetry
        if self.max_degree is not None:
            known = _functions_up_to(*symbols, self.max_degree)
            if max(labels) >= len(known):
                msg = (
                    f"n_states={self.n_states!r} names functions beyond the {len(known)} that {symbols[0]} crystals "
                    f"have up to max_degree={self.max_degree}; raise max_degree, or leave it None"
                )
                raise ValueError(msg)
            return known
        degree = 4
        while len(known := _functions_up_to(*symbols, degree)) <= max(labels):
            if degree >= LARGEST_DEGREE:
                msg = f"n_states={self.n_states!r} needs degrees above {LARGEST_DEGREE}; use fewer functions"
                raise ValueError(msg)
            degree = min(2 * degree, LARGEST_DEGREE)
        return known

    def _facts(self) -> dict[str, Any]:
        index = self.index_
        by_degree = {f"l = {l}": sum(each.l == l for each in index) for l in sorted({each.l for each in index})}  # noqa: E741
        symmetry = {"crystal": self.domain, "sample": self.sample_symmetry, "harmonics": by_degree}
        return symmetry | super()._facts() | {"local state": "Bunge angles φ1, Φ, φ2 in radians"}

    def _check(self, values: Array) -> None:
        check_angles(values)

    def work_bytes(self, n_voxels: int, n_states: int, dtype: DTypeLike) -> int:
        """Bytes of a group of functions, and of the angles in double precision."""
        field = n_voxels * np.dtype(self.result_dtype(dtype)).itemsize
        return min(n_states * field, max(GROUP_BYTES, field)) + 24 * n_voxels

    def _functions(self, values: Array, states: Sequence[int], dtype: DTypeLike) -> Iterator[Array]:
        index = self.index_
        n_bytes = max(1, values.size // 3) * np.dtype(self.result_dtype(dtype)).itemsize
        step = max(1, GROUP_BYTES // n_bytes)
        for start in range(0, len(states), step):
            group = tuple(index[state] for state in states[start : start + step])
            yield from _wigner_sums(self.domain, self.sample_symmetry, group).evaluate(values, dtype)


@lru_cache(maxsize=64)
def _functions_up_to(domain: str, sample_symmetry: str, degree: int) -> tuple[HarmonicIndex, ...]:
    """List all functions up to a degree, ordered by l, then n, then μ."""
    symmetry_rotations(domain)
    symmetry_rotations(sample_symmetry, name="sample_symmetry")
    found = []
    for l in range(degree + 1):  # noqa: E741
        n_crystal = len(invariants(domain, l))
        orders: Sequence[int] = range(-l, l + 1)
        if sample_symmetry != "triclinic":
            orders = range(len(invariants(sample_symmetry, l)))
        found += [HarmonicIndex(l, mu, n) for n in orders for mu in range(n_crystal)]
    return tuple(found)


def sides_of(domain: str, sample_symmetry: str, index: HarmonicIndex) -> tuple[Array, Array]:
    """Return the vectors a of the specimen and b of the crystal of T_l^{μn} = (2 l + 1) Σ_j Σ_k a_j b_k D^l_{jk}."""
    degree, mu, n = index
    right = invariants(domain, degree)[mu]
    if sample_symmetry != "triclinic":
        return invariants(sample_symmetry, degree)[n].conj(), right
    left = np.zeros(2 * degree + 1, dtype=np.complex128)
    left[n + degree] = 1.0
    return left, right


@lru_cache(maxsize=64)
def _wigner_sums(domain: str, sample_symmetry: str, functions: tuple[HarmonicIndex, ...]) -> WignerSums:
    """Write functions as sums of D-functions."""
    sums = []
    for index in functions:
        degree = index.l
        left, right = sides_of(domain, sample_symmetry, index)
        sums.append(
            [
                (degree, int(j) - degree, int(k) - degree, complex((2 * degree + 1) * left[j] * right[k]))
                for j in np.flatnonzero(left)
                for k in np.flatnonzero(right)
            ]
        )
    return WignerSums.of(sums)
