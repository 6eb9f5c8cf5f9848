"""Models on zarr: predictions to the last bit, nothing but what classes declare, and no file that is obeyed."""

import copy
import json
import pickle
import random
import shutil
import tracemalloc
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from mksdask import (
    FourierBasis,
    GivenStates,
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
from mksdask.bases.gsh import LAUE_GROUPS, count_functions
from mksdask.cli import main
from mksdask.datasets.responses import make_elastic_FE_strain_delta, make_elastic_stiffness
from mksdask.reduction import PCA, IncrementalPCA
from mksdask.regression import KernelRegressor, LeadingScaler, LeastSquares
from mksdask.storage import models as storage_models
from mksdask.storage.atomic import SEAL, Location, attributes_of, seal, sha256_of
from tests.conftest import some_slow

BASIS = PrimitiveBasis(2, domain=[0, 1])
PERIODIC = {"basis": BASIS, "periodic_axes": [0, 1]}


@pytest.fixture(scope="module")
def ensemble():
    return make_elastic_stiffness(n_samples=[20, 20], size=(9, 9), grain_size=[(2, 2), (6, 3)], seed=2)


@pytest.fixture(scope="module")
def field():
    return make_elastic_FE_strain_delta(elastic_modulus=(100, 130), poissons_ratio=(0.3, 0.3), size=(9, 9))


@pytest.fixture(scope="module")
def orientations():
    return np.random.default_rng(0).uniform(0, 1, size=(12, 5, 5, 5, 3))


def two_steps(linker):
    """A pipeline of one's own, with a folder for its steps that no file may name."""
    return Pipeline([("monomials", PolynomialFeatures((1, 2), interaction_only=True)), ("linker", linker)], memory=None)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"degree": 2, "n_components": np.int64(3), "weights": (1.0, 2.0), "dtype": np.float64},
        {"degree": 3, "weights": np.array([1.0, 2.0]), "dtype": "f8", "cutoff": [3, np.int32(2)]},
        {"property_linker": "kernel", "dimension_reducer": PCA(3, whiten=True)},
        {"property_linker": KernelRegressor("polynomial", degree=np.int64(2)), "correlations": [(0, 1), [1, 1]]},
        {"property_linker": KernelRegressor("matern", n_landmarks=10), "cutoff": 3},
        {"property_linker": make_pipeline(LeadingScaler(), KernelRegressor(alpha=1e-3, gamma=1))},
        {"property_linker": two_steps(LeastSquares()), "n_components": 3},
        {"basis": LegendreBasis(2, domain=[0, 1]), "mean_center": True},
        {"basis": LegendreBasis([2, 0], domain=(0, 1.5))},
        {"basis": FourierBasis(3, domain=[0, 2])},
        {"basis": ProductBasis(BASIS, LegendreBasis(2, domain=[0, 1]))},
        {"dimension_reducer": IncrementalPCA(3, oversampling=5), "n_components": None},
        {"dimension_reducer": make_pipeline(LeadingScaler(), PCA(3, solver="randomized", random_state=3))},
    ],
)
@pytest.mark.parametrize("kind", ["plain", "shared", "lazy"])
def test_save__homogenization_predicts_the_same_bits(ensemble, options, kind, tmp_path):
    X, y = ensemble
    if isinstance(options.get("basis"), ProductBasis):
        X = np.stack([X, 1.0 - X], axis=-1)
    if kind == "plain":
        y = np.stack([y, y**2], axis=1)
    model = MKSHomogenizationModel(**{"basis": BASIS, "periodic_axes": [0, 1], "scratch": tmp_path} | options)
    has_lazy_reducer = not isinstance(options.get("dimension_reducer"), Pipeline)
    is_lazy = kind == "lazy" and has_lazy_reducer
    given = da.from_array(X, chunks=(15, *X.shape[1:])) if is_lazy else X
    model.fit(model.share(X) if kind == "shared" else given, y)
    if kind == "lazy":
        model.predict(given)
    expected = np.array(model.predict(X, return_std=True))
    save_model(model, tmp_path / "model.zarr")
    loaded = load_model(tmp_path / "model.zarr")
    assert expected.shape == (2, *y.shape)
    assert_array_equal(np.array(loaded.predict(X, return_std=True)), expected)
    lazy = da.from_array(X, chunks=(9, *X.shape[1:]))
    assert_array_equal(loaded.predict(lazy).compute(), model.predict(lazy).compute())
    assert_array_equal(loaded.reduced_fit_data, model.reduced_fit_data)
    if hasattr(model.dimension_reducer_, "components_"):
        assert_array_equal(loaded.components_, model.components_)
    assert repr(loaded.get_params()["basis"]) == repr(model.basis)
    assert loaded.scratch is None
    assert str(tmp_path) not in (tmp_path / "model.zarr/zarr.json").read_text()
    assert_array_equal(pickle.loads(pickle.dumps(loaded)).predict(X), expected[0])
    assert loaded.fit(X, y).score(X, y) > 0.5
    save_model(MKSStructureAnalysis(model.basis).fit(X), tmp_path / "model.zarr")  # replaces
    assert type(load_model(tmp_path / "model.zarr")) is MKSStructureAnalysis


@pytest.mark.parametrize(
    "basis",
    [
        GSHBasis(4, domain="cubic"),
        GSHBasis(None, domain="hexagonal", max_degree=2),
        GSHBasis([0, 3], domain="cubic", sample_symmetry="orthorhombic"),
        ProductBasis(PrimitiveBasis(2), GSHBasis(2, domain="cubic")),
        GivenStates(3),
        None,
    ],
)
def test_save__structure_analysis_of_other_local_states(orientations, basis, tmp_path):
    X = orientations
    if isinstance(basis, ProductBasis):
        X = np.concatenate([(X[..., :1] > 0.5).astype(float), X], axis=-1)
    if basis is None:
        X = X / X.sum(axis=-1, keepdims=True)
    model = MKSStructureAnalysis(basis, n_components=3, cutoff=2, dtype="float64").fit(X)
    save_model(model, tmp_path / "model.zarr")
    loaded = load_model(tmp_path / "model.zarr")
    assert_array_equal(loaded.transform(X), model.transform(X))
    assert_array_equal(
        loaded.inverse_transform(model.reduced_fit_data), model.inverse_transform(model.reduced_fit_data)
    )
    assert_array_equal(loaded.nearest(X[:2], 3), model.nearest(X[:2], 3))


def test_save__what_labels_say(ensemble, tmp_path):
    X, y = ensemble
    coords = {dim: (dim, 2.0 * np.arange(9), {"units": "um"}) for dim in "xy"}
    labelled = xr.DataArray(X, dims=("sample", "x", "y"), coords=coords, attrs={"phases": ["soft", "stiff"]})
    labelled.attrs["periodic_axes"] = ["x"]
    model = MKSHomogenizationModel(BASIS, store_correlations=True).fit(labelled, y)
    save_model(model, tmp_path / "model.zarr")
    loaded = load_model(tmp_path / "model.zarr")
    xr.testing.assert_identical(loaded.predict(labelled), model.predict(labelled))
    with pytest.raises(ValueError, match=r"fit saw \['soft', 'stiff'\]"):
        loaded.predict(labelled.assign_attrs(phases=["pore", "grain"]))
    with pytest.warns(UserWarning, match="fit saw 2 µm"):
        loaded.predict(labelled.assign_coords(x=np.arange(9.0), y=np.arange(9.0)))


def test_save__statistics_that_were_given(ensemble, tmp_path):
    X, y = ensemble
    statistics = (10 * MKSStructureAnalysis(BASIS, store_correlations=True).fit(X).fit_correlations).astype(int)
    model = MKSHomogenizationModel(compute_correlations=False).fit(statistics, y)
    save_model(model, tmp_path / "model.zarr")
    assert_array_equal(load_model(tmp_path / "model.zarr").predict(statistics), model.predict(statistics))


def set_coefficients(shape, model):
    model.coef_ = np.random.default_rng(0).normal(size=shape)
    return model


LOCALIZATIONS = {
    "scalar": lambda X, y: MKSLocalizationModel(BASIS).fit(X, y[..., 0]),
    "ridge": lambda X, y: MKSLocalizationModel(BASIS, alpha=np.float64(0.1), lstsq_rcond=1e-9).fit(X, y),
    "single precision": lambda X, y: MKSLocalizationModel(BASIS).fit(X, y.astype(np.float32)),
    "complex response": lambda X, y: MKSLocalizationModel(LegendreBasis(2, [0, 1])).fit(X, y[..., 0] + 1j * y[..., 1]),
    "resized": lambda X, y: MKSLocalizationModel(FourierBasis(3)).fit(X[:, :5, :5], y[:, :5, :5]).resize_coeff((9, 9)),
    "given states": lambda X, y: MKSLocalizationModel().fit(BASIS.discretize(X), y),
    "set": lambda X, y: set_coefficients((9, 9, 2), MKSLocalizationModel(BASIS)),
    "set anew": lambda X, y: set_coefficients((9, 9, 2, 3), MKSLocalizationModel(BASIS).fit(X, y)),
    "set along a line": lambda X, y: set_coefficients((9, 2), MKSLocalizationModel()),
}


@pytest.mark.parametrize("name", LOCALIZATIONS)
def test_save__localization(field, name, tmp_path):
    X, y = field
    y = np.stack([y, y**2, -y], axis=-1)
    model = LOCALIZATIONS[name](X, y)
    given = {"given states": BASIS.discretize(X), "set along a line": BASIS.discretize(X[:, 0])}.get(name, X)
    save_model(model, tmp_path / "model.zarr")
    loaded = load_model(tmp_path / "model.zarr")
    assert_array_equal(loaded.predict(given), model.predict(given))
    assert_array_equal(loaded.predict(da.from_array(given, chunks=(1, *given.shape[1:]))), model.predict(given))
    assert_array_equal(loaded.coef_, model.coef_)
    assert not loaded.coef_.flags.writeable
    assert loaded.n_samples_seen_ == model.n_samples_seen_
    size = (12,) * len(loaded.size_)
    assert_array_equal(loaded.resize_coeff(size).coef_, model.resize_coeff(size).coef_)
    if name not in ("given states", "set along a line"):
        xr.testing.assert_identical(*(each.fit(X, y).predict(as_labelled(X)) for each in (loaded, model)))


def as_labelled(X):
    return xr.DataArray(X, dims=("sample", "x", "y"))


def test_save__localization_of_labelled_responses(field, tmp_path):
    X, y = field
    component = xr.DataArray(["xx", "yy"], dims="component")
    labelled = xr.DataArray(X, dims=("sample", "x", "y"), attrs={"phases": ["soft", "stiff"]})
    response = xr.DataArray(np.stack([y, -y], axis=-1), dims=(*labelled.dims, "component")).assign_coords(
        component=component
    )
    for number, strain in enumerate(
        (response, response.assign_coords(component=[3, 5]), response.drop_vars("component"))
    ):
        model = MKSLocalizationModel(BASIS).fit(labelled, strain)
        save_model(model, tmp_path / f"{number}.zarr")
        loaded = load_model(tmp_path / f"{number}.zarr")
        xr.testing.assert_equal(loaded.predict(labelled), model.predict(labelled))
        assert loaded.phases_ == ("soft", "stiff")
        # Further samples begin anew.
        assert loaded.partial_fit(labelled, strain).n_samples_seen_ == len(X)


def test_save__orientations(orientations, tmp_path):
    y = np.random.default_rng(1).normal(size=orientations.shape[:-1])
    for number, basis in enumerate((GSHBasis(4, domain="cubic"), ProductBasis(GSHBasis(3)))):
        model = MKSLocalizationModel(basis).fit(orientations, y)
        save_model(model, tmp_path / f"{number}.zarr")
        assert_array_equal(load_model(tmp_path / f"{number}.zarr").predict(orientations), model.predict(orientations))


def test_save__through_other_file_systems(ensemble):
    X, y = ensemble
    model = MKSHomogenizationModel(**PERIODIC).fit(X, y)
    save_model(model, "memory://models/model.zarr")
    assert_array_equal(load_model("memory://models/model.zarr").predict(X), model.predict(X))


def test_save__refuses_what_is_not_declared(ensemble, tmp_path):
    X, y = ensemble
    url = tmp_path / "model.zarr"

    class Own(PrimitiveBasis):
        pass

    for options, message in (
        ({"property_linker": Ridge()}, r"property_linker is of sklearn.*Ridge, which cannot be saved"),
        ({"basis": Own(2)}, r"basis is of .*Own, which cannot be saved; expected a FourierBasis or GSHBasis"),
        (
            {"property_linker": KernelRegressor(lambda a, b: a @ b.T)},
            r"property_linker\.kernel is of builtins.function",
        ),
        (
            {"dimension_reducer": PCA(2, random_state=np.random.RandomState(0))},
            r"random_state is of numpy.*RandomState",
        ),
        ({"property_linker": make_pipeline(Ridge())}, r"property_linker\.steps\[0\]\[1\] is of sklearn.*Ridge"),
    ):
        own = MKSHomogenizationModel(**PERIODIC | options).fit(X, y)
        with pytest.raises(TypeError, match=message):
            save_model(own, url)
    with pytest.raises(TypeError, match="model must be one of MKSStructureAnalysis, MKSHomogenizationModel, MKSLoc"):
        save_model(Ridge(), url)
    with pytest.raises(NotFittedError):
        save_model(MKSHomogenizationModel(BASIS), url)
    with pytest.raises(NotFittedError):
        save_model(MKSLocalizationModel(BASIS), url)
    changed = MKSHomogenizationModel(PrimitiveBasis(2)).fit(X, y)
    with pytest.raises(ValueError, match=r"cannot be saved as it is: .* the number of pairs is 3, expected 2"):
        save_model(changed.set_params(basis__n_states=3), url)
    assert not url.exists()


def test_load__refuses_what_is_no_model(ensemble, tmp_path):
    for other in ("missing.zarr", "file", "folder"):
        (tmp_path / "file").write_text("x")
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=f"{other} holds no saved model"):
            load_model(tmp_path / other)
    zarr.create_array(str(tmp_path / "other.zarr"), data=np.zeros(3))
    with pytest.raises(ValueError, match="holds no saved model"):
        load_model(tmp_path / "other.zarr")
    url = saved_analysis(ensemble, tmp_path)
    attrs = zarr.open_group(url).attrs
    for old in (1, 2, None, "3"):
        attrs["format"] = old
        with pytest.raises(ValueError, match=f"model.zarr holds a model of format {old!r}, and .* reads only format 3"):
            load_model(url)
    location = Location.of(url)
    seal(location, attributes_of(location) | {"mksdask": "results"})
    with pytest.raises(ValueError, match="holds no saved model, but something else of this package"):
        load_model(url)
    IncrementalPCA(2).fit(np.eye(4)).save(tmp_path / "sketch.zarr")
    with pytest.raises(ValueError, match="holds no saved model, but something else of this package"):
        load_model(tmp_path / "sketch.zarr")


def saved_analysis(ensemble, folder, **options):
    url = folder / "model.zarr"
    save_model(MKSStructureAnalysis(**PERIODIC | options).fit(ensemble[0]), url)
    return url


def signed(url, model):
    """Metadata of a store with another description, and with the right sha256."""
    kind = "incremental-pca" if model["class"] == "IncrementalPCA" else "model"
    whole = json.loads((Path(url) / "zarr.json").read_text())
    members = {path.parent.name: json.loads(path.read_text()) for path in Path(url).glob("*/zarr.json")}
    whole["consolidated_metadata"]["metadata"] = members
    whole["attributes"] |= {"mksdask": kind, "model": model}
    whole["attributes"][SEAL] = sha256_of(whole)
    return whole


def described(url):
    return json.loads((Path(url) / "zarr.json").read_text())["attributes"]["model"]


def describe(url, model):
    """Change the description of a saved model, as somebody would who knows the format."""
    (Path(url) / "zarr.json").write_text(json.dumps(signed(url, model)))


def changed(model, path, value):
    """A copy in which the value at a path is another."""
    copied = copy.deepcopy(model)
    *above, last = path
    found = copied
    for name in above:
        found = found[name]
    found[last] = value
    return copied


FITTED, REDUCER = ("fitted",), ("fitted", "dimension_reducer_")
MAP = ("fitted", "_map", "parameters")
BASIS_OF = ("parameters", "basis")
COMPONENTS = (*REDUCER, "fitted", "components_")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            (*BASIS_OF, "parameters", "n_states"),
            10**9,
            r"Analysis\.basis\.n_states is 1000000000, expected \d+ at most",
        ),
        ((*BASIS_OF, "parameters", "n_states"), [0, 10**9], r"basis\.n_states\[1\] is 1000000000, expected"),
        ((*BASIS_OF, "parameters", "n_states"), 50_000, r"the number of pairs is 50000, expected 2"),
        ((*BASIS_OF, "parameters", "n_states"), True, r"n_states is True, expected a whole number from 1 or a list"),
        ((*BASIS_OF, "parameters", "domain"), [1.0, 0.0], r"basis contradicts itself: domain must be"),
        ((*BASIS_OF, "class"), "system", r"basis is .*'system'.*, expected a FourierBasis or"),
        ((*BASIS_OF, "class"), "PCA", r"basis is .*'PCA'.*, expected a FourierBasis or"),
        ((*BASIS_OF, "class"), ["PCA"], r"basis is .*'PCA'.*, expected a FourierBasis or"),
        (("parameters", "scratch"), "/tmp", r"\(parameters\) is the keys .*scratch"),
        ((*REDUCER, "parameters", "scratch"), "/tmp", r"dimension_reducer_ \(parameters\) is the keys"),
        ((*FITTED, "transform"), 1, r"\(fitted\) is the keys .*transform.*, expected the keys _map"),
        (
            (*FITTED, "grid_", "parameters", "shape"),
            {"tuple": [-9, 9]},
            r"shape\[0\] is -9, expected a whole number from 1",
        ),
        ((*MAP, "shape"), {"tuple": [10**9, 9, 2]}, r"shape\[0\] is 1000000000, expected"),
        ((*MAP, "shape"), {"tuple": [9, 8, 2]}, r"features of dimension_reducer_ is 162, expected 144"),
        ((*MAP, "dtype"), "O", r"dtype is 'O', expected a dtype b1"),
        ((*COMPONENTS, "shape"), [5, 10**12], r"components_: chunk 0/c/0/0 is of 3244 bytes, expected 4000000000004"),
        ((*COMPONENTS, "shape"), [5, 161], r"components_: chunk .* is of 3244 bytes, expected 3224"),
        ((*COMPONENTS, "shape"), [-5, 162], r"components_ is .* expected an array of f4 or f8"),
        ((*COMPONENTS, "shape"), [5, 0], r"components_ is .* n_features_in_ = one or more"),
        ((*COMPONENTS, "shape"), [10**12, 162], r"components_: array 0 of shape .* needs \d+ chunks, more than"),
        ((*COMPONENTS, "dtype"), "i4", r"components_ is .* expected an array of f4 or f8 of shape"),
        ((*COMPONENTS, "order"), "F", r"components_: array 0 is stored in another way"),
        ((*COMPONENTS, "array"), 99, r"components_: chunk 99/c/0/0 is missing"),
        ((*REDUCER, "fitted", "explained_variance_", "array"), 1, r"explained_variance_: .*|array 1, which is taken"),
        ((*REDUCER, "fitted", "noise_variance_"), float("nan"), r"noise_variance_ is nan, expected a finite number"),
        ((*REDUCER, "fitted", "noise_variance_"), 10**400, r"noise_variance_ is 1000.*, expected a finite number"),
        ((*REDUCER, "parameters", "solver"), "svd", r"solver is 'svd', expected 'auto' or 'gram'"),
    ],
)
def test_load__says_where_a_file_is_wrong(ensemble, path, value, message, tmp_path):
    url = saved_analysis(ensemble, tmp_path)
    describe(url, changed(described(url), path, value))
    tracemalloc.start()
    with pytest.raises(ValueError, match=message) as caught:
        load_model(url)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16e6
    assert str(caught.value).startswith(f"{url} is damaged, or was changed: MKSStructureAnalysis")
    assert str(caught.value).endswith(". Save the model again")


def test_load__refuses_bases_that_are_larger_than_the_file(orientations, tmp_path):
    url = tmp_path / "model.zarr"
    basis = ProductBasis(GSHBasis(None, max_degree=1))
    save_model(MKSStructureAnalysis(basis, n_components=2, correlations=[(0, 0)]).fit(orientations), url)
    model, factors = described(url), ("parameters", "basis", "parameters", "bases")
    for value, message in (
        (
            [model_of(GSHBasis, n_states=None, domain="triclinic", max_degree=64, sample_symmetry="triclinic")],
            "functions",
        ),
        (
            [model_of(GSHBasis, n_states=[60_000], domain="cubic", max_degree=2, sample_symmetry="cubic")] * 2,
            "names functions beyond the",
        ),
        ([model_of(PrimitiveBasis, n_states=1000, domain=None)] * 3, "1000000000 states are more than the .* bytes"),
        (
            [model_of(GSHBasis, n_states=1, domain="icosahedral", max_degree=1, sample_symmetry="cubic")],
            "expected 'tri",
        ),
        ([], "expected a list of"),
    ):
        describe(url, changed(model, factors, value))
        tracemalloc.start()
        with pytest.raises(ValueError, match=message):
            load_model(url).transform(orientations)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 64e6


def model_of(cls, **parameters):
    return {"class": cls.__name__, "parameters": parameters}


@pytest.mark.parametrize("group", LAUE_GROUPS)
def test_count_functions__is_the_number_of_functions(group):
    for sample, degree in (("triclinic", 5), ("orthorhombic", 6), (group, 8)):
        basis = GSHBasis(None, domain=group, max_degree=degree, sample_symmetry=sample)
        assert count_functions(group, sample, degree) == len(basis.states)


@pytest.mark.parametrize("degree", [50, 10**6, 10**18, [2, 10**9]])
def test_load__refuses_more_monomials_than_the_file_has_bytes(ensemble, degree, tmp_path):
    X, y = ensemble
    model = MKSHomogenizationModel(**PERIODIC, degree=2).fit(X, y)
    save_model(model, tmp_path / "model.zarr")
    path = ("fitted", "property_linker_", "parameters", "steps", 1, "tuple", 1, "parameters", "degree")
    describe(tmp_path / "model.zarr", changed(described(tmp_path / "model.zarr"), path, degree))
    with pytest.raises(
        ValueError, match=r"property_linker_\.steps\[1\]\[1\](\.degree| contradicts itself: 3478760 mono)"
    ):
        load_model(tmp_path / "model.zarr")


def test_load__refuses_arrays_that_are_stored_otherwise(ensemble, tmp_path):
    url = saved_analysis(ensemble, tmp_path)
    number = described(url)["fitted"]["dimension_reducer_"]["fitted"]["components_"]["array"]
    group = zarr.open_group(url)
    values = group[str(number)][...]
    # Zeros that are compressed would take memory beyond the size of the file.
    for options in ({}, {"compressors": None}, {"chunks": (1, 162)}, {"shards": (5, 162), "chunks": (5, 162)}):
        group.create_array(str(number), data=values, overwrite=True, **options)
        describe(url, described(url))
        with pytest.raises(ValueError, match=rf"components_: (chunk {number}/c/0/0 is|array {number} is stored in)"):
            load_model(url)
    for broken in (np.full_like(values, np.nan), np.full_like(values, -np.inf)):
        save_model(MKSStructureAnalysis(**PERIODIC).fit(ensemble[0]), url)
        zarr.open_group(url)[str(number)][...] = broken
        with pytest.raises(ValueError, match=r"components_ is an array .* expected one without NaN"):
            load_model(url)


@pytest.mark.parametrize("nested", [9, 300, 100_000])
def test_load__refuses_what_is_nested_too_deep(ensemble, nested, tmp_path):
    url = saved_analysis(ensemble, tmp_path)
    model, mark = described(url), "here"
    text = json.dumps(signed(url, changed(model, BASIS_OF, mark)))
    opened = '{"class":"ProductBasis","parameters":{"bases":['
    innermost = json.dumps(model["parameters"]["basis"])
    (url / "zarr.json").write_text(text.replace(f'"{mark}"', opened * nested + innermost + "]}}" * nested))
    if nested < 1000:
        describe(url, described(url))
    with pytest.raises(ValueError, match=r"model.zarr .*(objects inside objects up to 8 deep|or one that is damaged)"):
        load_model(url)


def small_models(ensemble, field):
    """Models with all parts that a description can have, and what they predict from."""
    X, y = ensemble
    linkers = {"kernel": KernelRegressor(), "landmarks": KernelRegressor(n_landmarks=5), "polynomial": "polynomial"}
    for name, linker in linkers.items():
        basis = ProductBasis(LegendreBasis(2, domain=(0, 1))) if name == "kernel" else BASIS
        given = X[..., None] if name == "kernel" else X
        reducer = IncrementalPCA(3) if name == "landmarks" else PCA(3)
        model = MKSHomogenizationModel(
            basis, property_linker=linker, dimension_reducer=reducer, periodic_axes=[0, 1], cutoff=3, weights=None
        )
        yield name, model.fit(given, y), given
    X, y = field
    strain = xr.DataArray(np.stack([y, -y], axis=-1), dims=("sample", "x", "y", "component"))
    response = strain.assign_coords(component=["xx", "yy"])
    yield "localization", MKSLocalizationModel(BASIS).fit(X, response), X


NAMES = ["kernel", "landmarks", "polynomial", "localization"]


@pytest.fixture(scope="module")
def stored(ensemble, field, tmp_path_factory):
    """Name: store of a model, what it predicts from, and what it predicts."""
    found = {}
    for name, model, given in small_models(ensemble, field):
        url = tmp_path_factory.mktemp(name) / "model.zarr"
        save_model(model, url)
        found[name] = url, given, predicted(model, given)
    return found


def predicted(model, given):
    options = {"return_std": True} if isinstance(model, MKSHomogenizationModel) else {}
    return np.asarray(model.predict(given, **options))


def is_refused_or_the_same(url, given, expected):
    try:
        found = predicted(load_model(url), given)
    except ValueError:
        return True
    assert_array_equal(found, expected)
    return False


@pytest.mark.parametrize("name", NAMES)
def test_load__sees_each_bit_that_is_flipped(stored, name, tmp_path):
    url, given, expected = stored[name]
    rng = random.Random(NAMES.index(name))
    files = sorted(path for path in url.rglob("*") if path.is_file())
    refused = 0
    for number in range(40):
        # Each file in turn, so that small ones are hit as often as large ones.
        path = files[number % len(files)].relative_to(url)
        copied = tmp_path / f"{number}.zarr"
        shutil.copytree(url, copied)
        content = bytearray((copied / path).read_bytes())
        position = rng.randrange(8 * len(content))
        content[position // 8] ^= 1 << position % 8
        (copied / path).write_bytes(bytes(content))
        refused += is_refused_or_the_same(copied, given, expected)
    assert refused > 25


@pytest.mark.parametrize("name", NAMES)
def test_load__misses_each_file(stored, name, tmp_path):
    url, _, _ = stored[name]
    for number, path in enumerate(sorted(path.relative_to(url) for path in url.rglob("*") if path.is_file())):
        copied = tmp_path / f"{number}.zarr"
        shutil.copytree(url, copied)
        (copied / path).unlink()
        with pytest.raises(
            ValueError, match=rf"{number}.zarr (is damaged.* missing|is damaged.*cannot be read|holds no)"
        ):
            load_model(copied)


def nodes(model, path=()):
    """Paths of all values of a description."""
    yield path
    items = model.items() if isinstance(model, dict) else enumerate(model) if isinstance(model, list) else ()
    for name, value in items:
        yield from nodes(value, (*path, name))


def value_at(model, path):
    for name in path:
        model = model[name]
    return model


def mutations(model, rng):
    """Descriptions in which one thing is wrong."""
    for path in nodes(model):
        value = value_at(model, path)
        if isinstance(value, dict):
            for name in value:
                yield "drop", path, {key: item for key, item in value.items() if key != name}
            yield "add", path, value | {rng.choice(["scratch", "__class__", "_rotation", "", "fit"]): 1}
            yield "type", path, list(value)
        elif isinstance(value, list):
            yield "type", path, "text"
            if value and all(isinstance(item, int) for item in value):
                yield "negative", path, [-1 - item for item in value]
        elif isinstance(value, bool) or value is None:
            yield "type", path, "text"
        elif isinstance(value, int | float):
            yield "huge", path, rng.choice([10**400, -(10**400), float("inf"), float("nan")])
            yield "type", path, rng.choice(["1", {"tuple": [value]}, [[value]]])
        else:
            yield "type", path, 7
            yield "name", path, rng.choice(["system", "PCA", "MKSStructureAnalysis", "__import__", "../model.zarr"])
        yield "deep", path, deep(rng.randrange(10, 200))


def deep(n):
    value = None
    for _ in range(n):
        value = {"class": "Pipeline", "parameters": {"steps": [["a", value]], "verbose": False}}
    return value


@pytest.mark.parametrize("name", some_slow(NAMES, ["localization"]))
def test_load__refuses_descriptions_with_one_thing_wrong(stored, name, tmp_path):
    url, given, expected = stored[name]
    copied = tmp_path / "model.zarr"
    shutil.copytree(url, copied)
    model, rng = described(copied), random.Random(NAMES.index(name))
    wrong = [item for item in mutations(model, rng) if item[1]]
    chosen = rng.sample(wrong, min(len(wrong), 120))
    assert len(chosen) == 120  # 480 in all
    assert {kind for kind, *_ in chosen} == {"drop", "add", "type", "huge", "negative", "name", "deep"}
    accepted = 0
    tracemalloc.start()
    for _, path, value in chosen:
        describe(copied, changed(model, path, value))
        accepted += not is_refused_or_the_same(copied, given, expected)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert accepted < len(chosen) / 20  # such as names of components, or parameters that only count in fit
    assert peak < 64e6
    describe(copied, model)
    assert not is_refused_or_the_same(copied, given, expected)


def test_load__incremental_pca(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 12))
    url = tmp_path / "pca.zarr"
    IncrementalPCA(2, oversampling=3, whiten=True).fit(rows).save(url)
    model = described(url)
    for path, value, message in (
        (("parameters", "n_components"), 0, r"IncrementalPCA\.n_components is 0, expected a whole number from 1"),
        (("parameters", "oversampling"), -1, r"oversampling is -1, expected a whole number from 0 or None"),
        (("fitted", "_sketch", "parameters", "scatter"), -1.0, r"IncrementalPCA\._sketch\.scatter is -1\.0"),
        (("fitted", "_sketch", "parameters", "mean", "shape"), [13], r"_sketch\.mean: chunk 0/c/0 is of 100 bytes"),
        (("fitted", "_sketch"), None, r"IncrementalPCA\._sketch is None, expected a Sketch"),
    ):
        describe(url, changed(model, path, value))
        with pytest.raises(ValueError, match=message):
            IncrementalPCA.load(url)
    describe(url, changed(model, ("parameters", "oversampling"), 10**9))
    assert IncrementalPCA.load(url).partial_fit(rows).n_samples_seen_ == 120
    (url / "0/c/0").unlink()
    with pytest.raises(ValueError, match=r"pca.zarr is damaged.* chunk 0/c/0 is missing"):
        IncrementalPCA.load(url)
    other = tmp_path / "kernels.zarr"
    save_model(MKSLocalizationModel(BASIS).fit(np.eye(4)[None] > 0, np.eye(4)[None]), other)
    with pytest.raises(ValueError, match="holds no saved IncrementalPCA, but something else of this package"):
        IncrementalPCA.load(other)


def test_save__large_arrays_in_several_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_models, "CHUNK_BYTES", 1000)
    rows = np.random.default_rng(0).normal(size=(30, 100))
    pca = IncrementalPCA(2).fit(rows)
    pca.save(tmp_path / "pca.zarr")
    assert len(list((tmp_path / "pca.zarr/1/c").rglob("*/0"))) == 30
    assert_array_equal(IncrementalPCA.load(tmp_path / "pca.zarr").components_, pca.components_)
    (tmp_path / "pca.zarr/1/c/7/0").unlink()
    with pytest.raises(ValueError, match=r"_sketch\.directions: chunk 1/c/7/0 is missing, expected 804 bytes"):
        IncrementalPCA.load(tmp_path / "pca.zarr")


def test_info__says_that_a_model_is_damaged(ensemble, tmp_path):
    url = saved_analysis(ensemble, tmp_path)
    assert "MKSStructureAnalysis" in CliRunner().invoke(main, ["info", str(url)]).output
    (url / "0/c/0/0").unlink()
    result = CliRunner().invoke(main, ["info", str(url)])
    assert result.exit_code == 1
    assert "model.zarr is damaged, or was changed: MKSStructureAnalysis.dimension_reducer_.components_" in result.output
