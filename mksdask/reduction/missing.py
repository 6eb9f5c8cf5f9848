"""Values that were not observed, NaN: each is what the components say of it, by least squares on what was observed."""

from __future__ import annotations

import numpy as np

from mksdask.arrays import Array

# Bytes of the matrices of normal equations and what makes them, for columns that are solved together.
_BATCH_BYTES = 32 * 2**20
# Keeps apart what the observed entries cannot tell: its coefficient goes to 0, as in the solution of least norm.
_RIDGE = 1e-12


def coefficients_of(columns: Array, design: Array) -> Array:
    """Least-squares coefficients of each column on the rows of a design where the column is not NaN.

    Parameters
    ----------
    columns : ndarray, shape (n_rows, n_columns)
        float64.
    design : ndarray, shape (n_rows, n_unknowns)
        float64; its columns of like norm.

    Returns
    -------
    ndarray, shape (n_unknowns, n_columns)
    """
    n_rows, n_unknowns = design.shape
    found = np.empty((n_unknowns, columns.shape[1]))
    step = max(1, _BATCH_BYTES // (8 * n_unknowns * (n_rows + n_unknowns)))
    for start in range(0, columns.shape[1], step):
        batch = columns[:, start : start + step].T
        observed = ~np.isnan(batch)
        normal = (design.T[None] * observed[:, None]) @ design
        ridge = _RIDGE * np.trace(normal, axis1=1, axis2=2) / n_unknowns
        normal += np.maximum(ridge, np.finfo(float).tiny)[:, None, None] * np.eye(n_unknowns)
        right = np.where(observed, batch, 0.0) @ design
        found[:, start : start + step] = np.linalg.solve(normal, right[..., None])[..., 0].T
    return found


def fill_columns(columns: Array, basis: Array | None) -> Array:
    """Fill gaps of features by regression on left singular vectors and a constant; by the mean without a basis.

    Parameters
    ----------
    columns : ndarray, shape (n_samples, n_columns)
        float64, NaN where nothing was observed.
    basis : ndarray, shape (n_samples, n_components), or None
        Orthonormal columns.
    """
    gaps = np.isnan(columns)
    if basis is None:
        means = np.nansum(columns, axis=0) / np.count_nonzero(~gaps, axis=0)
        return np.where(gaps, means, columns)
    n = len(columns)
    design = np.concatenate([np.full((n, 1), n**-0.5), basis], axis=1)
    return np.where(gaps, design @ coefficients_of(columns, design), columns)


def fill_rows(rows: Array, components: Array | None, mean: Array) -> Array:
    """Fill gaps of samples by their scores on the components; by the mean without components.

    Parameters
    ----------
    rows : ndarray, shape (n_rows, n_features)
        float64, NaN where nothing was observed.
    components : ndarray, shape (n_components, n_features), or None
        Orthonormal rows.
    mean : ndarray, shape (n_features,)
        Mean of each feature.
    """
    gaps = np.isnan(rows)
    if components is None:
        return np.where(gaps, mean, rows)
    scores = coefficients_of((rows - mean).T, components.T)
    return np.where(gaps, scores.T @ components + mean, rows)


def check_observed(counts: Array) -> None:
    """Refuse features that were observed in no sample.

    Raises
    ------
    ValueError
        With the remedy.
    """
    if not counts.all():
        msg = (
            f"X holds {np.count_nonzero(counts == 0)} features, of {len(counts)} looked at, that are NaN in all "
            "samples; leave them out. 2-point statistics lose them by a smaller cutoff"
        )
        raise ValueError(msg)


def refuse_infinite(block: Array) -> None:
    """Refuse what is neither a number nor missing."""
    if np.isinf(block).any():
        msg = "X holds infinite values; a feature that was not observed in a sample is NaN"
        raise ValueError(msg)
