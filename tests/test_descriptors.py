"""Descriptors of shape against closed forms and brute force."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import FeatureUnion, make_pipeline

from mksdask import MKSStructureAnalysis, PrimitiveBasis, create_ensemble, open_ensemble
from mksdask.datasets import make_microstructure
from mksdask.datasets.responses import make_elastic_stiffness
from mksdask.descriptors import DESCRIPTORS, ShapeDescriptors
from mksdask.regression import polynomial_regression
from mksdask.stats import correlate, specific_surface
from tests.conftest import real_data
from tests.helpers import computes


def described(X, **options):
    shape = ShapeDescriptors(**options)
    return dict(zip(shape.fit(X).get_feature_names_out(), shape.transform(X).T, strict=True))


def test_clusters__across_periodic_sides():
    X = np.zeros((1, 6, 6), int)
    X[0, 0, 1:3] = X[0, 5, 2] = X[0, 3, 3] = X[0, 2, 0] = X[0, 2, 5] = 1
    open_ends = described(X)
    assert open_ends["clusters 1"] * 36 == 5
    assert_allclose(open_ends["largest cluster 1"], 2 / 6)
    assert described(X, periodic_axes=[0])["clusters 1"] * 36 == 4
    closed = described(X, periodic_axes=[0, 1])
    assert closed["clusters 1"] * 36 == 3
    assert_allclose(closed["largest cluster 1"], 3 / 6)
    assert_allclose([closed["fraction 0"][0], closed["fraction 1"][0]], [30 / 36, 6 / 36])


@pytest.mark.parametrize("periodic_axes", [(), [0, 2], [0, 1, 2]])
def test_interface__is_the_specific_surface_of_two_phases(periodic_axes):
    X = make_microstructure(n_samples=3, size=(12, 10, 8), grain_size=3)
    found = described(X, periodic_axes=periodic_axes, descriptors=["interface"])["interface 0-1"]
    expected = specific_surface(
        correlate(X, PrimitiveBasis(2), periodic_axes=[0, 1, 2], correlations=[(0, 0)]), n_spatial=3
    )[:, 0]
    if len(periodic_axes) == 3:
        assert_allclose(found, expected, rtol=1e-5)
    else:
        assert_allclose(found, expected, rtol=0.1)


def test_interface_and_junctions__of_three_phases_by_brute_force():
    X = np.random.default_rng(0).integers(0, 3, size=(2, 5, 4, 6))
    found = described(X, descriptors=["interface", "junctions"])
    for sample in range(2):
        V = X[sample]
        crossings = dict.fromkeys([(0, 1), (0, 2), (1, 2)], 0.0)
        for axis in range(3):
            n_faces = 0
            here = dict.fromkeys(crossings, 0)
            for place in np.ndindex(*V.shape):
                beside = list(place)
                beside[axis] += 1
                if beside[axis] < V.shape[axis]:
                    n_faces += 1
                    pair = tuple(sorted((V[place], V[tuple(beside)])))
                    if pair in here:
                        here[pair] += 1
            crossings = {pair: crossings[pair] + here[pair] / n_faces for pair in crossings}
        for (a, b), value in crossings.items():
            assert_allclose(found[f"interface {a}-{b}"][sample], 2 * value / 3)
        junctions = sum(
            len(set(window.ravel())) >= 3
            for shape in ((2, 2, 1), (2, 1, 2), (1, 2, 2))
            for window in np.lib.stride_tricks.sliding_window_view(V, shape).reshape(-1, 4)
        )
        assert_allclose(found["junctions"][sample], junctions / V.size)


def test_diffusivity__is_that_of_taufactor():
    # A slanted strip, whose tortuosity the tests of TauFactor 1.2.1 give to five digits.
    strip = np.zeros((20, 21, 21), dtype=int)
    for i in range(20):
        strip[i, i : i + 2, i : i + 2] = 1
    found = described(strip[None], descriptors=["diffusivity"])
    assert_allclose(strip.mean() / found["diffusivity x 1"], 7.51667, rtol=1e-6)


def test_diffusivity__closed_forms():
    straight = np.zeros((1, 8, 6, 5), int)
    straight[0, :, 2:4, 1:4] = 1
    found = described(straight, descriptors=["diffusivity"])
    assert_allclose(found["diffusivity x 1"], 6 / 30, rtol=1e-7)
    assert_allclose([found["diffusivity y 1"][0], found["diffusivity z 1"][0]], 0.0)
    assert_allclose(described(1 - straight, descriptors=["diffusivity"])["diffusivity x 0"], 6 / 30, rtol=1e-7)
    # A channel one voxel wide: resistances in series, half a voxel at each end.
    bent = np.zeros((1, 7, 7), int)
    bent[0, :4, 1] = bent[0, 3, 1:6] = bent[0, 3:, 5] = 1
    n_links = 3 + 4 + 3
    expected = 1 / (n_links + 1) * 7 / 7
    assert_allclose(described(bent, descriptors=["diffusivity"])["diffusivity x 1"], expected, rtol=1e-6)
    # Through a periodic side.
    split = np.zeros((1, 4, 6), int)
    split[0, :2, 0] = split[0, 1:, 5] = 1
    assert described(split, descriptors=["diffusivity"])["diffusivity x 1"] == 0
    across = described(split, descriptors=["diffusivity"], periodic_axes=[1])["diffusivity x 1"]
    assert_allclose(across, 1 / 5 * 4 / 6, rtol=1e-6)
    stretched = xr.DataArray(
        bent, dims=("sample", "x", "y"), coords={"x": ("x", 2.0 * np.arange(7)), "y": ("y", 1.0 * np.arange(7))}
    )
    found = float(
        ShapeDescriptors(descriptors=["diffusivity"]).fit_transform(stretched).sel(descriptor="diffusivity x 1")[0]
    )
    # Six links of length 2 and width 1, four of length 1 and width 2, and two halves.
    assert_allclose(found, (7 * 2 / 7) / (6 * 2 + 4 * 0.5 + 2), rtol=1e-6)


def test_descriptors__lazy_labelled_flat_and_named(tmp_path):
    X = make_microstructure(n_samples=7, size=(9, 8), n_phases=3, grain_size=2)
    shape = ShapeDescriptors(periodic_axes=[0, 1]).fit(X)
    expected = shape.transform(X)
    assert expected.shape == (7, shape.n_features_out_)
    with computes(0):
        lazy = shape.transform(da.from_array(X, chunks=(3, 9, 8)))
    assert lazy.chunks[0] == (3, 3, 1)
    assert_array_equal(lazy, expected)
    flat = ShapeDescriptors(3, periodic_axes=[0, 1]).fit(X.reshape(7, -1), size=(9, 8))
    assert_array_equal(flat.transform(X.reshape(7, -1)), expected)
    create_ensemble(tmp_path / "e.zarr", X, periodic_axes=[0, 1], phases=("a", "b", "c"), spacing=2.0, units="um")
    with computes(0):
        labelled = (
            clone(shape).set_params(periodic_axes=None).fit_transform(open_ensemble(tmp_path / "e.zarr").microstructure)
        )
    assert labelled.dims == ("sample", "descriptor")
    assert_allclose(labelled.sel(descriptor="interface 0-1"), expected[:, 9] / 2)
    assert_allclose(labelled.sel(descriptor="clusters 1"), expected[:, 4] / 4)
    assert_array_equal(
        labelled.sel(descriptor="diffusivity x 0"), expected[:, list(labelled.descriptor).index("diffusivity x 0")]
    )


def test_descriptors__beside_statistics_in_one_linkage():
    X, y = make_elastic_stiffness(n_samples=(40, 40), size=(13, 13), grain_size=((2, 2), (6, 3)))
    both = FeatureUnion(
        [
            ("statistics", MKSStructureAnalysis(PrimitiveBasis(2), n_components=3, periodic_axes=[0, 1])),
            ("shape", ShapeDescriptors(2, descriptors=["interface", "largest"], periodic_axes=[0, 1])),
        ]
    )
    linkage = make_pipeline(both, polynomial_regression(1)).fit(X[::2], y[::2])
    assert linkage.score(X[1::2], y[1::2]) > 0.95
    lazy = both.transform(da.from_array(X, chunks=(30, 13, 13)))
    assert isinstance(lazy, da.Array)
    assert_allclose(lazy, both.transform(X), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"descriptors": ["length"]}, f"descriptors must be some of {', '.join(DESCRIPTORS)}"),
        ({"descriptors": "fraction"}, "descriptors must be some of"),
        ({"descriptors": []}, "descriptors must be some of"),
        ({"n_phases": 0}, "n_phases must be a positive integer, got 0"),
        ({"n_phases": 1}, "phase numbers 0…0"),
    ],
)
def test_descriptors__bad_arguments(options, message):
    X = make_microstructure(n_samples=2, size=(6, 6), grain_size=2)
    with pytest.raises(ValueError, match=message):
        ShapeDescriptors(**options).fit(X).transform(X)
    with pytest.raises(ValueError, match="samples of 2 axes as in fit"):
        ShapeDescriptors().fit(X).transform(X[:, None])


@pytest.mark.parametrize(
    ("size", "periodic_axes"), [((9, 8), []), ((9, 8), [1]), ((6, 7, 5), [1]), ((5, 6, 6), [0, 1, 2]), ((7, 6, 1), [2])]
)
def test_diffusivity__equals_an_independent_assembly(size, periodic_axes):
    mask = np.random.default_rng(0).random(size) < 0.75
    spacing = (1.0, 2.0, 0.5)[: len(size)]
    coords = {dim: step * np.arange(n) for dim, step, n in zip("xyz", spacing, size, strict=False)}
    if size[-1] == 1:
        coords, spacing = {}, (1.0,) * 3
    X = xr.DataArray(mask[None].astype(int), dims=("sample", *"xyz"[: len(size)]), coords=coords)
    shape = ShapeDescriptors(2, descriptors=["diffusivity"], periodic_axes=periodic_axes)
    found = shape.fit_transform(X)
    for axis, name in enumerate("xyz"[: len(size)]):
        # A resistor network with two more nodes, the inlet and the outlet.
        n = mask.size
        matrix = np.zeros((n + 2, n + 2))

        def join(a, b, conductance, matrix=matrix):
            matrix[[a, b], [a, b]] += conductance
            matrix[[a, b], [b, a]] -= conductance

        number = np.arange(n).reshape(size)
        for place in np.ndindex(size):
            if not mask[place]:
                continue
            for along, step in enumerate(spacing):
                there = list(place)
                there[along] = (place[along] + 1) % size[along]
                is_inside = there[along] > place[along] or (along in periodic_axes and along != axis)
                if is_inside and there != list(place) and mask[tuple(there)]:
                    join(number[place], number[tuple(there)], 1.0 / step**2)
            for end, node in ((0, n), (size[axis] - 1, n + 1)):
                if place[axis] == end:
                    join(number[place], node, 2.0 / spacing[axis] ** 2)
        right = -matrix[:n, n]
        inside = np.linalg.lstsq(matrix[:n, :n], right, rcond=1e-12)[0]
        flow = (matrix[n, :n] @ inside + matrix[n, n]) * spacing[axis] ** 2
        expected = flow * size[axis] / (mask.size / size[axis])
        assert_allclose(float(found.sel(descriptor=f"diffusivity {name} 1")[0]), expected, rtol=1e-6, atol=1e-9)


def test_diffusivity__raises_if_it_does_not_converge(monkeypatch):
    monkeypatch.setattr("mksdask.descriptors.MOST_ITERATIONS", 2)
    X = make_microstructure(n_samples=1, size=(12, 12), grain_size=3)
    with pytest.raises(ArithmeticError, match="diffusivity along x did not converge"):
        described(X, descriptors=["diffusivity"])


def test_descriptors__of_a_tomogram():
    import tifffile

    pages = tifffile.imread(real_data("berea_400.tif"), key=range(48))[:, :48, :48]
    X = (pages == 255).astype(np.uint8).transpose(2, 1, 0)[None]
    found = {name: float(value[0]) for name, value in described(X).items()}
    assert_allclose(found["fraction 1"], X.mean())
    assert found["largest cluster 1"] > 0.98
    grain = [found[f"diffusivity {axis} 1"] for axis in "xyz"]
    # Below the bounds of Wiener and of Hashin and Shtrikman, and not far from it.
    assert all(0.4 < value < 2 * X.mean() / (3 - X.mean()) for value in grain)
    assert all(found[f"diffusivity {axis} 0"] < 0.1 for axis in "xyz")
