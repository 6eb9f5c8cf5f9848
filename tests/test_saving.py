"""Models on zarr: predictions to the last bit, and nothing but what is listed."""

import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge

from mksdask import (
    FourierBasis,
    GSHBasis,
    LegendreBasis,
    MKSHomogenizationModel,
    MKSLocalizationModel,
    MKSStructureAnalysis,
    PrimitiveBasis,
    ProductBasis,
    load_model,
    save_model,
)
from mksdask.datasets.responses import make_elastic_FE_strain_delta, make_elastic_stiffness
from mksdask.reduction import PCA
from mksdask.regression import KernelRegressor

BASIS = PrimitiveBasis(2, domain=[0, 1])


@pytest.fixture(scope="module")
def ensemble():
    return make_elastic_stiffness(n_samples=[20, 20], size=(9, 9), grain_size=[(2, 2), (6, 3)], seed=2)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"degree": 2, "n_components": np.int64(3), "weights": (1.0, 2.0), "dtype": np.float64},
        {"property_linker": "kernel", "dimension_reducer": PCA(3, whiten=True)},
        {"property_linker": KernelRegressor("matern", n_landmarks=10), "cutoff": 3},
        {"basis": LegendreBasis(2, domain=[0, 1]), "mean_center": True},
        {"basis": FourierBasis(3, domain=[0, 2])},
        {"basis": ProductBasis(BASIS, LegendreBasis(2, domain=[0, 1]))},
    ],
)
@pytest.mark.parametrize("kind", ["plain", "shared", "lazy"])
def test_save__homogenization_predicts_the_same_bits(ensemble, options, kind, tmp_path):
    X, y = ensemble
    if isinstance(options.get("basis"), ProductBasis):
        X = np.stack([X, 1.0 - X], axis=-1)
    model = MKSHomogenizationModel(**{"basis": BASIS, "periodic_axes": [0, 1], "scratch": tmp_path} | options)
    given = da.from_array(X, chunks=(15, *X.shape[1:])) if kind == "lazy" else X
    model.fit(model.share(X) if kind == "shared" else given, y)
    if kind == "lazy":
        model.predict(given)
    expected = model.predict(X, return_std=True)
    save_model(model, tmp_path / "model.zarr")
    loaded = load_model(tmp_path / "model.zarr")
    assert_array_equal(loaded.predict(X, return_std=True), expected)
    assert_array_equal(loaded.components_, model.components_)
    assert_array_equal(loaded.reduced_fit_data, model.reduced_fit_data)
    assert repr(loaded.get_params()["basis"]) == repr(model.basis)
    assert loaded.fit(X, y).score(X, y) > 0.5
    save_model(MKSStructureAnalysis(model.basis).fit(X), tmp_path / "model.zarr")  # replaces
    assert type(load_model(tmp_path / "model.zarr")) is MKSStructureAnalysis


@pytest.mark.parametrize("component", ["xx", None])
def test_save__localization(component, tmp_path):
    X, y = make_elastic_FE_strain_delta(
        elastic_modulus=(100, 130), poissons_ratio=(0.3, 0.3), size=(9, 9), component=component
    )
    model = MKSLocalizationModel(BASIS).fit(X, y)
    save_model(model, tmp_path / "model.zarr")
    loaded = load_model(tmp_path / "model.zarr")
    assert_array_equal(loaded.predict(X), model.predict(X))
    assert_array_equal(loaded.coef_, model.coef_)
    assert loaded.resize_coeff((12, 12)).size_ == (12, 12)


def test_save__orientations(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 1, size=(12, 5, 5, 5, 3))
    model = MKSLocalizationModel(GSHBasis(4, domain="cubic")).fit(X, rng.normal(size=(12, 5, 5, 5)))
    save_model(model, tmp_path / "model.zarr")
    assert_array_equal(load_model(tmp_path / "model.zarr").predict(X), model.predict(X))


def test_save__refuses_what_it_does_not_know(ensemble, tmp_path):
    X, y = ensemble
    url = tmp_path / "model.zarr"
    own = MKSHomogenizationModel(BASIS, property_linker=Ridge()).fit(X, y)
    with pytest.raises(TypeError, match=r"property_linker is of sklearn.*Ridge, which cannot be saved"):
        save_model(own, url)
    with pytest.raises(TypeError, match="model must be one of"):
        save_model(Ridge(), url)
    with pytest.raises(NotFittedError):
        save_model(MKSHomogenizationModel(BASIS), url)
    with pytest.raises(NotFittedError):
        save_model(MKSLocalizationModel(BASIS), url)
    assert not url.exists()
    with pytest.raises(ValueError, match="holds no saved model"):
        load_model(url)
    save_model(MKSStructureAnalysis(BASIS).fit(X), url)
    group = zarr.open_group(url)
    group.attrs["model"] = {"object": "system", "arguments": ["true"]}
    with pytest.raises(ValueError, match="holds a system, which is not known"):
        load_model(url)
    zarr.create_array(str(tmp_path / "other.zarr"), data=np.zeros(3))
    with pytest.raises(ValueError, match="holds no saved model"):
        load_model(tmp_path / "other.zarr")
