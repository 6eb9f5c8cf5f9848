"""scikit-learn's own checks, where they can apply, and what else its users expect."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from mksdask import FourierBasis, GSHBasis, LegendreBasis, MKSHomogenizationModel, MKSStructureAnalysis, PrimitiveBasis
from mksdask.datasets import make_microstructure
from mksdask.descriptors import ShapeDescriptors
from mksdask.reduction import PCA, IncrementalPCA
from mksdask.regression import KernelRegressor, LeadingScaler, LeastSquares
from mksdask.stats import TwoPointStatistics

# The checks' matrices are rows of numbers. A Fourier basis takes any number, and a row is a microstructure in 1D, so
# that statistics and models go through them. The checks cannot pass size=, which says that rows are lines, so that the
# refusal of what may be an image or flat samples is off. What is left out has one of these reasons.
WORDS = "is refused, in words of our own"
KEEPS_SHAPES = "samples have axes, not features; models remember size_, and some take other sizes"
READS_NOTHING = "fit looks at shapes alone, transform at values"
BLIND = "statistics do not tell a sample from a shifted one, so they cannot learn the target of the check"
COLUMNS = "a column of properties comes back as a column"
PRECISION = "the precision of statistics is the parameter dtype, whatever phases are stored as"
PAPER = "reduced_fit_data and the like are the names that the paper behind PyMKS uses"
OBJECTS = "arrays of objects are refused, not converted"

EXCLUDED = {
    "MKSStructureAnalysis": {
        "check_dont_overwrite_attributes": PAPER,
        "check_dont_overwrite_parameters": PAPER,
        "check_n_features_in_after_fitting": KEEPS_SHAPES,
        "check_n_features_in": KEEPS_SHAPES,
        "check_complex_data": WORDS,
        "check_dtype_object": OBJECTS,
        "check_estimators_empty_data_messages": WORDS,
        "check_fit2d_predict1d": WORDS,
        "check_transformer_preserve_dtypes": PRECISION,
    },
}
EXCLUDED["MKSHomogenizationModel"] = EXCLUDED["MKSStructureAnalysis"] | {
    "check_requires_y_none": WORDS,
    "check_regressors_train": BLIND,
    "check_supervised_y_2d": COLUMNS,
    "check_dict_unchanged": PAPER,
}
CLASSIFIER = {
    name: reason
    for name, reason in EXCLUDED["MKSHomogenizationModel"].items()
    if name not in ("check_regressors_train", "check_supervised_y_2d")
} | {"check_classifiers_train": BLIND}
EXCLUDED["TwoPointStatistics"] = {
    name: reason for name, reason in EXCLUDED["MKSStructureAnalysis"].items() if reason is not PAPER
} | {"check_estimators_nan_inf": READS_NOTHING}

# Not at all: bases, whose results have an axis more than a matrix; ShapeDescriptors, which refuses numbers that are no
# phases; MKSLocalizationModel, which wants a field for each sample. Cloning, searches, pipelines, pickles and routing
# of those are in `tests/test_bases.py`, `tests/test_descriptors.py` and `tests/test_localization.py`.
ESTIMATORS = [
    PCA(),
    PCA(2),
    IncrementalPCA(2),
    KernelRegressor("polynomial", degree=2),
    LeadingScaler(),
    LeastSquares(),
    TwoPointStatistics(FourierBasis(2), flatten=True),
    MKSStructureAnalysis(FourierBasis(2), n_components=1),
    MKSHomogenizationModel(FourierBasis(2), n_components=1),
    MKSHomogenizationModel(FourierBasis(2), n_components=1, property_linker=LogisticRegression()),
]
VARIANTS = [
    PCA(2, whiten=True),
    PCA(2, solver="incremental"),
    PCA(2, solver="randomized"),
    KernelRegressor(),
    KernelRegressor("matern", n_landmarks=10),
    MKSHomogenizationModel(FourierBasis(2), n_components=1, property_linker="kernel"),
]


def excluded(estimator):
    return CLASSIFIER if is_classifier(estimator) else EXCLUDED.get(type(estimator).__name__, {})


@pytest.fixture
def flat_lines(monkeypatch):
    """Matrices are samples of one axis. The package asks what they are, which the checks cannot answer."""
    monkeypatch.setattr("mksdask.samples.refuse_ambiguous_lines", lambda *arguments: None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("flat_lines")
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=excluded)
def test_estimator__passes_the_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("flat_lines")
@parametrize_with_checks(VARIANTS, expected_failed_checks=excluded)
def test_variant__passes_the_checks(estimator, check):
    check(estimator)


@pytest.fixture
def X():
    return make_microstructure(n_samples=12, size=(6, 5), grain_size=2)


def test_set_output__gives_tables_with_names(X):
    analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=2).set_output(transform="pandas")
    table = analysis.fit_transform(X)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == ["mksstructureanalysis0", "mksstructureanalysis1"]
    np.testing.assert_array_equal(table, analysis.reduced_fit_data)
    statistics = TwoPointStatistics(PrimitiveBasis(2), cutoff=1, flatten=True).set_output(transform="pandas")
    table = statistics.fit_transform(X)
    maps = TwoPointStatistics(PrimitiveBasis(2), cutoff=1).fit_transform(X)
    assert table.shape == (12, 18)
    np.testing.assert_array_equal(table["f[0, 1; -1, 1]"], maps[:, 0, 2, 1])
    np.testing.assert_array_equal(table["f[0, 0; 0, 0]"], maps[:, 1, 1, 0])
    shape = ShapeDescriptors(2, descriptors=["fraction"]).set_output(transform="pandas").fit_transform(X)
    assert list(shape.columns) == ["fraction 0", "fraction 1"]


def test_feature_names__of_complex_statistics_and_maps(X):
    waves = TwoPointStatistics(FourierBasis(2, domain=(0, 2)), correlations=[(0, 1)], cutoff=0, flatten=True).fit(X)
    assert waves.get_feature_names_out().tolist() == ["Re f[0, 1; 0, 0]", "Im f[0, 1; 0, 0]"]
    with pytest.raises(ValueError, match="use flatten=True for names"):
        TwoPointStatistics(PrimitiveBasis(2)).fit(X).get_feature_names_out()


def test_feature_names__go_through_unions(X):
    both = FeatureUnion(
        [
            ("scores", MKSStructureAnalysis(PrimitiveBasis(2), n_components=2)),
            ("shape", ShapeDescriptors(2, descriptors=["fraction"])),
        ]
    )
    assert both.fit(X).get_feature_names_out().tolist() == [
        "scores__mksstructureanalysis0",
        "scores__mksstructureanalysis1",
        "shape__fraction 0",
        "shape__fraction 1",
    ]
    linkage = make_pipeline(both, KernelRegressor()).fit(X, X.mean(axis=(1, 2)))
    assert linkage.predict(X).shape == (12,)


@pytest.mark.parametrize("basis", [PrimitiveBasis(2), LegendreBasis(2), GSHBasis(2), FourierBasis(2)])
def test_sparse_input__is_refused_with_its_remedy(basis):
    with pytest.raises(TypeError, match=r"X is sparse, which is not supported; pass X\.toarray\(\)"):
        basis.discretize(sparse.csr_array(np.eye(3)))


def test_empty_samples__are_refused():
    with pytest.raises(ValueError, match=r"X must have voxels along each axis, got shape \(12, 0\)"):
        MKSStructureAnalysis(PrimitiveBasis(2)).fit(np.zeros((12, 0), dtype=int))
