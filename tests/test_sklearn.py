"""scikit-learn's own checks, where they can apply."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from mksdask.reduction import PCA, IncrementalPCA
from mksdask.regression import KernelRegressor, LeadingScaler, LeastSquares

# Not here: bases, 2-point statistics, structure analysis, the models and shape descriptors. What they take is images,
# (n_samples, *spatial), or flat ones with `size`, of phases or orientations: the checks' random matrices of floats are
# refused, as they should be. `tests/test_models.py` holds cloning, searches, pipelines, pickles and routing of those.
ESTIMATORS = [
    PCA(),
    PCA(2),
    PCA(2, whiten=True),
    PCA(2, solver="incremental"),
    PCA(2, solver="randomized"),
    IncrementalPCA(2),
    KernelRegressor(),
    KernelRegressor("matern", n_landmarks=10),
    KernelRegressor("polynomial", degree=2),
    LeadingScaler(),
    LeastSquares(),
]


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(ESTIMATORS)
def test_estimator__passes_the_checks(estimator, check):
    check(estimator)
