"""Fill values that were not observed, which are NaN.

The observed values determine scores on the components by least squares, and the components give the missing values.
"""

from __future__ import annotations

import numpy as np

from mksdask.arrays import Array

# Columns are solved together if their normal equations, and the products that make them, take at most so many bytes.
_BATCH_BYTES = 32 * 2**20
# Ridge term. A coefficient that the observed entries do not determine goes to 0, as in the solution of least norm.
_RIDGE = 1e-12


def coefficients_of(columns: Array, design: Array) -> Array:
    """Compute the least-squares coefficients of each column, from the rows where the column is not NaN.

    Parameters
    ----------
    columns : ndarray, shape (n_rows, n_columns)
        Columns, float64.
    design : ndarray, shape (n_rows, n_unknowns)
        Design matrix, float64. Its columns must have similar norms.

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
    """Fill gaps of features by regression on left singular vectors and a constant, or by the mean if there is no basis.

    Parameters
    ----------
    columns : ndarray, shape (n_samples, n_columns)
        Features, float64. Values that were not observed are NaN.
    basis : ndarray, shape (n_samples, n_components), or None
        Left singular vectors, in orthonormal columns.
    """
    gaps = np.isnan(columns)
    if basis is None:
        means = np.nansum(columns, axis=0) / np.count_nonzero(~gaps, axis=0)
        return np.where(gaps, means, columns)
    n = len(columns)
    design = np.concatenate([np.full((n, 1), n**-0.5), basis], axis=1)
    return np.where(gaps, design @ coefficients_of(columns, design), columns)


def fill_rows(rows: Array, components: Array | None, mean: Array) -> Array:
    """Fill gaps of samples by their scores on the components, or by the mean if there are no components.

    Parameters
    ----------
    rows : ndarray, shape (n_rows, n_features)
        Samples, float64. Values that were not observed are NaN.
    components : ndarray, shape (n_components, n_features), or None
        Components, in orthonormal rows.
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

    Parameters
    ----------
    counts : ndarray, shape (n_features,)
        Number of samples in which each feature was observed.

    Raises
    ------
    ValueError
        If a count is 0.
    """
    if not counts.all():
        msg = (
            f"X has {np.count_nonzero(counts == 0)} features, of {len(counts)} that were checked, that are NaN in all "
            "samples; leave them out. A smaller cutoff removes them from 2-point statistics"
        )
        raise ValueError(msg)


def refuse_infinite(block: Array) -> None:
    """Refuse infinite values.

    Raises
    ------
    ValueError
        If a value is infinite.
    """
    if np.isinf(block).any():
        msg = "X holds infinite values; leave out these samples, or use NaN for features that were not observed"
        raise ValueError(msg)
