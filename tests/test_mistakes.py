"""Typical mistakes: each is refused at the door with words that mend it, or is right."""

import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import xarray as xr
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from mksdask import (
    FourierBasis,
    GivenStates,
    GSHBasis,
    LegendreBasis,
    MissingPropertyWarning,
    MKSHomogenizationModel,
    MKSLocalizationModel,
    MKSStructureAnalysis,
    PrimitiveBasis,
    append_ensemble,
    create_ensemble,
    create_volume,
    load_model,
    open_ensemble,
    plan,
    reduction,
    regression,
    save_model,
    tools,
    verify,
)
from mksdask.datasets import (
    CahnHilliardSimulation,
    ComponentTexture,
    effective_stiffness,
    make_cahn_hilliard,
    make_checkerboard_microstructure,
    make_delta_microstructures,
    make_elastic_FE_strain_delta,
    make_microstructure,
    make_polycrystal,
)
from mksdask.descriptors import ShapeDescriptors
from mksdask.regression import KernelRegressor
from mksdask.simulation import effective_conductivity
from mksdask.stats import (
    TwoPointStatistics,
    autocorrelate,
    chord_lengths,
    cluster_statistics,
    correlate,
    correlate_volume,
    crosscorrelate,
    integral_range,
    mean_interval,
    pair_correlation,
    radial_average,
    representative_size,
    specific_surface,
)

RNG = np.random.default_rng(0)
X = RNG.integers(0, 2, (20, 12, 14))
Y = X.mean(axis=(1, 2))
RESULTS = {"params": [{"a": 1, "b": 2}], "mean_test_score": [0.5], "std_test_score": [0.1]}
Y4 = np.random.default_rng(4).normal(size=(20, 4))
BASIS = PrimitiveBasis(2)
PROBABILITIES = RNG.dirichlet(np.ones(3), (4, 6, 7))


def homogenize(samples, y=Y, basis=BASIS, **options):
    return MKSHomogenizationModel(basis, n_components=2).fit(samples, y, **options)


def localize(samples, basis=BASIS):
    return MKSLocalizationModel(basis).fit(samples, np.ones(getattr(samples, "shape", 1)))


# Doors at which a newcomer gives samples. They take a temporary folder too.
DOORS = {
    "homogenization": lambda samples, folder: homogenize(samples),
    "analysis": lambda samples, folder: MKSStructureAnalysis(BASIS, n_components=2).fit(samples),
    "localization": lambda samples, folder: localize(samples),
    "correlate": lambda samples, folder: correlate(samples, BASIS),
    "autocorrelate": lambda samples, folder: autocorrelate(samples, BASIS),
    "transformer": lambda samples, folder: TwoPointStatistics(BASIS).fit_transform(samples),
    "descriptors": lambda samples, folder: ShapeDescriptors(2).fit(samples),
    "create_ensemble": lambda samples, folder: create_ensemble(folder / "e.zarr", samples),
}
ALL = pytest.mark.parametrize("door", DOORS)
# Doors that look at values, not only at shapes.
READERS = pytest.mark.parametrize("door", ["homogenization", "analysis", "localization", "correlate", "transformer"])


# Ten mistakes


@READERS
def test_values__0_and_255_as_phases(door, tmp_path):
    with pytest.raises(
        ValueError, match=r"from 0 to 255, outside the domain.*two phases, number them 0 and 1.*X == 255"
    ):
        DOORS[door]((255 * X).astype(np.uint8), tmp_path)


@READERS
def test_values__more_phases_than_states(door, tmp_path):
    with pytest.raises(ValueError, match=r"from 0 to 2, outside.*phase numbers, use PrimitiveBasis\(3\)$"):
        DOORS[door](RNG.integers(0, 3, (20, 12, 14)), tmp_path)
    with pytest.raises(ValueError, match=r"use PrimitiveBasis\(4\), or number the phases from 0, such as X - 1"):
        DOORS[door](RNG.integers(1, 4, (20, 12, 14)), tmp_path)
    with pytest.raises(ValueError, match="rescale X, or give the basis the domain"):
        DOORS[door](RNG.normal(size=(20, 12, 14)), tmp_path)


@READERS
def test_values__nan(door, tmp_path):
    with pytest.raises(ValueError, match="X holds NaN or infinite values; leave out the samples"):
        DOORS[door](np.where(X == 3, 0.0, np.where(np.arange(14) == 5, np.nan, X)), tmp_path)


@READERS
def test_values__an_image_with_colours(door, tmp_path):
    colours = RNG.integers(0, 256, (20, 12, 14, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"last axis of X has the length 3: if it holds the colours of an image"):
        DOORS[door](colours, tmp_path)
    with pytest.raises(ValueError, match="an image with 4 colour channels; with basis=None"):
        correlate(RNG.integers(0, 256, (2, 12, 14, 4), dtype=np.uint8), None)
    with pytest.raises(ValueError, match="its last axis may be the colours of an image"):
        create_ensemble(tmp_path / "e.zarr", colours)
    # Lazy values are not looked at: shape and dtype say enough.
    with pytest.raises(ValueError, match="holds lazy uint8 values, and its last axis may be the colours of an image"):
        create_ensemble(tmp_path / "e.zarr", da.from_array(colours, chunks=(5, 12, 14, 3)))
    for given in (colours[0], da.from_array(colours[0])):
        with pytest.raises(ValueError, match=r"volume of shape .* may be the colours of an image; make .* volume\["):
            create_volume(tmp_path / "v.zarr", given)
    create_ensemble(tmp_path / "steps.zarr", da.from_array(colours), spacing=(1, 1, 1))
    create_volume(tmp_path / "volume.zarr", da.from_array(colours[0]), spacing=(1, 1, 1))
    create_volume(tmp_path / "named_volume.zarr", xr.DataArray(da.from_array(colours[0]), dims=("x", "y", "z")))
    # A film of three voxels is no image, and an axis of space may be named.
    create_ensemble(tmp_path / "film.zarr", (colours > 128).astype(np.uint8))
    create_ensemble(tmp_path / "named.zarr", xr.DataArray(colours, dims=("sample", "x", "y", "z")))
    assert open_ensemble(tmp_path / "named.zarr").sizes["z"] == 3


@ALL
@pytest.mark.parametrize("path", ["e.zarr", Path("scans") / "a.tif"])
def test_path__in_place_of_an_array(door, path, tmp_path):
    with pytest.raises(TypeError, match=r"X is the path '.*', not an array; read the file first, .*open_ensemble"):
        DOORS[door](path, tmp_path)


@pytest.mark.parametrize("path", ["y.csv", Path("y.csv")])
def test_path__in_place_of_properties(path, tmp_path):
    with pytest.raises(TypeError, match=r"y is the path 'y\.csv', not an array.*pandas\.read_csv"):
        MKSHomogenizationModel(BASIS).fit(X, path)
    with pytest.raises(TypeError, match=r"y is the path 'y\.csv'"):
        MKSLocalizationModel(BASIS).fit(X, path)
    with pytest.raises(TypeError, match=r"y is the path 'y\.csv'"):
        create_ensemble(tmp_path / "e.zarr", X, path)


def test_properties__of_another_length(tmp_path):
    with pytest.raises(ValueError, match="groups must have one entry for each of the 20 samples of X"):
        MKSHomogenizationModel(BASIS, property_linker="kernel").fit(X, Y, groups=np.zeros(3))
    with pytest.raises(ValueError, match=r"y must have one entry for each of the 20 samples of X, got shape \(19,\)$"):
        MKSHomogenizationModel(BASIS).fit(X, Y[1:])
    with pytest.raises(ValueError, match=r"got shape \(2, 20\); pass y\.T"):
        MKSHomogenizationModel(BASIS).fit(X, np.stack([Y, Y]))
    with pytest.raises(ValueError, match=r"y must hold a response of each voxel, shape \(20, 12, 14\)"):
        MKSLocalizationModel(BASIS).fit(X, Y)
    with pytest.raises(ValueError, match="y must have one entry for each of the 20 samples"):
        create_ensemble(tmp_path / "e.zarr", X, Y[1:])


@ALL
def test_shape__one_image_without_an_axis_of_samples(door, tmp_path):
    image = RNG.integers(0, 2, (64, 48))
    with pytest.raises(ValueError, match=r"If it is one image, add an axis of samples: X\[None\]"):
        DOORS[door](image, tmp_path)


@ALL
def test_shape__lists_of_unequal_arrays(door, tmp_path):
    samples = [np.zeros((12, 14), int)] * 3 + [np.zeros((12, 13), int)]
    with pytest.raises(ValueError, match=r"X\[0\] has the shape \(12, 14\) and X\[3\] the shape \(12, 13\); cut"):
        DOORS[door](samples, tmp_path)
    with pytest.raises(ValueError, match=r"y\[0\] has the shape \(2,\) and y\[1\] the shape \(3,\)"):
        MKSHomogenizationModel(BASIS).fit(X, [[1.0, 2.0], [1.0, 2.0, 3.0]])


class Tensor:
    """Stands for torch.Tensor, which has its own data types, and does not convert itself where it would copy."""

    def __init__(self, values, *, requires_grad=False, device="cpu"):
        self.values, self.requires_grad, self.device = np.asarray(values), requires_grad, device
        self.shape, self.ndim, self.dtype = self.values.shape, self.values.ndim, "torch.float32"

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return Tensor(self.values[index], requires_grad=self.requires_grad, device=self.device)

    def numpy(self):
        if self.device != "cpu":
            msg = f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy the tensor first."
            raise TypeError(msg)
        if self.requires_grad:
            msg = "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
            raise RuntimeError(msg)
        return self.values

    def __array__(self, dtype=None):
        return self.numpy() if dtype is None else self.numpy().astype(dtype, copy=False)


def test_tensor__of_another_library_works(tmp_path):
    f = correlate(X, BASIS)
    assert_array_equal(correlate(Tensor(X), BASIS), f)
    fitted = MKSHomogenizationModel(BASIS, n_components=2).fit(Tensor(X), Tensor(Y))
    assert_array_equal(fitted.predict(Tensor(X)), homogenize(X).predict(X))
    MKSLocalizationModel(BASIS).fit(Tensor(X), Tensor(X)).predict(Tensor(X))
    create_ensemble(tmp_path / "e.zarr", Tensor(X), Tensor(Y))
    assert_array_equal(open_ensemble(tmp_path / "e.zarr").microstructure, X)


@ALL
def test_tensor__that_cannot_be_converted_says_what_to_do(door, tmp_path):
    with pytest.raises(TypeError, match=r"X of type Tensor cannot be converted.*Use tensor\.detach\(\)\.numpy\(\)"):
        DOORS[door](Tensor(X, requires_grad=True), tmp_path)
    with pytest.raises(TypeError, match=r"X of type Tensor cannot be converted.*Use Tensor\.cpu\(\)"):
        DOORS[door](Tensor(X, device="cuda:0"), tmp_path)
    with pytest.raises(TypeError, match=r"y of type Tensor cannot be converted"):
        MKSHomogenizationModel(BASIS).fit(X, Tensor(Y, requires_grad=True))


# Tables


def test_table__of_flat_samples_needs_their_size():
    table = pd.DataFrame(X.reshape(20, -1), columns=[f"pixel {i}" for i in range(168)])
    with pytest.raises(
        ValueError, match=r"X is a DataFrame with the columns \['pixel 0'.*pass its spatial shape as size="
    ):
        homogenize(table)
    fitted = homogenize(table, size=(12, 14))
    assert_array_equal(fitted.predict(table), homogenize(X).predict(X))
    voxels = pd.DataFrame({"x": [0, 1], "y": [0, 0], "phase": [0, 1]})
    with pytest.raises(ValueError, match="If each row is a voxel, make an array"):
        correlate(voxels, BASIS)


def test_table__of_properties():
    table = pd.DataFrame({"C11": Y, "C12": 2.0 * Y})
    expected = homogenize(X, np.stack([Y, 2.0 * Y], axis=1)).predict(X)
    assert_array_equal(homogenize(X, table).predict(X), expected)
    assert homogenize(X, table["C11"]).predict(X).shape == (20,)
    with pytest.raises(TypeError, match=r"y is a DataFrame whose columns \['batch'\] are not numeric; select"):
        homogenize(X, table.assign(batch="a"))


# Samples without a property


def test_gaps__are_said_once_and_can_be_ignored():
    partly = np.where(np.arange(20) < 3, np.nan, Y)
    with pytest.warns(MissingPropertyWarning, match=r"^3 of 20 samples have no property \(NaN in y\)\.") as caught:
        homogenize(X, partly)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", MissingPropertyWarning)
        homogenize(X, partly)
        homogenize(X, Y)


# Values that would be converted without a word


def test_properties__that_would_be_converted_without_a_word():
    masked = np.ma.masked_array(Y, Y > 0.5)
    linkers = [PCA, regression.LeastSquares, KernelRegressor, regression.polynomial_regression]
    scores = RNG.normal(size=(20, 3))
    for call in (homogenize, lambda X, y: homogenize(X, Y).score(X, y)):
        with pytest.raises(TypeError, match=r"y is a masked array, and its mask would be lost; pass y\.filled"):
            call(X, masked)
    for linker in linkers[1:]:
        with pytest.raises(TypeError, match="y is a masked array"):
            linker().fit(scores, masked)
        with pytest.raises(TypeError, match="X is a masked array"):
            linker().fit(np.ma.masked_array(scores, scores > 1), Y)
    structured = np.zeros(20, dtype=[("a", float)])
    for y, told in {
        "text": (Y.astype(str), r"property_linker (?s:.*) is a regressor, which needs real numbers"),
        "bytes": (Y.astype("S"), "y must hold numbers, or text for classes"),
        "dates": (np.arange(20).astype("M8[D]"), "y must hold numbers, or text for classes, got dtype datetime64"),
        "times": (np.arange(20).astype("m8[s]"), "y must hold numbers"),
        "structured": (structured, "y must hold numbers"),
        "complex": (Y * 1j, "is a regressor, which needs real numbers"),
    }.values():
        with pytest.raises(TypeError, match=told):
            homogenize(X, y)
        for linker in linkers[1:]:
            with pytest.raises((TypeError, ValueError), match=r"\by\b"):
                linker().fit(scores, y)


def test_phases__have_one_name_each(tmp_path):
    three = RNG.integers(0, 3, (6, 5, 5), dtype=np.uint8)
    for create in (create_ensemble, create_volume):
        with pytest.raises(TypeError, match=r"phases must be a list of names.*got 'pore'"):
            create(tmp_path / "e.zarr", three, phases="pore")
        for given in (three, da.from_array(three, chunks=(2, 5, 5))):
            with pytest.raises(ValueError, match=r"phases must name each phase, but \['a', 'b'\] has no name for.*2"):
                create(tmp_path / "e.zarr", given, phases=["a", "b"])
            with pytest.raises(ValueError, match="phases must name each phase"):
                create(tmp_path / "e.zarr", given * 0.5, phase=given, phases=["a", "b"])
    create_ensemble(tmp_path / "e.zarr", three[:, :, :] % 2, phases=["a", "b"])
    with pytest.raises(ValueError, match="phases must name each phase"):
        append_ensemble(tmp_path / "e.zarr", three)
    with pytest.raises(TypeError, match="phases must be a list of names"):
        tools.draw_microstructures(three[:2], phases="ab")
    with pytest.raises(ValueError, match="phases must name each phase"):
        tools.draw_microstructures(three[:2], phases=["a", "b"])


@pytest.mark.parametrize("value", [252.0, -3.0, np.nan])
def test_confidence__outside_its_range_is_not_stored(value, tmp_path):
    mask = np.ones(X.shape)
    mask[3, 2, 1] = value
    for given in (mask, da.from_array(mask, chunks=(5, 12, 14))):
        with pytest.raises(ValueError, match=r"confidence_index must lie in \[0, 1\]"):
            create_ensemble(tmp_path / "e.zarr", X, confidence_index=given)
        with pytest.raises(ValueError, match=r"confidence_index must lie in \[0, 1\]"):
            create_volume(tmp_path / "v.zarr", X, confidence_index=given)
    assert not list(tmp_path.glob("*.zarr"))
    create_ensemble(tmp_path / "e.zarr", X, confidence_index=np.ones(X.shape))
    with pytest.raises(ValueError, match=r"confidence_index must lie in \[0, 1\]"):
        append_ensemble(tmp_path / "e.zarr", X, confidence_index=mask)
    assert open_ensemble(tmp_path / "e.zarr").sizes["sample"] == 20


def test_append__of_numbers_beyond_the_stored_precision(tmp_path):
    create_ensemble(tmp_path / "e.zarr", X, Y.astype("float32"))
    with pytest.raises(ValueError, match=r"response holds values from .* to 1e\+300.*float32 cannot hold"):
        append_ensemble(tmp_path / "e.zarr", X, np.where(np.arange(20) == 3, 1e300, Y))
    assert open_ensemble(tmp_path / "e.zarr").sizes["sample"] == 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda url: create_ensemble(url, X, units=np.nan), "units must be a text, got nan"),
        (lambda url: create_ensemble(url, X, units="banana"), "units must be a unit of length, such as 'um', got 'ban"),
        (lambda url: create_volume(url, X[0], units="GPa"), "known ones are m, cm, mm, um, .* Say 'voxel' if lengths"),
        (lambda url: create_ensemble(url, X, resume="no"), "resume must be True or False, got 'no'"),
        (lambda url: make_microstructure(2, (5, 5), volume_fraction=(np.nan, 0.5)), "volume_fraction must hold 2"),
        (lambda url: make_microstructure(2, (5, 5), n_phases=True), "n_phases must be an integer between 1 and 65536"),
        (lambda url: make_microstructure(True, (5, 5)), "n_samples must be an integer from 1, got True"),
        (lambda url: make_microstructure(2, (5, 5), seed=True), "seed must be an integer"),
        (lambda url: CahnHilliardSimulation().run(X - 0.5, n_steps=True), "n_steps must be an integer from 0"),
        (lambda url: CahnHilliardSimulation().run(X - 0.5, n_steps=10**12), "n_steps must be an integer from 0"),
        (lambda url: KernelRegressor(alpha=0.1, gamma=1.0).fit(Y[:, None], Y * 1e300), "overflowed"),
        (lambda url: KernelRegressor(alpha=1e-300, gamma=1e-300).fit(Y[:, None], Y), "alpha=1e-300 is too small"),
        (lambda url: regression.LeastSquares().fit(Y[:, None], Y * 1.7e308), "overflowed"),
        (lambda url: MKSLocalizationModel(BASIS, order=2).fit(X, X - 1e300), "the kernels overflow"),
        (lambda url: MKSLocalizationModel(BASIS, order=2, alpha="gcv").fit(X, X - 1e300), "the kernels overflow"),
        (
            lambda url: reduction.PCA(2).fit(Y4).inverse_transform(xr.DataArray(Y4)),
            r"X must hold scores of the 2 components of",
        ),
        (lambda url: reduction.PCA(2).fit(Y4).inverse_transform(xr.DataArray(Y4[None])), r"got shape \(1, 20, 4\)"),
        (lambda url: correlate(X, BASIS, confidence_index=da.from_array(X.astype(str))), "confidence_index must hold"),
        (
            lambda url: tools.draw_evolution(memoryview(Y4)),
            "datasets must be a list of arrays of scores, got <memory",
        ),
        (lambda url: tools.draw_components_scatter([Y4[:, :2].astype(str)]), "datasets must hold numbers"),
        (lambda url: tools.draw_components_scatter([Y4[:, :2]], component_labels=["a"]), "component_labels must name"),
        (lambda url: tools.draw_gridscores_matrix(RESULTS, ["a", "b"], param_labels=["a"]), "must each name two para"),
        (lambda url: tools.draw_correlations(Y4, correlations=memoryview(Y4)), "correlations must be pairs in memory"),
        (lambda url: tools.draw_microstructure_strain(X[0], X[0].astype("M8[s]")), "strain must hold numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value")
def test_numbers__that_make_no_sense(call, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        call(tmp_path / "e.zarr")


@pytest.mark.parametrize(
    "call",
    [
        lambda: make_microstructure(10**9, (1000, 1000)),
        lambda: make_microstructure(10**9, (1000, 1000), chunks=10**8),
        lambda: make_cahn_hilliard(10**9, (1000, 1000)),
        lambda: make_polycrystal(10**9, (100, 100, 100)),
        lambda: make_checkerboard_microstructure(10**4, 10**4, ndim=3),
        lambda: make_delta_microstructures(200, (10**4, 10**4)),
        lambda: regression.polynomial_regression(50).fit(RNG.normal(size=(20, 12)), Y),
    ],
)
def test_sizes__that_do_not_fit_say_what_they_would_take(call):
    with pytest.raises(ValueError, match=r"needs .*[KMGTPE]iB|needs .*bytes"):
        call()


# Bases


@pytest.mark.parametrize("call", [correlate, autocorrelate, crosscorrelate, lambda X, basis: localize(X, basis)])
def test_basis__that_is_none(call):
    for cls in (PrimitiveBasis, FourierBasis):
        with pytest.raises(
            TypeError, match=rf"got the class {cls.__name__}; pass {cls.__name__}\(\) with its n_states"
        ):
            call(X, cls)
    with pytest.raises(TypeError, match=r"got the number 3; if it is the number of phases, pass PrimitiveBasis\(3\)"):
        call(X, 3)
    with pytest.raises(TypeError, match=r"basis must be a basis such as PrimitiveBasis.*got 'primitive'"):
        call(X, "primitive")


def test_classes__in_place_of_reducers_and_linkers():
    with pytest.raises(TypeError, match=r"dimension_reducer must be an instance, got the class PCA; pass PCA\(\)"):
        MKSStructureAnalysis(BASIS, dimension_reducer=PCA).fit(X)
    with pytest.raises(TypeError, match=r"property_linker must be an instance, got the class KernelRegressor"):
        MKSHomogenizationModel(BASIS, property_linker=KernelRegressor).fit(X, Y)


@ALL
def test_dataset__in_place_of_a_variable(door, tmp_path):
    dataset = xr.Dataset({"microstructure": (("sample", "x", "y"), X), "response": ("sample", Y)})
    with pytest.raises(
        TypeError, match=r"X is an xarray.Dataset; pass one of its variables, such as X\['microstructure'\]"
    ):
        DOORS[door](dataset, tmp_path)
    with pytest.raises(TypeError, match=r"such as X\['grey'\].*none of them is 'microstructure'"):
        DOORS[door](xr.Dataset({"grey": (("sample", "x", "y"), X)}), tmp_path)
    with pytest.raises(TypeError, match=r"y is an xarray.Dataset; pass one of its variables, such as y\['response'\]"):
        MKSHomogenizationModel(BASIS).fit(X, dataset)


# basis=None


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (X, r"several ways.*If it holds phases, pass their basis, such as PrimitiveBasis\(2\)"),
        (X[:, None], r"X holds int64 values from 0 to 1; with basis=None it must be m\[h; s\]"),
        (X[:, None].astype(bool), "X holds bool values"),
        (X[:, None].astype(float), "sums to 1 over the 14 states along its last axis; got the sum"),
        (np.stack([X] * 3, axis=1), "such as PrimitiveBasis"),
        (RNG.random((3, 9, 9, 2)), r"pass basis=GivenStates\(2\)"),
        (1.01 * PROBABILITIES, r"got the sum 1\.01 in a voxel"),
        # Sums of 1 that are no probabilities.
        (np.stack([2.0 + X, -1.0 - X], axis=-1), r"is not negative and sums to 1.*got the states \[\d\.0, -\d\.0\]"),
        # A first state of 1/2, as a Legendre expansion has it, beside numbers that belong to no expansion.
        (np.stack([0.5 + 0.0 * X, 3.0 * X], axis=-1), r"got the sum \d\.5 in a voxel.*GivenStates\(2\)"),
        (
            np.concatenate([0.5 + 0.0 * X[..., None], RNG.random((20, 12, 14, 2))], axis=-1),
            "sums to 1 over the 3 states",
        ),
        (np.full((3, 9, 9, 1), 0.5), r"got the sum 0\.5"),
        (RNG.random((3, 9, 9, 2)) + 1j, r"has a first state of 1 if it is complex; got a first state of 0\.\d+\+1j"),
    ],
)
def test_given_states__refuse_what_is_none(fields, message, lazy):
    given = da.from_array(fields, chunks=(2, *fields.shape[1:])) if lazy else fields

    def analysis():
        return MKSStructureAnalysis(None, n_components=2).fit(given)

    for call in (lambda: np.asarray(correlate(given, None)), analysis):
        with pytest.raises(ValueError, match=message):
            call()


def test_given_states__are_refused_in_volumes_and_localization():
    with pytest.raises(ValueError, match="PrimitiveBasis"):
        np.asarray(correlate_volume(X, None, cutoff=2))
    with pytest.raises(ValueError, match="sums to 1"):
        MKSLocalizationModel().fit(RNG.random((4, 6, 7, 2)), RNG.random((4, 6, 7)))
    fitted = MKSLocalizationModel().fit(PROBABILITIES, RNG.random((4, 6, 7)))
    with pytest.raises(ValueError, match="sums to 1"):
        fitted.predict(2.0 * PROBABILITIES)
    with pytest.raises(ValueError, match=r"X has the dims \('sample', 'x', 'y'\) and no axis of states"):
        correlate(xr.DataArray(X, dims=("sample", "x", "y")), None)


@pytest.mark.parametrize(
    "basis",
    [
        PrimitiveBasis(3, domain=(0, 1)),
        LegendreBasis(3, domain=(0, 1)),
        LegendreBasis(2, domain=(0, 1)),
        LegendreBasis(9, domain=(0, 1)),
        FourierBasis(3, domain=(0, 1)),
        GSHBasis(4),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_given_states__take_what_discretize_makes(basis, dtype):
    values = RNG.random((3, 6, 7, *(3,) * basis.state_axes))
    m = basis.discretize(values, dtype=dtype)
    expected = correlate(values, basis, correlations=[(0, 1)], dtype="float64")
    assert_allclose(correlate(m, None, correlations=[(0, 1)], dtype="float64"), expected, atol=1e-6)
    labelled = xr.DataArray(values, dims=("sample", "x", "y", *("angle",) * basis.state_axes))
    some = type(basis)([1, 2]).discretize(labelled, dtype=dtype)
    assert correlate(some, None, correlations=[(0, 1)]).shape == (3, 6, 7, 1)
    # Voxels without a confidence may hold anything, and those beside them still show what they are.
    seen = RNG.random((3, 6, 7)) > 0.3
    holes = np.where(seen[..., None], m, 7.0)
    assert np.isfinite(correlate(holes, None, confidence_index=seen, cutoff=1)).all()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32"])
def test_given_states__take_indicators_and_probabilities(dtype):
    expected = correlate(X, BASIS)
    indicators = np.stack([1 - X, X], axis=-1).astype(dtype)
    assert_allclose(correlate(indicators, None), expected, atol=1e-6)
    if dtype.startswith("float"):
        assert correlate(PROBABILITIES.astype(dtype), None).shape == (4, 6, 7, 3)


@pytest.mark.parametrize("hole", [np.nan, 0.0, 7.0])
def test_given_states__may_be_anything_where_nothing_was_measured(hole):
    seen = RNG.random((4, 6, 7)) > 0.3
    m = np.where(seen[..., None], PROBABILITIES, hole)
    expected = correlate(PROBABILITIES, None, confidence_index=seen, dtype="float64")
    assert_allclose(correlate(m, None, confidence_index=seen, dtype="float64"), expected, atol=1e-12)
    found = correlate_volume(m[0], None, confidence_index=seen[0], cutoff=2, dtype="float64")
    assert_allclose(
        found, correlate_volume(PROBABILITIES[0], None, confidence_index=seen[0], cutoff=2, dtype="float64"), atol=1e-12
    )


def test_given_states__that_are_named_take_any_field():
    height = RNG.normal(size=(4, 6, 7, 1))
    f = correlate(height, GivenStates(1), periodic_axes=[0, 1], dtype="float64")
    assert_allclose(f[:, 3, 3, 0], (height[..., 0] ** 2).mean(axis=(1, 2)))
    assert_array_equal(
        f,
        correlate(
            xr.DataArray(height, dims=("sample", "x", "y", "state")),
            None,
            periodic_axes=[0, 1],
            dtype="float64",
        ),
    )
    with pytest.raises(ValueError, match=r"X must be \(n_samples, \*spatial, 2\)"):
        correlate(height, GivenStates(2))
    with pytest.raises(TypeError, match=r"use GivenStates\(1, is_complex=True\)"):
        correlate(height * 1j, GivenStates(1))
    model = MKSLocalizationModel(GivenStates(1)).fit(height, height[..., 0])
    assert_allclose(model.predict(height), height[..., 0], atol=1e-10)


def test_given_states__are_saved_with_their_rules(tmp_path):
    fields, y = RNG.normal(size=(4, 6, 7, 3)), RNG.normal(size=(4, 6, 7))
    save_model(MKSLocalizationModel(GivenStates(3)).fit(fields, y), tmp_path / "named.zarr")
    assert load_model(tmp_path / "named.zarr").predict(fields).shape == (4, 6, 7)
    save_model(MKSLocalizationModel().fit(PROBABILITIES, y), tmp_path / "none.zarr")
    with pytest.raises(ValueError, match="sums to 1"):
        load_model(tmp_path / "none.zarr").predict(fields)


# Shapes that can be read in several ways


@ALL
@pytest.mark.parametrize(
    ("n_voxels", "guess"), [(1, r"\(1, 1\)"), (8, r"\(2, 2, 2\)"), (9, r"\(3, 3\)"), (10, r"\(n_x, n_y\)")]
)
@pytest.mark.parametrize("lazy", [False, True])
def test_lines__are_never_guessed_however_short(door, n_voxels, guess, lazy, tmp_path):
    lines = RNG.integers(0, 2, (20, n_voxels))
    given = da.from_array(lines, chunks=(5, n_voxels)) if lazy else lines
    argument = "spacing=" if door == "create_ensemble" else rf"size=\({n_voxels},\)"
    flat = rf"reshape them to \(n_samples, {guess[2:]}" if door == "create_ensemble" else f"pass size={guess}"
    with pytest.raises(ValueError, match=rf"can be read in several ways.*If it holds flat samples, {flat}.*{argument}"):
        DOORS[door](given, tmp_path)


def test_lines__one_size_of_voxels_says_that_they_have_one_axis(tmp_path):
    lines = RNG.integers(0, 2, (9, 9)).astype(float)
    with pytest.raises(ValueError, match=r"several ways.*spacing=.* with the size of a voxel along this axis"):
        create_ensemble(tmp_path / "e.zarr", lines)
    create_ensemble(tmp_path / "e.zarr", lines, spacing=[0.5])
    assert dict(open_ensemble(tmp_path / "e.zarr").sizes) == {"sample": 9, "x": 9}
    simulation = CahnHilliardSimulation()
    for call in (simulation.run, simulation.free_energy):
        with pytest.raises(ValueError, match=r"several ways.*pass dx="):
            call(lines - 0.5)
    named = simulation.run(xr.DataArray(lines - 0.5, dims=("sample", "x"))).response
    assert_array_equal(CahnHilliardSimulation(dx=[0.25]).run(lines - 0.5).response, named)


def test_lines__angles_and_states_may_be_one_image_too():
    with pytest.raises(ValueError, match=r"X of shape \(8, 9, 3\) can be read in several ways.*If it is one image"):
        correlate(RNG.random((8, 9, 3)), GSHBasis(4))
    with pytest.raises(ValueError, match=r"X of shape \(6, 7, 3\) can be read in several ways.*If it is one image"):
        correlate(PROBABILITIES[0], None)
    assert correlate(PROBABILITIES[0], None, size=(7,)).shape == (6, 7, 3)


@pytest.mark.parametrize(
    ("n_voxels", "guess"), [(441, r"size=\(21, 21\)"), (1331, r"size=\(11, 11, 11\)"), (168, r"size=\(n_x, n_y\)")]
)
def test_flat__needs_its_size(n_voxels, guess):
    flat = RNG.integers(0, 2, (5, n_voxels))
    with pytest.raises(ValueError, match=rf"If it holds flat samples, pass {guess}.*pass size=\({n_voxels},\), or"):
        correlate(flat, BASIS)
    line = correlate(flat, BASIS, size=(n_voxels,), cutoff=2)
    assert line.shape == (5, 5, 2)
    named = xr.DataArray(flat, dims=("sample", "x"))
    assert_array_equal(correlate(named, BASIS, cutoff=2), line)
    with pytest.raises(ValueError, match="can be read in several ways"):
        correlate(named.rename(x="voxel"), BASIS)
    analysis = MKSStructureAnalysis(BASIS, n_components=2, cutoff=2).fit(flat, size=(n_voxels,))
    assert analysis.transform(flat).shape == (5, 2)


def test_flat__is_unfolded_by_correlate():
    for call in (correlate, autocorrelate, crosscorrelate):
        assert_array_equal(call(X.reshape(20, -1), BASIS, size=(12, 14)), call(X, BASIS))
    m = BASIS.discretize(X)
    assert_array_equal(autocorrelate(m.reshape(20, -1), None, size=(12, 14)), autocorrelate(m, None))


def test_one_sample__where_the_shape_of_a_sample_is_known():
    fitted = homogenize(X)
    for call in (fitted.predict, localize(X).predict, ShapeDescriptors(2).fit(X).transform):
        with pytest.raises(ValueError, match=r"X of shape \(12, 14\) is one sample.*add the axis: X\[None\]"):
            call(X[0])
    with pytest.raises(ValueError, match=r"X of shape \(12, 14\) is one sample"):
        correlate(X[0], BASIS, size=(12, 14))
    with pytest.raises(ValueError, match=r"add an axis of samples: X\[None\]"):
        correlate(X[0, 0], BASIS)
    with pytest.raises(ValueError, match=r"add an axis of samples: X\[None\]"):
        effective_stiffness(X[0], elastic_modulus=(1, 2), poissons_ratio=(0.3, 0.3))
    with pytest.raises(ValueError, match=r"X\[None\]"):
        CahnHilliardSimulation().run(X[0] - 0.5)


def test_axes__in_another_order_are_refused():
    X = xr.DataArray(make_microstructure(n_samples=12, size=(9, 9)), dims=("sample", "x", "y"))
    turned, y = X.transpose("sample", "y", "x"), np.arange(12.0)
    fitted = [
        MKSHomogenizationModel(BASIS, n_components=2).fit(X, y).predict,
        MKSStructureAnalysis(BASIS, n_components=2).fit(X).transform,
        MKSLocalizationModel(BASIS).fit(X, X).predict,
        ShapeDescriptors().fit(X).transform,
    ]
    for call in fitted:
        with pytest.raises(ValueError, match=r"fit saw \('x', 'y'\); use X.transpose\('sample', 'x', 'y', ...\)"):
            call(turned)
        assert_allclose(call(turned.transpose("sample", "x", "y", ...)), call(X))
    for call in (
        lambda X: effective_stiffness(X, elastic_modulus=(1, 2), poissons_ratio=(0.3, 0.3)),
        lambda X: effective_conductivity(X, conductivity=(1, 2)),
    ):
        with pytest.raises(ValueError, match=r"components of tensors are in the order \('x', 'y'\)"):
            call(turned)
        # Other names of axes say nothing of their order.
        assert_allclose(call(X.rename(x="row", y="column")), call(X))


def test_coordinates__of_uneven_steps_are_refused():
    volume = xr.DataArray(RNG.integers(0, 2, (9, 9)), dims=("x", "y"), coords={"x": np.arange(9.0) ** 2})
    with pytest.raises(ValueError, match=r"'x' must hold evenly spaced numbers.*got \[0\.0, 1\.0, 4\.0, 9\.0\], …;"):
        correlate_volume(volume, BASIS, cutoff=3)
    assert correlate_volume(volume.drop_vars("x"), BASIS, cutoff=3).lag_x[-1] == 3
    rounded = volume.assign_coords(x=np.round(np.arange(9) / 3, 1))
    assert correlate_volume(rounded, BASIS, cutoff=3).lag_x[-1] == pytest.approx(1.0, rel=0.02)


def test_append__refuses_other_phases_and_voxels(tmp_path):
    def labelled(step, units, phases):
        coords = {dim: (dim, np.arange(6) * step, {"units": units}) for dim in ("x", "y")}
        return xr.DataArray(X, dims=("sample", "x", "y"), coords=coords, attrs={"phases": phases})

    X = RNG.integers(0, 2, (5, 6, 6), dtype="uint8")
    create_ensemble(tmp_path / "e.zarr", labelled(0.5, "um", ["pore", "grain"]))
    for step, units, phases, message in [
        (1.0, "um", ["pore", "grain"], r"X has voxels of 1 .m × 1 .m, and the ensemble of 0\.5 .m × 0\.5 .m"),
        (0.5, "nm", ["pore", "grain"], "X has voxels of 0.5 nm"),
        (0.5, "um", ["grain", "pore"], r"X has the phases \['grain', 'pore'\], and the ensemble has"),
    ]:
        with pytest.raises(ValueError, match=message):
            append_ensemble(tmp_path / "e.zarr", labelled(step, units, phases))
    append_ensemble(tmp_path / "e.zarr", labelled(500.0, "nm", []))  # the same voxels in another unit
    assert open_ensemble(tmp_path / "e.zarr").sizes["sample"] == 10


def test_ensemble__of_shuffled_rows_warns(tmp_path):
    X, y = RNG.integers(0, 2, (5, 6, 6)), pd.Series(np.arange(5.0))
    create_ensemble(tmp_path / "e.zarr", X, y)
    with pytest.warns(UserWarning, match="the index of y holds the numbers of the samples in another order"):
        append_ensemble(tmp_path / "e.zarr", X, y[::-1])


def test_beginners__are_told_what_to_type(tmp_path):
    named = xr.DataArray(RNG.integers(0, 2, (6, 6)), dims=("x", "y"), attrs={"phases": ["pore", "grain"]})
    for phase in ("pore", 2, -1):
        for call in (lambda phase: chord_lengths(named, phase), lambda phase: cluster_statistics(named, phase=phase)):
            with pytest.raises(ValueError, match=r"number of a phase, .*; the phases are 0 pore, 1 grain$"):
                call(phase)
    with pytest.raises(ValueError, match="error must be a number between 0 and 1"):
        representative_size(named, error=1)
    with pytest.raises(ValueError, match="or a function of volumes, such as correlate_volume"):
        correlate(named, BASIS)
    with pytest.raises(TypeError, match=r"basis must be a basis.*got ndarray of shape \(6, 6\) and dtype int64$"):
        correlate(BASIS, named.to_numpy())
    with pytest.raises(TypeError, match=r"got an object of DataArray.*such as plan\(correlate, X, basis\)"):
        plan(named)
    for name, call in (("e", open_ensemble), ("v", verify)):
        with pytest.raises(FileNotFoundError, match=f"{name} does not exist"):
            call(tmp_path / name)
    with pytest.raises(ValueError, match="there is nothing at this place"):
        load_model(tmp_path / "m")


@pytest.mark.parametrize("function", [radial_average, specific_surface, integral_range, pair_correlation])
@pytest.mark.parametrize("fewer", [1, 2])
def test_statistics__of_one_or_several_samples(function, fewer):
    samples = RNG.integers(0, 2, (3, 8, 9)[: 1 + fewer])
    f = autocorrelate(samples, BASIS, size=samples.shape[1:], periodic_axes=list(range(fewer)))
    with pytest.raises(ValueError, match=rf"pass n_spatial={fewer + 1} if .* one sample.*or n_spatial={fewer} if"):
        function(f)
    found = function(f, n_spatial=fewer)
    assert found.shape[0] == 3
    assert_allclose(
        found,
        function(
            autocorrelate(
                xr.DataArray(samples, dims=("sample", "x", "y")[: 1 + fewer]), BASIS, periodic_axes=list(range(fewer))
            )
        ),
    )
    # As one sample with one axis more, it is another thing.
    assert function(f, n_spatial=fewer + 1).shape != found.shape


def test_statistics__that_can_be_read_in_one_way_only():
    line = autocorrelate(RNG.integers(0, 2, (1, 9)), BASIS, size=(9,))[0]
    assert_array_equal(radial_average(line), radial_average(line, n_spatial=1))
    volumes = autocorrelate(RNG.integers(0, 2, (2, 5, 6, 7)), BASIS)
    assert_array_equal(specific_surface(volumes), specific_surface(volumes, n_spatial=3))
    with pytest.raises(ValueError, match="statistics must be"):
        radial_average(volumes[None])


@pytest.mark.parametrize("draw", [tools.draw_correlations, tools.draw_autocorrelations, tools.draw_crosscorrelations])
def test_figures__of_statistics_of_several_samples(draw):
    f = autocorrelate(X, BASIS)
    draw(f[0])
    with pytest.raises(ValueError, match=r"pass n_spatial=3 if it is .*or one sample, X_corr\[0\]"):
        draw(f[:3])
    with pytest.raises(ValueError, match=r"statistics of one sample.*n_spatial=2; of several samples, pass one"):
        draw(f[:3], n_spatial=2)
    volume = autocorrelate(RNG.integers(0, 2, (1, 5, 6, 7)), BASIS)
    draw(volume[0], n_spatial=3)
    draw(autocorrelate(xr.DataArray(RNG.integers(0, 2, (1, 5, 6, 7)), dims=("sample", "x", "y", "z")), BASIS)[0])
    with pytest.raises(ValueError, match="of several samples, pass one"):
        draw(volume)


def test_figures__of_one_image():
    with pytest.raises(ValueError, match=r"may be one field in 2D, or several in 1D; pass microstructures\[None\]"):
        tools.draw_microstructures(X[0])
    with pytest.raises(ValueError, match=r"pass strains\[None\] if it is one, or list\(strains\)"):
        tools.draw_strains(X[0] * 1.0)
    tools.draw_microstructures(X[0][None])
    tools.draw_microstructures(list(X[0, :3]))
    tools.draw_microstructures(xr.DataArray(X[0, :3], dims=("sample", "x")))


def test_accessor__of_dims_without_names():
    with pytest.raises(ValueError, match=r"dims \('dim_0', 'dim_1', 'dim_2'\).*name them 'sample', 'x', 'y', 'z'"):
        xr.DataArray(X).mks.correlate(BASIS)


def test_zarr__and_lazy_arrays_are_looked_at_alike():
    flat = X.reshape(20, -1)
    for given in (zarr.array(flat), da.from_array(flat, chunks=(5, 168))):
        with pytest.raises(ValueError, match=r"X of shape \(20, 168\) can be read in several ways"):
            correlate(given, BASIS)


UNKNOWN = da.ones((6, 2), chunks=(3, 2))[da.ones(6, chunks=3) > 0]
SOME = da.ones((6, 5, 2), chunks=(3, 5, 2))[da.ones(6, chunks=3) > 0]
ODD = {
    "groups": lambda _: KernelRegressor().fit(np.eye(6), np.arange(6.0), groups=[None] * 6),
    "y is sparse": lambda _: regression.polynomial_regression(1).fit(np.eye(6), scipy.sparse.csr_array(np.eye(6))),
    "X must be a matrix": lambda _: regression.polynomial_regression(1).fit([np.eye(2), np.eye(3)], [1.0, 2.0]),
    "correlations must be pairs in memory": lambda _: correlate(X, BASIS, correlations=UNKNOWN),
    "correlations must be pairs in memory, such": lambda _: tools.draw_components(np.eye(4), correlations=UNKNOWN),
    "correlations must be pairs in": lambda _: autocorrelate(X, BASIS, correlations=UNKNOWN),
    "view_angles must be two angles": lambda _: tools.draw_components_scatter([np.eye(3)], view_angles=(2, 2, 2, 2)),
    "view_angles must be in memory": lambda _: tools.draw_components_scatter([np.eye(3)], view_angles=UNKNOWN),
    "X has chunks of unknown sizes": lambda _: KernelRegressor().fit(UNKNOWN, np.arange(6.0)),
    "call X.compute_chunk_sizes": lambda _: plan(correlate, SOME.astype(int), BASIS),
    "y must have one entry": lambda _: KernelRegressor(n_landmarks=2).fit(UNKNOWN.compute_chunk_sizes(), SOME[:, 0]),
    "statistics has chunks of unknown sizes": lambda _: specific_surface(SOME, n_spatial=1),
    "at most 1024 phases, got n_phases=9223372036854775808": lambda _: ShapeDescriptors(2**63).fit(X),
    "width must be a positive number below": lambda _: make_cahn_hilliard(1, (4, 4), width=1e300),
    "X must hold real numbers": lambda _: KernelRegressor(n_landmarks=2).fit(da.ones((6, 2)).astype(str), np.ones(6)),
    "makes more than 1000000 shells": lambda _: radial_average(np.ones((1, 5, 5, 1)), n_spatial=2, width=1e-9),
    "fields of one sample each": lambda _: tools.draw_strains_compare(
        *[xr.DataArray(X[:2, 0] * 1.0, dims=("sample", "x"))] * 2
    ),
    "microstructure must be one sample": lambda _: tools.draw_microstructure_strain(
        xr.DataArray(X[:2, 0], dims=("sample", "x")), X[:2, 0] * 1.0
    ),
    "components must have shape": lambda _: tools.draw_components([]),
    r"n_features\), got <xarray": lambda _: regression.polynomial_regression(1).fit(
        xr.Dataset({"a": ("x", [1.0])}), [1.0]
    ),
    "makes more than 1000000 chunks": lambda _: make_microstructure(10**12, (5, 5), chunks=8),
    "'x' must hold evenly spaced numbers": lambda _: mean_interval(
        xr.DataArray(X[0] * 1.0, dims=("x", "y"), coords={"x": [0] * 12})
    ),
    "'x' must have the size of a voxel as its attribute 'spacing', got 0": lambda _: mean_interval(
        xr.DataArray(X[0, :1] * 1.0, dims=("x", "y"), coords={"x": ("x", [0], {"spacing": 0})})
    ),
    "elastic_modulus": lambda _: make_elastic_FE_strain_delta(UNKNOWN[:, 0], size=(3, 3)),
    "descriptors must be some of": lambda _: ShapeDescriptors(descriptors=UNKNOWN).fit(X),
    "spread must be an angle": lambda _: ComponentTexture([0.1, 0.2, 0.3], spread=1e300),
    "spacing": lambda folder: create_volume(folder / "v.zarr", X, spacing=[np.eye(2), np.eye(3)]),
    "a figure shows real numbers": lambda _: tools.draw_microstructure_strain(X[0], np.full(X[0].shape, np.nan + 1j)),
    "ax must be axes of matplotlib": lambda _: tools.draw_component_variance([0.5, 0.2], ax=[xr.Dataset()]),
    "the estimator cannot be scored with this X, y, cv, params": lambda _: tools.draw_learning_curves(
        Ridge(), np.eye(20), np.arange(20.0), params={"a": 1}
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("told", ODD)
def test_odd__arguments_are_named(tmp_path, told):
    with pytest.raises((TypeError, ValueError), match=told):
        ODD[told](tmp_path)


# Masked arrays of dask, and what is said of chunks and axes


def test_masks_of_dask_arrays_are_not_lost(tmp_path):
    plain = da.from_array(RNG.integers(0, 2, (8, 8)), chunks=4)
    volume = da.ma.masked_equal(plain, 0)
    told = (
        r"volume is a masked array.*dask\.array\.ma\.getdata\(volume\), and confidence_index=~dask\.array\.ma\.getmask"
    )
    for call in (
        lambda: correlate_volume(volume, PrimitiveBasis(2), cutoff=2),
        lambda: create_volume(tmp_path / "v.zarr", volume),
    ):
        with pytest.raises(TypeError, match=told):
            call()
    with pytest.raises(TypeError, match=r"confidence_index is a masked array"):
        correlate_volume(plain, PrimitiveBasis(2), cutoff=2, confidence_index=volume)
    y = da.ma.masked_less(da.from_array(Y, chunks=5), 0.5)
    with pytest.raises(TypeError, match="y is a masked array"):
        homogenize(X, y)


def test_chunks_and_axes_are_told_as_they_are():
    lazy = da.from_array(X, chunks=(5, *X.shape[1:]))
    with pytest.raises(ValueError, match=r"X has chunks of unknown sizes; call X\.compute_chunk_sizes\(\) first"):
        correlate(lazy.rechunk({1: 2})[lazy[:, 0, 0] > 0], PrimitiveBasis(2))
    with pytest.raises(ValueError, match=r"cut into \(4, 2, 1\) chunks. Use X = X\.rechunk\({0: 5, 1: -1, 2: -1}\)"):
        correlate(lazy.rechunk({1: -(-X.shape[1] // 2)}), PrimitiveBasis(2))
    with pytest.raises(ValueError, match=r"volume must be \(\*spatial\) .*got shape \(1, 20, .*select one of them"):
        correlate_volume(np.broadcast_to(X, (1, *X.shape))[..., None], PrimitiveBasis(2), cutoff=1)
    model = homogenize(X, Y)
    with pytest.raises(ValueError, match=r"X cannot be used: Found array with 0 sample"):
        model.predict(X[:0])
