"""Samples with labels are paired by label at every door, and their coordinates survive."""

import warnings
from typing import ClassVar

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from dask.utils import key_split
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA as SomePCA
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from mksdask import (
    MKSHomogenizationModel,
    MKSLocalizationModel,
    MKSStructureAnalysis,
    PrimitiveBasis,
    append_ensemble,
    create_ensemble,
    load_model,
    open_ensemble,
    sample_windows,
    save_model,
    tools,
)
from mksdask.arrays import is_text
from mksdask.cli import main
from mksdask.compute.blocks import take_samples
from mksdask.datasets import CahnHilliardSimulation, ElasticFESimulation
from mksdask.descriptors import ShapeDescriptors
from mksdask.labels import first_index, matched, sample_index
from mksdask.reduction import PCA
from mksdask.regression import KernelRegressor, LeastSquares, polynomial_regression
from mksdask.samples import Samples
from mksdask.simulation import (
    effective_conductivity,
    effective_expansion,
    effective_stiffness,
    mean_stress,
    solve_conduction,
    solve_fields,
)
from mksdask.stats import TwoPointStatistics, autocorrelate, correlate, correlate_volume, crosscorrelate, radial_average
from mksdask.storage import coordinates, limits, materialize
from mksdask.storage.atomic import Location
from mksdask.storage.coordinates import append_coordinates
from mksdask.storage.tables import EXACT, read_table, write_table
from tests.conftest import some_slow
from tests.helpers import computes

RNG = np.random.default_rng(7)
N = 12
NAMES = [f"specimen {i}" for i in range(N)]
BASIS = PrimitiveBasis(2)
DIMS = ("sample", "x", "y")
VALUES = {
    "X": RNG.integers(0, 2, (N, 6, 5)),
    "number": RNG.random(N),
    "group": np.arange(N) % 3,
    "mask": RNG.random((N, 6, 5)),
    "field": RNG.random((N, 6, 5)),
    "scores": RNG.random((N, 2)),
}


def labelled(what, labels=NAMES):
    values = VALUES[what]
    dims = {1: DIMS[:1], 2: ("sample", "component"), 3: DIMS}[values.ndim]
    return xr.DataArray(values, dims=dims, coords={"sample": labels}, name=what)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Each array in a store of its own, in the order of its labels or in another one."""
    folder = tmp_path_factory.mktemp("labels")

    def store(array):
        url = folder / f"{len(list(folder.iterdir()))}.zarr"
        whole = labelled("X").assign_coords(sample=array.sample) if array.ndim < 3 else array
        create_ensemble(url, whole, array, chunks=5)
        return open_ensemble(url).response

    return store


def of_kind(kind, array, stored):
    """An array that holds labels, or one without them."""
    return {
        "numpy": lambda: array.to_numpy(),
        "dask": lambda: da.from_array(array.to_numpy(), chunks=(5, *array.shape[1:])),
        "xarray": lambda: array,
        "lazy xarray": lambda: array.chunk(sample=5) + 0,
        "zarr xarray": lambda: stored(array),
        "pandas": lambda: array.to_pandas(),
    }[kind]()


class Supervised(TransformerMixin, BaseEstimator):
    """A reducer that shows which target came with which sample."""

    def fit(self, X, y):
        self.weights_ = np.asarray(X).T @ np.asarray(y)
        return self

    def fit_transform(self, X, y):
        return self.fit(X, y).transform(X)

    def transform(self, X):
        return (np.asarray(X) @ self.weights_)[:, None]


def analysis(**options):
    return MKSStructureAnalysis(BASIS, n_components=2, **options)


def homogenization(**options):
    return MKSHomogenizationModel(BASIS, n_components=2, **options)


def in_memory(X):
    return X.compute() if isinstance(X, xr.DataArray) else np.asarray(X)


def kernel_regression(scores, y=VALUES["number"], groups=None):
    return KernelRegressor(alpha=0.1, gamma=1.0).fit(scores, y, groups)


def score_of_localization(X, **options):
    return MKSLocalizationModel(BASIS, alpha=1.0).fit(VALUES["X"], VALUES["field"]).score(X, **options)


def ensemble(tmp, X, **others):
    create_ensemble(tmp / "e.zarr", X, **others)
    return open_ensemble(tmp / "e.zarr")


def appended(tmp, X, **others):
    start = {name: VALUES["field" if name == "y" else "mask"][:2] for name in others}
    names = {"sample": ["first", "second"]} if sample_index(X) is not None else {}
    create_ensemble(tmp / "a.zarr", xr.DataArray(VALUES["X"][:2], dims=DIMS, coords=names), chunks=4, **start)
    append_ensemble(tmp / "a.zarr", X, **others)
    return open_ensemble(tmp / "a.zarr").isel(sample=slice(2, None))


# For each door: what its first argument holds, the name of the second and what it holds, and the call.
DOORS = {
    "structure.fit y": (
        "X",
        "y",
        "number",
        lambda X, y, _: (
            MKSStructureAnalysis(BASIS, dimension_reducer=Supervised()).fit(in_memory(X), y).reduced_fit_data
        ),
    ),
    "structure.fit_transform y": (
        "X",
        "y",
        "number",
        lambda X, y, _: MKSStructureAnalysis(BASIS, dimension_reducer=Supervised()).fit_transform(in_memory(X), y),
    ),
    "structure.fit mask": (
        "X",
        "confidence_index",
        "mask",
        lambda X, c, _: analysis(cutoff=1).fit(X, confidence_index=c).reduced_fit_data,
    ),
    "structure.transform mask": (
        "X",
        "confidence_index",
        "mask",
        lambda X, c, _: analysis(cutoff=1).fit(VALUES["X"]).transform(X, confidence_index=c),
    ),
    "structure.share mask": (
        "X",
        "confidence_index",
        "mask",
        lambda X, c, _: analysis(cutoff=1).share(X, confidence_index=c).features(),
    ),
    "structure.nearest mask": (
        "X",
        "confidence_index",
        "mask",
        lambda X, c, _: analysis(cutoff=1).fit(VALUES["X"]).nearest(X, 2, confidence_index=c)[0],
    ),
    "homogenization.fit y": ("X", "y", "number", lambda X, y, _: homogenization().fit(X, y).predict(X)),
    "homogenization.fit y of share": (
        "X",
        "y",
        "number",
        lambda X, y, _: homogenization().fit(homogenization().share(X), y).predict(X),
    ),
    "homogenization.fit groups": (
        "X",
        "groups",
        "group",
        lambda X, g, _: (
            homogenization(property_linker="kernel").fit(X, VALUES["number"], groups=g).predict(X, return_std=True)[1]
        ),
    ),
    "homogenization.score y": (
        "X",
        "y",
        "number",
        lambda X, y, _: homogenization().fit(VALUES["X"], VALUES["number"]).score(X, y),
    ),
    "homogenization.score y of share": (
        "X",
        "y",
        "number",
        lambda X, y, _: homogenization().fit(VALUES["X"], VALUES["number"]).score(homogenization().share(X), y),
    ),
    "homogenization.score weight": (
        "X",
        "sample_weight",
        "number",
        lambda X, w, _: homogenization().fit(VALUES["X"], VALUES["number"]).score(X, VALUES["number"], sample_weight=w),
    ),
    "homogenization.predict mask": (
        "X",
        "confidence_index",
        "mask",
        lambda X, c, _: homogenization(cutoff=1).fit(VALUES["X"], VALUES["number"]).predict(X, confidence_index=c),
    ),
    "homogenization.suggest mask": (
        "X",
        "confidence_index",
        "mask",
        lambda X, c, _: (
            homogenization(cutoff=1, property_linker="kernel")
            .fit(VALUES["X"], VALUES["number"])
            .suggest(X, N, confidence_index=c)
        ),
    ),
    "localization.fit y": ("X", "y", "field", lambda X, y, _: MKSLocalizationModel(BASIS).fit(X, y).coef_),
    "localization.partial_fit y": (
        "X",
        "y",
        "field",
        lambda X, y, _: MKSLocalizationModel(BASIS).fit(VALUES["X"], VALUES["mask"]).partial_fit(X, y).coef_,
    ),
    "localization.score y": ("X", "y", "field", lambda X, y, _: score_of_localization(X, y=y)),
    "localization.score weight": (
        "X",
        "sample_weight",
        "number",
        lambda X, w, _: score_of_localization(X, y=VALUES["mask"], sample_weight=w),
    ),
    "correlate mask": ("X", "confidence_index", "mask", lambda X, c, _: correlate(X, BASIS, confidence_index=c)),
    "autocorrelate mask": (
        "X",
        "confidence_index",
        "mask",
        lambda X, c, _: autocorrelate(X, BASIS, confidence_index=c),
    ),
    "crosscorrelate mask": (
        "X",
        "confidence_index",
        "mask",
        lambda X, c, _: crosscorrelate(X, BASIS, confidence_index=c),
    ),
    "TwoPointStatistics mask": (
        "X",
        "confidence_index",
        "mask",
        lambda X, c, _: TwoPointStatistics(BASIS, flatten=True).transform(X, confidence_index=c),
    ),
    "kernel regression y": ("scores", "y", "number", lambda X, y, _: kernel_regression(X, y).predict(X)),
    "kernel regression groups": ("scores", "groups", "group", lambda X, g, _: kernel_regression(X, groups=g).spread_),
    "kernel regression score": (
        "scores",
        "y",
        "number",
        lambda X, y, _: KernelRegressor().fit(VALUES["scores"], VALUES["number"]).score(X, y),
    ),
    "least squares score": (
        "scores",
        "y",
        "number",
        lambda X, y, _: LeastSquares().fit(VALUES["scores"], VALUES["number"]).score(in_memory(X), y),
    ),
    "polynomial regression y": (
        "scores",
        "y",
        "number",
        lambda X, y, _: polynomial_regression(2).fit(in_memory(X), y).predict(VALUES["scores"]),
    ),
    "polynomial regression weight": (
        "scores",
        "regression__sample_weight",
        "number",
        lambda X, w, _: (
            polynomial_regression()
            .fit(in_memory(X), VALUES["number"], regression__sample_weight=w)
            .predict(VALUES["scores"])
        ),
    ),
    "polynomial regression score": (
        "scores",
        "y",
        "number",
        lambda X, y, _: polynomial_regression().fit(VALUES["scores"], VALUES["number"]).score(in_memory(X), y),
    ),
    "least squares y": ("scores", "y", "number", lambda X, y, _: LeastSquares().fit(in_memory(X), y).coef_),
    "least squares weight": (
        "scores",
        "sample_weight",
        "number",
        lambda X, w, _: LeastSquares().fit(in_memory(X), VALUES["number"], w).coef_,
    ),
    "create y": ("X", "y", "field", lambda X, y, tmp: ensemble(tmp, X, y=y).response),
    "create phase": ("X", "phase", "X", lambda X, p, tmp: ensemble(tmp, X, phase=p).phase),
    "create mask": (
        "X",
        "confidence_index",
        "mask",
        lambda X, c, tmp: ensemble(tmp, X, confidence_index=c).confidence_index,
    ),
    "append y": ("X", "y", "field", lambda X, y, tmp: appended(tmp, X, y=y).response),
    "append phase": ("X", "phase", "field", lambda X, p, tmp: appended(tmp, X, phase=p).phase),
    "append mask": (
        "X",
        "confidence_index",
        "mask",
        lambda X, c, tmp: appended(tmp, X, confidence_index=c).confidence_index,
    ),
}
ALL_DOORS = pytest.mark.parametrize("door", DOORS)
# Doors that load a vector themselves take one of pandas.
VECTORS = [door for door, (_, _, what, _) in DOORS.items() if what in ("number", "group")]


def result(door, first, second, tmp):
    return np.asarray(DOORS[door][3](first, second, tmp))


@ALL_DOORS
@pytest.mark.parametrize("kind", some_slow(["xarray", "lazy xarray", "zarr xarray"], ["lazy xarray"]))
def test_doors__pair_samples_by_label(door, kind, stored, tmp_path):
    of_first, _, of_second, _ = DOORS[door]
    first, second = of_kind(kind, labelled(of_first), stored), labelled(of_second)
    (tmp_path / "b").mkdir()
    expected = result(door, first, of_kind(kind, second, stored), tmp_path)
    order = np.random.default_rng(len(door)).permutation(N)
    # Labels in the same order change nothing.
    assert_array_equal(result(door, first, second.to_numpy(), tmp_path / "b"), expected)
    (tmp_path / "c").mkdir()
    assert_array_equal(result(door, first, of_kind(kind, second[order], stored), tmp_path / "c"), expected)


@pytest.mark.parametrize("door", VECTORS)
def test_doors__pair_samples_by_the_index_of_pandas(door, tmp_path):
    of_first, _, of_second, _ = DOORS[door]
    first, second = labelled(of_first), labelled(of_second)
    expected = result(door, first, second, tmp_path)
    assert_array_equal(result(door, first, second[::-1].to_pandas(), tmp_path), expected)


@ALL_DOORS
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: a[:9], r"lacks 3 labels \('specimen 9', 'specimen 10', 'specimen 11'\); "),
        (
            lambda a: a.assign_coords(sample=[*NAMES[:-1], "other"]),
            r"lacks 1 label \('specimen 11'\), and .* lacks 1 label \('other'\); ",
        ),
        (lambda a: a[[*range(N), 3]], r"has 1 label \('specimen 3'\) more than once; "),
        (
            lambda a: a.assign_coords(sample=range(N)),
            r"lacks 12 labels \('specimen 0', 'specimen 1', 'specimen 2', …\), ",
        ),
    ],
    ids=["missing", "another", "twice", "none"],
)
def test_doors__refuse_other_labels(door, change, told, tmp_path):
    of_first, name, of_second, _ = DOORS[door]
    with pytest.raises(ValueError, match=f"^{name} must have the sample labels of X, in any order, but {name} {told}"):
        result(door, labelled(of_first), change(labelled(of_second)), tmp_path)


@ALL_DOORS
@pytest.mark.parametrize(
    "kinds", [("numpy", "xarray"), ("xarray", "numpy"), ("dask", "lazy xarray"), ("lazy xarray", "dask")]
)
def test_doors__let_position_count_where_labels_are_missing(door, kinds, stored, tmp_path):
    of_first, _, of_second, _ = DOORS[door]
    first, second = labelled(of_first), labelled(of_second)[::-1]
    if door.startswith("append") and kinds[0] in ("numpy", "dask"):
        pytest.skip("the second array would bring coordinates that the store lacks")
    (tmp_path / "b").mkdir()
    expected = result(door, of_kind("numpy", first, stored), of_kind("numpy", second, stored), tmp_path)
    found = result(door, of_kind(kinds[0], first, stored), of_kind(kinds[1], second, stored), tmp_path / "b")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_doors__rows_of_shared_statistics_keep_their_labels():
    X, y = labelled("X"), labelled("number")
    shared = homogenization().share(X)
    assert shared.index.tolist() == NAMES
    assert shared[[5, 2]].index.tolist() == ["specimen 5", "specimen 2"]
    expected = homogenization().fit(shared, y).predict(X)
    np.testing.assert_allclose(homogenization().fit(shared[::-1], y).predict(X), expected, rtol=1e-5)
    # Resampling repeats rows of both alike.
    rows = [0, 0, *range(1, N)]
    homogenization().fit(shared[rows], y[rows])
    with pytest.raises(ValueError, match=r"X has 1 label \('specimen 0'\) more than once"):
        homogenization().fit(shared[rows], y[rows][::-1])
    assert homogenization().share(VALUES["X"]).index is None


def test_doors__labels_of_other_arguments_count_where_X_has_none():
    X, order = VALUES["X"], RNG.permutation(N)
    model = homogenization(property_linker="kernel")
    y, groups, mask = labelled("number"), labelled("group"), labelled("mask")
    expected = model.fit(X, y, groups=groups).predict(X, return_std=True)[1]
    assert_array_equal(model.fit(X, y, groups=groups[order]).predict(X, return_std=True)[1], expected)
    model = homogenization(cutoff=1)
    expected = model.fit(X, y, confidence_index=mask).predict(X, confidence_index=mask)
    assert_array_equal(model.fit(X, y[order], confidence_index=mask).predict(X, confidence_index=mask), expected)
    assert model.score(X, y[order], confidence_index=mask) == model.score(X, y, confidence_index=mask)


def test_doors__learning_curves_pair_samples_by_label():
    X, y = labelled("scores"), labelled("number")
    figures = [
        tools.draw_learning_curves(LeastSquares(), X, each, cv=3, train_sizes=(0.5, 1.0)) for each in (y, y[::-1])
    ]
    first, second = ([line.get_ydata() for line in figure.axes[0].lines] for figure in figures)
    assert_array_equal(first, second)


def test_doors__rows_of_a_table_are_paired_by_label():
    X = pd.DataFrame(VALUES["X"].reshape(N, -1), index=NAMES)
    y, mask, field = (labelled(what) for what in ("number", "mask", "field"))
    expected = homogenization().fit(VALUES["X"], VALUES["number"]).predict(VALUES["X"])
    for other in (y[::-1], y[::-1].to_pandas()):
        assert_array_equal(homogenization().fit(X, other, size=(6, 5)).predict(VALUES["X"]), expected)
    assert_array_equal(Samples.of(X, BASIS, size=(6, 5), confidence_index=mask[::-1]).confidence, VALUES["mask"])
    expected = MKSLocalizationModel(BASIS).fit(VALUES["X"], VALUES["field"]).coef_
    assert_array_equal(MKSLocalizationModel(BASIS).fit(X, field[::-1], size=(6, 5)).coef_, expected)


# What a label is.


@pytest.mark.parametrize(
    ("labels", "others"),
    [
        (["a", "b", "c"], np.array(["c", "a", "b"], dtype=np.dtypes.StringDType())),
        ([0, 1, 2], [2.0, 0.0, 1.0]),
        (
            np.array(["2024-01-01", "2024-01-02", "2024-01-03"], "M8[s]"),
            np.array(["2024-01-03", "2024-01-01", "2024-01-02"], "M8[ns]"),
        ),
        (pd.MultiIndex.from_product([["a"], [0, 1, 2]]), pd.MultiIndex.from_tuples([("a", 2), ("a", 0), ("a", 1)])),
    ],
    ids=["texts", "numbers", "dates", "several levels"],
)
def test_labels__are_equal_whatever_holds_them(labels, others):
    def of(labels, values):
        coords = {"sample": labels}
        if isinstance(labels, pd.MultiIndex):
            coords = xr.Coordinates.from_pandas_multiindex(labels, "sample")
        return xr.DataArray(values, dims="sample", coords=coords)

    found = matched(of(others, [2, 0, 1]), sample_index(of(labels, [0, 1, 2])), name="y")
    assert found.values.tolist() == [0, 1, 2]


def test_labels__of_several_levels_are_no_others():
    levels = pd.MultiIndex.from_product([["a"], range(N)])
    y = pd.Series(VALUES["number"], index=levels)
    with pytest.raises(ValueError, match=r"y lacks 12 labels \('specimen 0'.*, and X lacks 12 labels \(\('a', 0\)"):
        matched(y, pd.Index(NAMES), name="y")
    with pytest.raises(ValueError, match=r"y lacks 12 labels \(\('a', 0\).*, and X lacks 12 labels \('specimen 0'"):
        matched(labelled("number"), levels, name="y")


def test_labels__are_kept_apart_by_the_folds_of_scikit_learn():
    X, y, model = labelled("X"), labelled("number"), homogenization()
    scores = cross_val_score(model, X, y, cv=3)
    assert_array_equal(cross_val_score(model, X, y.to_pandas(), cv=3), scores)
    for samples in (X, model.share(X)):
        # Folds are drawn by position, so the rows of a fold are other samples here.
        with pytest.raises(ValueError, match="y must have the sample labels of X"):
            cross_val_score(model, samples, y[::-1], cv=3, error_score="raise")


def test_labels__are_an_index_along_the_samples():
    array = labelled("mask")
    assert sample_index(array).tolist() == NAMES
    assert sample_index(array.rename(sample="specimen")).tolist() == NAMES
    assert sample_index(array.transpose("x", "sample", "y")).tolist() == NAMES
    named = array.drop_vars("sample").assign_coords(name=("sample", NAMES), x=range(6))
    assert sample_index(named) is None
    assert sample_index(named.set_xindex("name")).tolist() == NAMES
    for without in (VALUES["X"], [[0, 1]], None, xr.DataArray(1.0), da.zeros(3)):
        assert sample_index(without) is None
    assert first_index(VALUES["X"], named, array).tolist() == NAMES


def test_masks__of_flat_samples_are_paired_by_label():
    flat = xr.DataArray(VALUES["X"].reshape(N, -1), dims=("sample", "voxel"), coords={"sample": NAMES})
    mask = xr.DataArray(VALUES["mask"].reshape(N, -1), dims=("sample", "voxel"), coords={"sample": NAMES})
    for turned in (mask[::-1], labelled("mask")[::-1], labelled("mask")[::-1].transpose("y", "sample", "x")):
        samples = Samples.of(flat, BASIS, size=(6, 5), confidence_index=turned)
        assert_array_equal(samples.confidence, VALUES["mask"])
        assert samples.index.tolist() == NAMES


def test_masks__that_samples_share_have_no_labels():
    shared = xr.DataArray(VALUES["mask"][0], dims=("x", "y"), coords={"x": range(6), "y": range(5)})
    for mask in (shared, shared.T):
        assert_array_equal(Samples.of(labelled("X"), BASIS, confidence_index=mask).confidence, VALUES["mask"][0])
    # As many rows as samples, and still no samples.
    square = xr.DataArray(np.ones((N, N, N), int), dims=DIMS, coords={"sample": NAMES})
    mask = xr.DataArray(RNG.random((N, N)), dims=("x", "y"), coords={"x": range(N)})
    assert Samples.of(square, BASIS, confidence_index=mask).has_shared_mask


# Voxels.


def on_voxels(what, step):
    return labelled(what).assign_coords(x=step * np.arange(6), y=step * np.arange(5))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda X, other: correlate(X, BASIS, confidence_index=other), "confidence_index"),
        (lambda X, other: correlate(X, BASIS, confidence_index=other[0]), "confidence_index"),
        (lambda X, other: correlate_volume(X[0], BASIS, cutoff=1, confidence_index=other[0]), "confidence_index"),
        (lambda X, other: MKSLocalizationModel(BASIS).fit(X, other), "y"),
    ],
)
def test_voxels__other_ones_are_warned_of(call, name):
    X = on_voxels("X", 0.5)
    for step, told in ((0.25, "0.25 voxel × 0.25"), (-0.5, "-0.5 voxel × -0.5")):
        with pytest.warns(UserWarning, match=f"{name} has voxels of {told} voxel, X has 0.5 voxel × 0.5") as caught:
            call(X, on_voxels("mask", step))
        assert {warning.filename for warning in caught} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The responses are noise.
        warnings.filterwarnings("ignore", "the first order of the series")
        call(X, on_voxels("mask", 0.5))
        call(X, labelled("mask"))
        call(labelled("X"), on_voxels("mask", 0.5))


# Laziness.


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_take_samples__in_any_order_from_any_chunks(data):
    values = np.arange(24.0).reshape(N, 2)
    cuts = [data.draw(st.lists(st.integers(1, 5), min_size=1).map(lambda c: (*c, 1)), label="chunks") for _ in range(2)]
    cuts = [np.diff([0, *sorted({min(e, N) for e in np.cumsum(c)} | {N})]).tolist() for c in cuts]
    rows = np.array(data.draw(st.permutations(range(N)), label="rows"))
    view = da.from_array(zarr.array(values), chunks=(tuple(cuts[0]), 2))
    for array in (values, view, view + 0):
        found = take_samples(array, rows, cuts[1])
        assert_array_equal(found, values[rows])
        assert found.dtype == values.dtype
    assert take_samples(view, rows, cuts[1]).chunks[0] == tuple(cuts[1])
    assert take_samples(view, rows, cuts[1]).name == take_samples(view, rows, cuts[1]).name


def test_take_samples__keeps_one_task_a_chunk_where_it_can(stored):
    lazy = stored(labelled("mask")).data
    anyhow = np.random.default_rng(0).permutation(N)
    inside = np.concatenate([[4, 2, 0, 1, 3], [11, 10], [5, 9, 8, 7, 6]])
    for array, rows in ((lazy, anyhow), (lazy, inside), (lazy + 1, inside)):
        taken = take_samples(array, rows)
        assert_array_equal(taken, array.compute()[rows])
        (graph,) = dask.optimize(taken)
        tasks = [key_split(key) for key in dict(graph.__dask_graph__())]
        assert tasks.count("take-samples") == taken.npartitions == 3
        assert not [task for task in tasks if task.startswith(("shuffle", "getitem"))]


def test_alignment__computes_nothing(stored):
    X, order = stored(labelled("X")), np.random.default_rng(0).permutation(N)
    masks = [stored(labelled("mask")[order]), labelled("mask")[order].chunk(sample=4) + 0]
    model = homogenization(cutoff=1).fit(VALUES["X"], VALUES["number"])
    for mask in masks:
        with computes(exactly=0):
            assert isinstance(correlate(X, BASIS, confidence_index=mask).data, da.Array)
            assert isinstance(model.predict(X, confidence_index=mask).data, da.Array)
            assert isinstance(TwoPointStatistics(BASIS).transform(X, confidence_index=mask).data, da.Array)
        with computes(exactly=1):
            MKSLocalizationModel(BASIS).fit(X, mask)
        with computes(exactly=1):
            correlate(X, BASIS, confidence_index=mask).compute()


class Source:
    """A store that counts the rows that are read."""

    shape, dtype, ndim = (N, 2), np.dtype(float), 2
    values = np.arange(24.0).reshape(N, 2)
    reads: ClassVar[list[int]] = []

    def __getitem__(self, rows):
        Source.reads.append(len(np.atleast_1d(rows)))
        return Source.values[rows]


def test_alignment__reads_no_more_than_a_chunk_of_a_store():
    lazy = da.from_array(Source(), chunks=(5, 2), meta=np.empty((0, 0)))
    order = np.random.default_rng(0).permutation(N)
    taken = take_samples(lazy, order, (4, 4, 4))
    Source.reads.clear()
    assert_array_equal(taken, Source.values[order])
    assert Source.reads == [4, 4, 4]


# Coordinates of samples.

DATES = np.datetime64("2024-05-01T12:00:00", "s") + np.arange(N)
COORDS = {
    "sample": ("sample", NAMES),
    "temperature": ("sample", np.linspace(20.0, 30.0, N), {"units": "K"}),
    "batch": ("sample", np.arange(N, dtype="int16") % 4),
    "is_heated": ("sample", np.arange(N) % 2 == 0),
    "maker": ("sample", np.array(["Ada", "Müller", "李", "d"] * 3, dtype=object)),
    "made": ("sample", DATES),
}


def with_coords(what="X", rows=slice(None), **labels):
    array = xr.DataArray(VALUES[what], dims=DIMS, coords=COORDS)[rows]
    return array.assign_coords(labels)


def assert_has_coords(found, rows=slice(None)):
    for name, (_, values, *attrs) in COORDS.items():
        assert_array_equal(found.coords[name].values.astype(np.asarray(values).dtype), np.asarray(values)[rows])
        assert found.coords[name].dims == ("sample",)
        assert found.coords[name].attrs == dict(*attrs)
    assert found.indexes["sample"].equals(pd.Index(np.asarray(NAMES)[rows]))


@pytest.fixture
def opened(tmp_path):
    create_ensemble(tmp_path / "e.zarr", with_coords(), labelled("number"), confidence_index=labelled("mask"), chunks=5)
    return open_ensemble(tmp_path / "e.zarr")


def test_coordinates__come_back_from_a_store(opened, tmp_path):
    assert_has_coords(opened)
    assert set(opened.data_vars) == {"microstructure", "response", "confidence_index"}
    dtypes = {name: values.dtype for name, values in opened.coords.items()}
    assert dtypes["batch"] == np.int16
    assert dtypes["is_heated"] == np.bool_
    assert is_text(opened.maker.to_numpy())
    assert dtypes["made"].kind == "M"
    # They are in memory already, and the samples are not.
    assert not [name for name, values in opened.coords.items() if values.chunks]
    assert opened.microstructure.chunks[0] == (5, 5, 2)
    assert_has_coords(xr.open_zarr(tmp_path / "e.zarr").compute())


def test_coordinates__are_collected_from_all_arguments(tmp_path):
    y = labelled("number")[::-1].assign_coords(density=("sample", np.arange(N)[::-1]))
    create_ensemble(tmp_path / "e.zarr", labelled("X").rename(sample="specimen"), y)
    found = open_ensemble(tmp_path / "e.zarr")
    assert found.density.values.tolist() == list(range(N))
    assert found.sample.values.tolist() == NAMES
    create_ensemble(tmp_path / "f.zarr", VALUES["X"], y, confidence_index=labelled("mask"))
    found = open_ensemble(tmp_path / "f.zarr")
    assert found.sample.values.tolist() == NAMES[::-1]
    assert_array_equal(found.confidence_index, VALUES["mask"][::-1])
    # What is said of no sample, or of all of them, is no coordinate of samples.
    create_ensemble(tmp_path / "g.zarr", VALUES["X"], labelled("number").drop_vars("sample"))
    assert set(open_ensemble(tmp_path / "g.zarr").coords) == {"x", "y"}


def test_coordinates__of_appended_samples(tmp_path):
    url = tmp_path / "e.zarr"
    create_ensemble(url, with_coords(rows=slice(0, 1)), chunks=4)
    for start, stop in ((1, 3), (3, 8), (8, N)):
        append_ensemble(url, with_coords(rows=slice(start, stop)).chunk(sample=2))
        assert_has_coords(open_ensemble(url), slice(0, stop))
    assert_array_equal(open_ensemble(url).microstructure, VALUES["X"])
    assert zarr.open_group(url)["temperature"].nchunks == 1


def test_coordinates__of_an_append_that_was_killed_are_not_seen(tmp_path):
    url = tmp_path / "e.zarr"
    create_ensemble(url, with_coords(rows=slice(0, 4)))
    append_coordinates(Location.of(url), {"batch": np.full(3, 9, "int16"), "temperature": np.full(3, 9.0)}, 4)
    assert_has_coords(open_ensemble(url), slice(0, 4))
    append_ensemble(url, with_coords(rows=slice(4, N)))
    assert_has_coords(open_ensemble(url))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X.drop_vars(["batch", "made"]), r"X lacks the coordinates \['batch', 'made'\] of samples"),
        (lambda X: X.drop_vars("sample"), r"X lacks the coordinates \['sample'\] of samples"),
        (
            lambda X: X.data,
            r"X lacks the coordinates \['batch', 'is_heated', .* of samples, .*as a DataArray with them",
        ),
        (
            lambda X: X.assign_coords(colour=("sample", ["red", "blue"])),
            r"X has the coordinates \['colour'\] of samples, .*X\.drop_vars\(\['colour'\]\)",
        ),
        (
            lambda X: X.assign_coords(batch=("sample", ["a", "b"])),
            "the coordinate 'batch' of X has dtype (StringDType|object)",
        ),
        (lambda X: X.assign_coords(made=("sample", [1, 2])), "the coordinate 'made' of X has dtype int64"),
        (
            lambda X: X.assign_coords(batch=("sample", [1, 2**20])),
            "'batch' of X has values that the stored int16 cannot",
        ),
        (
            lambda X: X.assign_coords(made=X.made + np.timedelta64(1, "ms")),
            r"'made' of X has values that the stored datetime64\[s\]",
        ),
        (
            lambda X: X.assign_coords(sample=["new", NAMES[2]]),
            "X has 1 samples whose label is in the ensemble already, such as 'specimen 2'",
        ),
        (lambda X: X.assign_coords(sample=["new", "new"]), "whose label is in the ensemble already, such as 'new'"),
    ],
)
def test_coordinates__of_appended_samples_must_fit(change, message, tmp_path):
    url = tmp_path / "e.zarr"
    create_ensemble(url, with_coords(rows=slice(0, 10)))
    with pytest.raises(ValueError, match=message):
        append_ensemble(url, change(with_coords(rows=slice(10, N))))
    assert_has_coords(open_ensemble(url), slice(0, 10))
    append_ensemble(url, with_coords(rows=slice(10, N)))
    assert_has_coords(open_ensemble(url))


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        (
            {"late": ("sample", np.arange(N).astype("m8[s]"))},
            r"the coordinate 'late' has values of dtype timedelta64\[s\]",
        ),
        (
            {"any": ("sample", np.array([None, *range(1, N)], object))},
            "the coordinate 'any' has values of dtype object",
        ),
        ({"raw": ("sample", np.array([b"a"] * N))}, r"the coordinate 'raw' has values of dtype \|S1"),
        ({"a b": ("sample", range(N))}, "the coordinate 'a b' has a space in its name"),
        ({"phase": ("sample", range(N))}, r"the coordinates \['phase'\] of samples have names that the store uses"),
        (
            xr.Coordinates.from_pandas_multiindex(pd.MultiIndex.from_product([range(3), range(4)]), "sample"),
            r"MultiIndex.*reset_index\('sample'\)",
        ),
    ],
)
def test_coordinates__that_a_store_cannot_hold_are_refused(coords, message, tmp_path):
    X = xr.DataArray(VALUES["X"], dims=DIMS).assign_coords(coords)
    with pytest.raises(ValueError, match=message):
        create_ensemble(tmp_path / "e.zarr", X)
    assert not (tmp_path / "e.zarr").exists()


def test_coordinates__more_labels_than_can_be_read_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(coordinates, "LABEL_BYTES", 16 * 10)
    message = "12 labels of samples take more than the 160 bytes that are read when a store is opened; leave out"
    with pytest.raises(ValueError, match=message):
        create_ensemble(tmp_path / "e.zarr", with_coords())
    create_ensemble(tmp_path / "e.zarr", with_coords(rows=slice(0, 10)))
    with pytest.raises(ValueError, match=message):
        append_ensemble(tmp_path / "e.zarr", with_coords(rows=slice(10, N)))


def test_coordinates__as_large_as_data_stay_in_the_store(tmp_path, monkeypatch):
    create_ensemble(tmp_path / "e.zarr", with_coords().drop_vars("sample"))
    # A chunk has room for 2**16 numbers.
    monkeypatch.setattr(limits, "LABEL_BYTES", 2**18)
    found = open_ensemble(tmp_path / "e.zarr")
    assert found.temperature.chunks
    assert not found.batch.chunks
    assert_array_equal(found.temperature, COORDS["temperature"][1])


def scores_of(X):
    """Two numbers for each sample, with its coordinates."""
    return X.mean("x")[:, :2].rename(y="component").astype(float)


RESULTS = {
    "correlate": lambda X: correlate(X, BASIS),
    "correlate of mks": lambda X: X.mks.correlate(BASIS),
    "TwoPointStatistics": lambda X: TwoPointStatistics(BASIS).transform(X),
    "flat TwoPointStatistics": lambda X: TwoPointStatistics(BASIS, flatten=True).transform(X),
    "inverse_transform": lambda X: (
        analysis().fit(VALUES["X"]).inverse_transform(analysis().fit(VALUES["X"]).transform(X))
    ),
    "PCA": lambda X: PCA(2).fit_transform(TwoPointStatistics(BASIS, flatten=True).transform(X)),
    "PCA.inverse_transform": lambda X: (
        PCA(2).fit(VALUES["scores"]).inverse_transform(PCA(2).fit(VALUES["scores"]).transform(scores_of(X)))
    ),
    "KernelRegressor": lambda X: KernelRegressor().fit(VALUES["scores"], VALUES["number"]).predict(scores_of(X)),
    "radial_average": lambda X: radial_average(correlate(X, BASIS)),
    "specific_surface": lambda X: correlate(X, BASIS).mks.specific_surface(),
    "transform": lambda X: analysis().fit(VALUES["X"]).transform(X),
    "fit_transform": lambda X: analysis().fit_transform(X),
    "predict": lambda X: homogenization().fit(VALUES["X"], VALUES["number"]).predict(X),
    "spread": lambda X: (
        homogenization(property_linker="kernel").fit(X, VALUES["number"]).predict(X, return_std=True)[1]
    ),
    "localize": lambda X: MKSLocalizationModel(BASIS).fit(VALUES["X"], VALUES["field"]).predict(X),
    "localize flat samples": lambda X: (
        MKSLocalizationModel(BASIS)
        .fit(VALUES["X"], VALUES["field"])
        .predict(
            xr.DataArray(
                X.data.reshape(N, -1),
                dims=("sample", "voxel"),
                coords={k: v for k, v in X.coords.items() if v.dims == ("sample",)},
            )
        )
    ),
    "discretize": lambda X: BASIS.discretize(X),
    "descriptors": lambda X: ShapeDescriptors(n_phases=2).fit(X).transform(X),
    "strain": lambda X: solve_fields(X, **ELASTIC).strain,
    "displacement": lambda X: solve_fields(X, **ELASTIC).displacement,
    "mean_stress": lambda X: mean_stress(X, **ELASTIC),
    "effective_stiffness": lambda X: effective_stiffness(X, **ELASTIC),
    "effective_expansion": lambda X: effective_expansion(X, eigenstrain=(1, 2), **ELASTIC),
    "gradient": lambda X: solve_conduction(X, conductivity=(1, 2)).gradient,
    "effective_conductivity": lambda X: effective_conductivity(X, conductivity=(1, 2)),
    "ElasticFESimulation": lambda X: ElasticFESimulation(**ELASTIC).run(X).stress,
    "CahnHilliard": lambda X: CahnHilliardSimulation().run(X.astype(float)).response,
    "free_energy": lambda X: CahnHilliardSimulation().free_energy(X.astype(float)),
}
ELASTIC = {"elastic_modulus": (100, 150), "poissons_ratio": (0.3, 0.3)}


@pytest.mark.parametrize("name", RESULTS)
def test_coordinates__survive_in_results(name, opened, tmp_path):
    assert_has_coords(RESULTS[name](with_coords()))
    lazy = RESULTS[name](opened.microstructure)
    assert_has_coords(lazy)
    if lazy.chunks and name != "localize flat samples":
        stored = materialize(lazy, tmp_path / "r.zarr", progress=False)
        assert_has_coords(stored)
        assert_array_equal(stored, lazy)
        assert not [coord for coord, values in stored.coords.items() if values.chunks]


def test_inverse_transform__has_the_labels_of_statistics():
    X = xr.DataArray(VALUES["X"], dims=DIMS, coords={"sample": NAMES, "x": 0.5 * np.arange(6), "y": 0.5 * np.arange(5)})
    for options in ({}, {"cutoff": 1, "correlations": [(1, 1)]}, {"weights": [2.0, 1.0]}):
        model = analysis(**options).fit(X)
        found, like = (
            model.inverse_transform(model.transform(X)),
            correlate(X, BASIS, **{k: v for k, v in options.items() if k != "weights"}),
        )
        assert found.dims == like.dims
        xr.testing.assert_equal(found.coords.to_dataset(), like.coords.to_dataset())
        assert_array_equal(found, model.inverse_transform(np.asarray(model.transform(X))))
    states = BASIS.discretize(X)
    model = MKSStructureAnalysis(None, n_components=2, correlations=[(1, 1)]).fit(states)
    assert model.inverse_transform(model.transform(states)).pair.values.tolist() == ["1,1"]
    f = correlate(X, BASIS)
    given = MKSStructureAnalysis(compute_correlations=False, n_components=2).fit(f)
    assert given.inverse_transform(given.transform(f)).dims == ("sample", "lag_x", "lag_y", "pair")


def test_flat_statistics__stay_what_scikit_learn_takes():
    X = xr.DataArray(VALUES["X"], dims=DIMS, coords={"sample": NAMES})
    statistics = TwoPointStatistics(BASIS, flatten=True)
    assert statistics.fit_transform(X).dims == ("sample", "feature")
    pipe, plain = (make_pipeline(statistics, SomePCA(2)) for _ in range(2))
    assert_array_equal(pipe.fit_transform(X), plain.fit_transform(VALUES["X"]))
    table = statistics.set_output(transform="pandas").fit_transform(X)
    assert table.shape == (N, 60)
    assert table.columns[0] == "f[0, 0; -3, -2]"


def test_fit__warns_of_an_index_in_another_order_than_samples_without_labels():
    X, y = VALUES["X"], np.arange(float(N))
    with pytest.warns(UserWarning, match=r"paired by position; pass y.sort_index\(\)"):
        MKSHomogenizationModel(BASIS, n_components=2).fit(X, pd.Series(y, index=np.roll(np.arange(N), 1)))
    # These numbers are those of other samples, as after a split.
    for index in (np.arange(N), np.arange(N)[::-1] + 1):
        MKSHomogenizationModel(BASIS, n_components=2).fit(X, pd.Series(y, index=index))


def test_coordinates__of_a_sample_are_those_of_its_windows(opened, tmp_path):
    windows = sample_windows(opened.microstructure[3], size=3)
    assert windows.sizes["sample"] == 2
    assert (str(windows.volume.values), str(windows.maker.values), float(windows.batch)) == (NAMES[3], "d", 3)
    create_ensemble(tmp_path / "w.zarr", windows)
    assert open_ensemble(tmp_path / "w.zarr").corner_x.values.tolist() == [0, 3]
    f = correlate(open_ensemble(tmp_path / "w.zarr").microstructure, BASIS)
    assert f.corner_x.values.tolist() == [0, 3]


def test_coordinates__of_lazy_results_are_computed_with_them(tmp_path):
    X = with_coords().chunk(sample=5)
    assert X.temperature.chunks
    assert_has_coords(materialize(correlate(X, BASIS), tmp_path / "f.zarr", progress=False))


# Tables and the command.


@pytest.mark.parametrize(
    "labels",
    [NAMES, [f"{i:03}" for i in range(N)], list(range(N, 2 * N)), np.arange(N) / 4, DATES],
    ids=["texts", "digits", "numbers", "fractions", "dates"],
)
def test_tables__pair_rows_by_label(labels, tmp_path):
    values = xr.Dataset({"p": labelled("number", labels)})
    index = values.indexes["sample"]
    write_table(values, tmp_path / "p.csv", overwrite=False)
    assert_array_equal(read_table(tmp_path / "p.csv", index[::-1]), VALUES["number"][::-1])
    table = pd.read_csv(tmp_path / "p.csv", dtype={"sample": str}, **EXACT)
    table[::-1].to_csv(tmp_path / "q.csv", index=False)
    assert_array_equal(read_table(tmp_path / "q.csv", index), VALUES["number"])
    with pytest.raises(
        ValueError, match=r"q\.csv must have the sample labels of the store, .*; write the label of each"
    ):
        read_table(tmp_path / "q.csv", pd.Index([*"abcdefghijkl"]))
    table.drop(columns="sample").to_csv(tmp_path / "r.csv", index=False)
    assert_array_equal(read_table(tmp_path / "r.csv", index[::-1]), VALUES["number"])


def test_tables__that_count_rows_have_no_labels(tmp_path):
    write_table(xr.Dataset({"p": ("sample", VALUES["number"])}), tmp_path / "p.csv", overwrite=False)
    assert_array_equal(read_table(tmp_path / "p.csv", pd.Index(NAMES)[::-1]), VALUES["number"])
    assert_array_equal(read_table(tmp_path / "p.csv", pd.RangeIndex(N)[::-1]), VALUES["number"][::-1])


def command(client, *arguments):
    ran = CliRunner().invoke(main, [*map(str, arguments), "--scheduler", client.scheduler.address])
    assert ran.exit_code == 0, ran.output
    return ran.output


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_command__results_keep_the_coordinates(opened, client, tmp_path):
    store = tmp_path / "e.zarr"
    save_model(homogenization().fit(VALUES["X"], VALUES["number"]), tmp_path / "h.model")
    save_model(MKSLocalizationModel(BASIS).fit(VALUES["X"], VALUES["field"]), tmp_path / "l.model")
    command(client, "stats", store, tmp_path / "f.zarr", "--states", 2, "--cutoff", 1)
    command(client, "predict", tmp_path / "h.model", store, tmp_path / "p.zarr")
    command(client, "predict", tmp_path / "h.model", store, tmp_path / "p.csv")
    command(client, "localize", tmp_path / "l.model", store, tmp_path / "s.zarr")
    for name in ("f", "p", "s"):
        assert_has_coords(xr.open_zarr(tmp_path / f"{name}.zarr").compute())
    assert pd.read_csv(tmp_path / "p.csv")["sample"].tolist() == NAMES


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_command__fit_pairs_a_table_by_label(opened, client, tmp_path):
    table = pd.DataFrame({"sample": NAMES, "p": VALUES["number"]})
    table.to_csv(tmp_path / "y.csv", index=False)
    table[::-1].to_csv(tmp_path / "z.csv", index=False)
    for name in "yz":
        options = ("--states", 2, "--components", 2, "--response", tmp_path / f"{name}.csv")
        command(client, "fit", tmp_path / "e.zarr", tmp_path / f"{name}.model", *options)
    first, second = (load_model(tmp_path / f"{name}.model") for name in "yz")
    assert_array_equal(first.coef_, second.coef_)
