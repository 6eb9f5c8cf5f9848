"""Texture: series of single components and fibres in closed form, quadratures, Mackenzie's distribution, and orix."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose
from scipy.spatial.transform import Rotation
from scipy.special import beta, eval_legendre

from mksdask import GSHBasis, PrimitiveBasis, create_volume, open_volume, plan
from mksdask.bases.gsh import LAUE_GROUPS, bunge_angles, symmetry_rotations
from mksdask.datasets import FibreTexture, make_polycrystal
from mksdask.importers import import_ebsd
from mksdask.stats import correlate, halos
from mksdask.texture import (
    mackenzie_density,
    misorientation_density,
    odf,
    pole_figure,
    texture_coefficients,
    texture_index,
    volume_misorientation_density,
    volume_texture_coefficients,
)
from tests.conftest import real_data
from tests.helpers import chunked, computes, sample_chunks, tasks_per_chunk

RNG = np.random.default_rng(0)
GROUPS = ["triclinic", "monoclinic", "tetragonal", "trigonal", "hexagonal", "cubic-low", "cubic"]


def random_angles(n, seed=0):
    return bunge_angles(Rotation.random(n, rng=seed))


def full(domain, degree, **options):
    return GSHBasis(None, domain=domain, max_degree=degree, **options)


def sphere(degree):
    """Directions and weights of a quadrature over the sphere."""
    height, weights = np.polynomial.legendre.leggauss(degree + 1)
    azimuth = np.arange(2 * degree + 2) * np.pi / (degree + 1)
    across = np.sqrt(1 - height**2)[:, None]
    y = np.stack(np.broadcast_arrays(across * np.cos(azimuth), across * np.sin(azimuth), height[:, None]), axis=-1)
    return y, np.broadcast_to(weights[:, None], y.shape[:-1]) / weights.sum() / len(azimuth)


def all_orientations(degree):
    """Bunge angles and weights of a quadrature over all orientations."""
    y, weights = sphere(degree)
    phi1, tilt = np.arctan2(y[..., 1], y[..., 0]) % (2 * np.pi), np.arccos(y[..., 2])
    phi2 = np.arange(2 * degree + 2) * np.pi / (degree + 1)
    return np.stack(np.broadcast_arrays(phi1[..., None], tilt[..., None], phi2), axis=-1), weights


@pytest.mark.parametrize("domain", GROUPS)
def test_odf__of_one_component_is_its_series(domain):
    degree, (first, *others) = 6, random_angles(9)
    C = texture_coefficients(np.broadcast_to(first, (1, 2, 3, 3)), full(domain, degree))
    found = odf(C, full(domain, degree), [first, *others])[0]
    # The mean over the group of Σ (2 l + 1) χ_l(ω), with χ_l(ω) = sin((2 l + 1) ω / 2) / sin(ω / 2).
    turned = Rotation.from_euler("ZXZ", first).inv() * Rotation.from_euler("ZXZ", [first, *others])
    expected = np.zeros(9)
    for s in symmetry_rotations(domain):
        half = 0.5 * np.maximum((turned * s).magnitude(), 1e-7)
        for l in range(degree + 1):  # noqa: E741
            expected += (2 * l + 1) * np.sin((2 * l + 1) * half) / np.sin(half) / len(symmetry_rotations(domain))
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert float(texture_index(C, full(domain, degree))[0]) == pytest.approx(found[0])


@pytest.mark.parametrize(("domain", "halfwidth"), [("cubic", 30), ("hexagonal", 40)])
def test_odf__of_a_smoothed_component_is_the_kernel(domain, halfwidth):
    angles, basis = random_angles(40, 1), full(domain, 24)
    C = texture_coefficients(angles[None, :1], basis, size=(1,), halfwidth=np.deg2rad(halfwidth))
    found = odf(C[0], basis, angles)
    kappa = 0.5 * np.log(0.5) / np.log(np.cos(0.5 * np.deg2rad(halfwidth)))
    turned = Rotation.from_euler("ZXZ", angles[0]).inv() * Rotation.from_euler("ZXZ", angles)
    shapes = [np.cos(0.5 * (turned * s).magnitude()) ** (2 * kappa) for s in symmetry_rotations(domain)]
    expected = beta(1.5, 0.5) / beta(1.5, kappa + 0.5) * np.mean(shapes, axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-6 * expected.max())


@pytest.mark.parametrize("halfwidth", [None, np.deg2rad(10)])
def test_odf__of_a_fibre_is_its_series(halfwidth):
    degree, h, y = 16, np.array([1.0, 1.0, 1.0]) / np.sqrt(3), np.array([0.6, 0.0, 0.8])
    align, _ = Rotation.align_vectors(y[None], h[None])
    fibre = bunge_angles(Rotation.from_rotvec(np.arange(40)[:, None] * 2 * np.pi / 40 * y) * align)
    basis = full("cubic", degree)
    C = volume_texture_coefficients(fibre, basis, halfwidth=halfwidth).compute()
    angles = random_angles(20, 2)
    single = texture_coefficients(angles[None, :1], full("triclinic", degree), size=(1,), halfwidth=halfwidth)[0]
    factors = np.array([abs(single[k]) for k in range(len(single))])
    bare = texture_coefficients(angles[None, :1], full("triclinic", degree), size=(1,))[0]
    degrees = np.array([index.l for index in full("triclinic", degree).index_])
    kernel = [(factors[degrees == l] / np.abs(bare[degrees == l])).mean() for l in range(degree + 1)]  # noqa: E741
    # The angle between y and the direction of each crystal that is equal to h.
    of_crystals = symmetry_rotations("cubic").apply(h)
    cosines = np.stack([Rotation.from_euler("ZXZ", angles).apply(each) @ y for each in of_crystals])
    series = sum((2 * l + 1) * kernel[l] * eval_legendre(l, cosines) for l in range(degree + 1))  # noqa: E741
    np.testing.assert_allclose(odf(C, basis, angles), series.mean(axis=0), atol=1e-9)
    # Its own pole figure, and that of another pole.
    points, weights = sphere(degree)
    found = pole_figure(C, basis, h, points)
    assert np.sum(weights * found) == pytest.approx(1)
    for pole in (h, np.array([0.0, 0.0, 1.0])):
        poles = symmetry_rotations("cubic").apply(pole)
        means = [
            (2 * l + 1) * kernel[l] * eval_legendre(l, points @ y) * np.mean(eval_legendre(l, poles @ h))
            for l in range(0, degree + 1, 2)  # noqa: E741
        ]
        np.testing.assert_allclose(pole_figure(C, basis, pole, points), sum(means), atol=1e-9)


def test_odf__of_all_orientations_is_one():
    X, weights = all_orientations(8)
    weights = np.broadcast_to(weights[..., None], X.shape[:-1])
    basis = full("hexagonal", 8)
    C = texture_coefficients(X[None], basis, confidence_index=weights / weights.max())
    np.testing.assert_allclose(C[0], np.eye(len(C[0]))[0], atol=1e-12)
    np.testing.assert_allclose(odf(C[0], basis, step=np.deg2rad(15)), 1, atol=1e-10)
    np.testing.assert_allclose(pole_figure(C[0], basis, (1, 0, 0), step=np.deg2rad(15)), 1, atol=1e-10)
    assert float(texture_index(C[0], basis)) == pytest.approx(1)


@pytest.mark.parametrize("domain", GROUPS)
@pytest.mark.parametrize("sample_symmetry", ["triclinic", "orthorhombic"])
def test_pole_figure__is_the_series_of_directions_and_has_mean_one(domain, sample_symmetry):
    degree, angles, pole = 6, random_angles(5, 3), RNG.normal(size=3)
    basis = full(domain, degree, sample_symmetry=sample_symmetry)
    C = texture_coefficients(angles[None], basis, size=(5,))
    points, weights = sphere(degree)
    found = pole_figure(C, basis, 2.0 * pole, 3.0 * points)[0]
    assert np.sum(weights * found) == pytest.approx(1)
    np.testing.assert_allclose(found, pole_figure(C, basis, -pole, -points)[0], atol=1e-10)
    equal = symmetry_rotations(domain).apply(pole / np.linalg.norm(pole))
    expected = np.zeros(points.shape[:-1])
    rotations = Rotation.from_euler("ZXZ", angles)
    for of_sample in symmetry_rotations(sample_symmetry):
        for h in equal:
            for y in (of_sample * rotations).apply(h):
                expected += sum((2 * l + 1) * eval_legendre(l, points @ y) for l in range(0, degree + 1, 2))  # noqa: E741
    expected /= 5 * len(equal) * len(symmetry_rotations(sample_symmetry))
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("domain", ["triclinic", "cubic", "hexagonal"])
@pytest.mark.parametrize("sample_symmetry", ["triclinic", "orthorhombic"])
def test_odf__grid_covers_all_orientations_once(domain, sample_symmetry):
    basis = full(domain, 4, sample_symmetry=sample_symmetry)
    f = odf(texture_coefficients(random_angles(3)[None], basis, size=(3,))[0], basis, step=np.deg2rad(5))
    weights = [np.r_[0.5, np.ones(n - 2), 0.5] for n in f.shape]
    weights[1] = weights[1] * np.sin(f.Phi.values)
    mean = np.einsum("ijk,i,j,k->", f.values, *(w / w.sum() for w in weights))
    square = np.einsum("ijk,i,j,k->", f.values**2, *(w / w.sum() for w in weights))
    assert mean == pytest.approx(1, abs=3e-3)
    C = texture_coefficients(random_angles(3)[None], basis, size=(3,))
    assert square == pytest.approx(float(texture_index(C, basis)[0]), rel=3e-3)


def test_coefficients__are_two_point_statistics_of_the_constant():
    X, basis = make_polycrystal(3, size=(6, 7), n_grains=8), full("cubic", 6)
    f = correlate(X, basis, correlations=[(0, h) for h in basis.states], periodic_axes=[0, 1], dtype="float64")
    np.testing.assert_allclose(texture_coefficients(X, basis), f[:, 3, 3], atol=1e-12)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 300), st.booleans())
def test_volumes__match_samples_under_any_tiling(voxels, masked):
    X, confidence = make_polycrystal(1, size=(7, 6, 5), n_grains=9, seed=3, dtype="float32"), None
    if masked:
        confidence = np.random.default_rng(voxels).choice([0.0, 0.5, 1.0], size=(7, 6, 5))
        X[0][confidence == 0] = np.nan
    basis, given_ = full("cubic", 4), {"confidence_index": confidence}
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="sync"):
        patch.setattr(halos, "BLOCK_VOXELS", voxels)
        C = volume_texture_coefficients(X[0], basis, **given_).compute()
        found = volume_misorientation_density(X[0], periodic_axes=[0, 2], **given_).compute()
        lazy = da.from_array(X[0], chunks=(3, 4, 5, 3)) + np.float32(0)
        again = volume_misorientation_density(lazy, periodic_axes=[0, 2], **given_).compute()
    np.testing.assert_allclose(C, texture_coefficients(X, basis, **given_)[0], atol=1e-12)
    expected = misorientation_density(X, periodic_axes=[0, 2], **given_).isel(sample=0)
    xr.testing.assert_allclose(found, expected)
    xr.testing.assert_equal(found, again)


@pytest.mark.parametrize(("group", "periodic"), [("triclinic", (0, 1)), ("trigonal", ()), ("hexagonal", (1,))])
def test_misorientations__match_bruteforce(group, periodic):
    X = random_angles(20, 5).reshape(1, 4, 5, 3)
    confidence = RNG.choice([0.0, 0.5, 1.0], size=(1, 4, 5))
    labelled = xr.DataArray(
        X,
        dims=("sample", "x", "y", "angle"),
        coords={"x": ("x", np.arange(4) * 2.0), "y": ("y", np.arange(5) * 0.5)},
    )
    least, width = np.deg2rad(20), np.deg2rad(10)
    options = {"width": width, "least": least, "periodic_axes": list(periodic)}
    found = misorientation_density(labelled, group, confidence_index=confidence, **options)
    angles, weights = [], []
    symmetry = symmetry_rotations(group)
    for s in np.ndindex(4, 5):
        for axis, share in ((0, 0.25), (1, 1.0)):
            t = list(s)
            t[axis] += 1
            if t[axis] == X.shape[1 + axis]:
                if axis not in periodic:
                    continue
                t[axis] = 0
            a, b = (Rotation.from_euler("ZXZ", X[(0, *place)]) for place in (s, t))
            angles.append(min((p * a.inv() * b * symmetry).magnitude().min() for p in symmetry))
            weights.append(share * confidence[(0, *s)] * confidence[(0, *t)])
    angles, weights = np.array(angles), np.array(weights)
    there = angles >= least
    edges = np.append(0, found.angle.values)
    counts, _ = np.histogram(angles[there], edges, weights=weights[there])
    np.testing.assert_allclose(found.density[0], counts / weights[there].sum() / width, atol=1e-12)
    assert float(found["mean"][0]) == pytest.approx(np.average(angles[there], weights=weights[there]))
    assert float(found.boundaries[0]) == pytest.approx(weights[there].sum() / weights.sum())


def mackenzie(degrees):
    """The closed form of Mackenzie for cubes, per degree."""
    w, root = np.deg2rad(degrees), np.sqrt(2)
    cot, sine, rest = 1 / np.tan(np.maximum(w, 1e-9) / 2), np.sin(w), 1 - np.cos(w)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = (root - 1) / np.sqrt(1 - (root - 1) ** 2 * cot**2)
        y = (root - 1) ** 2 / np.sqrt(3 - cot**2)
        third = 2 / 15 * ((3 * (root - 1) + 4 / np.sqrt(3)) * sine - 6 * rest)
        last = 2 * (root - 1) * np.arccos(x * cot) + np.arccos(y * cot) / np.sqrt(3)
        more = 2 * np.arccos((root + 1) * x / root) + np.arccos((root + 1) * y / root)
        fourth = third + 8 / 5 / np.pi * (rest * more - sine * last)
    return np.select(
        [degrees <= 45, degrees <= 60, degrees <= 60.72, degrees <= 62.79],
        [2 / 15 * rest, 2 / 15 * (3 * (root - 1) * sine - 2 * rest), third, fourth],
        0.0,
    )


def test_mackenzie__is_the_closed_form():
    degrees = np.linspace(0, 65, 1301)
    found = mackenzie_density(np.deg2rad(degrees)) * np.pi / 180
    np.testing.assert_allclose(found, mackenzie(degrees), atol=2e-5)
    assert degrees[np.argmax(found)] == pytest.approx(45, abs=0.05)
    assert (degrees * found).sum() * 0.05 == pytest.approx(40.736, abs=0.01)
    assert degrees[found > 0].max() == pytest.approx(62.8, abs=0.05)


@pytest.mark.parametrize("group", LAUE_GROUPS)
def test_mackenzie__is_what_random_orientations_have(group):
    fine = np.deg2rad(np.arange(0.05, 180, 0.1))
    density = mackenzie_density(fine, group)
    assert density.sum() * np.deg2rad(0.1) == pytest.approx(1, abs=1e-3)
    X = random_angles(90_000, 7).reshape(1, 300, 300, 3)
    found = misorientation_density(X, group, least=0.0, width=np.deg2rad(10)).isel(sample=0)
    for number, upper in enumerate(found.angle.values):
        there = (fine < upper) & (fine > upper - np.deg2rad(10))
        assert float(found.density[number]) * np.deg2rad(10) == pytest.approx(
            density[there].sum() * np.deg2rad(0.1), abs=0.006
        )
    assert float(found["mean"]) == pytest.approx((fine * density).sum() * np.deg2rad(0.1), rel=0.004)


def test_misorientations__are_those_of_orix():
    quaternion = pytest.importorskip("orix.quaternion", reason="orix is not installed (extra: orix)")
    X = random_angles(60, 9).reshape(1, 2, 30, 3)
    for group, symmetry in {"cubic": "Oh", "hexagonal": "D6h", "trigonal": "D3d"}.items():
        # orix has passive rotations from sample to crystal.
        orientations = quaternion.Orientation.from_euler(X[0], symmetry=getattr(quaternion.symmetry, symmetry))
        expected = orientations[0].angle_with(orientations[1])
        for number in range(0, 30, 3):
            found = misorientation_density(X[:, :, number : number + 1], group)
            assert float(found["mean"][0]) == pytest.approx(expected[number], abs=1e-6)


def test_pole_figure__has_its_peaks_where_orix_has_poles():
    quaternion = pytest.importorskip("orix.quaternion", reason="orix is not installed (extra: orix)")
    vector = pytest.importorskip("orix.vector")
    angles, basis = random_angles(1, 11), full("cubic", 16)
    C = texture_coefficients(angles[None], basis, size=(1,), halfwidth=np.deg2rad(15))[0]
    orientation = quaternion.Orientation.from_euler(angles, symmetry=quaternion.symmetry.Oh)
    poles = (~orientation).outer(vector.Vector3d([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]])).data.reshape(-1, 3)
    at_poles = pole_figure(C, basis, (1, 1, 1), poles)
    everywhere = pole_figure(C, basis, (1, 1, 1))
    assert at_poles.min() > 0.95 * float(everywhere.max())


def test_texture__lazy_labelled_and_planned(tmp_path):
    X = make_polycrystal(6, size=(8, 9), n_grains=7, chunks=2)
    labelled = xr.DataArray(X, dims=("sample", "x", "y", "angle"), coords={"sample": list("abcdef")})
    basis = full("cubic", 4)
    with computes(0):
        C = texture_coefficients(labelled, basis)
        figures = odf(C, basis), pole_figure(C, basis, (1, 1, 1)), texture_index(C, basis)
        found = misorientation_density(labelled)
    assert tasks_per_chunk(C.data) <= 3
    assert [each.dims[0] for each in figures] == ["sample"] * 3
    assert figures[0].sample.values.tolist() == list("abcdef")
    assert C.function.values.tolist()[:2] == ["0,0,0", "4,0,-4"]
    assert found.density.dims == ("sample", "angle")
    with computes(1):
        values = dask.compute(*figures, found)
    C_now = texture_coefficients(np.asarray(X), basis)
    np.testing.assert_array_equal(values[0], odf(C_now, basis))
    np.testing.assert_allclose(values[2], texture_index(C_now, basis))
    create_volume(tmp_path / "v.zarr", np.asarray(X)[0].astype("float32"), chunks=4, spacing=0.5, units="um")
    stored = open_volume(tmp_path / "v.zarr").microstructure
    with computes(0):
        of_volume = volume_texture_coefficients(stored, basis)
        volume_misorientation_density(stored)
    np.testing.assert_allclose(of_volume, C_now[0], atol=1e-6)
    for call, data in {
        texture_coefficients: labelled,
        misorientation_density: labelled,
        volume_texture_coefficients: stored,
        volume_misorientation_density: stored,
    }.items():
        arguments = (data, basis) if "texture" in call.__name__ else (data,)
        planned = plan(call, *arguments, memory_limit="1GiB")
        assert planned.operation == call.__name__
        assert 0 < planned.peak_bytes <= planned.limit.task_bytes


@settings(max_examples=5, deadline=None)
@given(sample_chunks(5))
def test_texture__chunk_invariant(rows):
    X, basis = random_angles(5 * 12, 13).reshape(5, 3, 4, 3), full("hexagonal", 4)
    C = texture_coefficients(chunked(X, rows), basis)
    np.testing.assert_array_equal(C, texture_coefficients(X, basis))
    np.testing.assert_array_equal(odf(C, basis), odf(np.asarray(C), basis))
    xr.testing.assert_equal(misorientation_density(chunked(X, rows)).compute(), misorientation_density(X))


def test_texture__of_a_sample_without_weights():
    X, basis = random_angles(24).reshape(2, 3, 4, 3), full("cubic", 4)
    X[1] = np.nan
    confidence = np.stack([np.ones((3, 4)), np.zeros((3, 4))])
    C = texture_coefficients(X, basis, confidence_index=confidence)
    found = misorientation_density(X, confidence_index=confidence)
    assert np.isnan(C).any(axis=1).tolist() == [False, True]
    assert np.isnan(found["mean"]).values.tolist() == [False, True]
    # One orientation, or one direction.
    assert np.shape(odf(C[0], basis, [0.1, 0.2, 0.3])) == np.shape(pole_figure(C[0], basis, (1, 1, 1), (0, 0, 1))) == ()
    for call in (lambda: texture_coefficients(X, basis), lambda: misorientation_density(X)):
        with pytest.raises(ValueError, match="NaN"):
            call()


def test_texture__of_a_fibre_of_grains():
    texture = FibreTexture((1, 1, 1), (0, 0, 1), spread=np.deg2rad(6))
    X, basis = make_polycrystal(4, size=(40, 40), n_grains=800, texture=texture), full("cubic", 12)
    C = texture_coefficients(X, basis, halfwidth=np.deg2rad(10)).mean(axis=0)
    figure = pole_figure(C, basis, (1, 1, 1))
    assert figure.max("azimuth").values.argmax() == 0
    assert float(figure.max()) > 5
    assert float(figure.min()) > -0.1


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda X, b: texture_coefficients(X, PrimitiveBasis(2)), TypeError, "basis must be a GSHBasis"),
        (lambda X, b: texture_coefficients(X, GSHBasis(6, domain="cubic")), ValueError, "all 10 functions up to"),
        (lambda X, b: texture_coefficients(X, b, halfwidth=4), ValueError, "halfwidth must be an angle"),
        (lambda X, b: odf(np.ones((2, 3)), b), ValueError, "coefficients must be what texture_coefficients"),
        (lambda X, b: texture_index(np.ones(3), b), ValueError, "coefficients must be what texture_coefficients"),
        (lambda X, b: odf(np.ones(10), b, [[1.0, 2.0]]), ValueError, "must hold the Bunge angles"),
        (lambda X, b: odf(np.ones(10), b, step=2), ValueError, "step must be an angle"),
        (lambda X, b: pole_figure(np.ones(10), b, (0, 0, 0)), ValueError, "pole must be a direction"),
        (lambda X, b: pole_figure(np.ones(10), b, (0, 0, 1), [0, 0, 0]), ValueError, "directions must be"),
        (lambda X, b: misorientation_density(X, "fcc"), ValueError, "laue_group must be one of"),
        (lambda X, b: misorientation_density(X, width=0), ValueError, "width must be an angle"),
        (lambda X, b: misorientation_density(X, least=-1), ValueError, "least must be an angle"),
        (lambda X, b: misorientation_density(X * 30), ValueError, "not Bunge angles in radians"),
        (lambda X, b: mackenzie_density([0.1], "fcc"), ValueError, "laue_group must be one of"),
    ],
)
def test_texture__raises_on_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call(random_angles(12).reshape(1, 3, 4, 3), full("cubic", 4))


def test_texture__of_an_ebsd_map(tmp_path):
    ds = import_ebsd(real_data("ebsd/EdaxAngOnly.h5"), tmp_path / "map.zarr")
    weights, basis = ds.confidence_index * (ds.phase == 1), full("cubic", 8)
    C = volume_texture_coefficients(ds.microstructure, basis, confidence_index=weights).compute()
    assert 1 < float(texture_index(C, basis)) < 10
    found = volume_misorientation_density(ds.microstructure, confidence_index=weights, least=np.deg2rad(5)).compute()
    # Nickel has many twins of 60° about <111>.
    assert np.rad2deg(found.angle[int(found.density.values.argmax())]) == pytest.approx(60, abs=2.01)


@pytest.mark.parametrize("periodic", [[], [0], [0, 1, 2]])
def test_misorientations__of_a_periodic_slice_have_no_voxel_as_its_own_neighbour(periodic):
    X = make_polycrystal(1, size=(6, 5), n_grains=8, seed=1)[:, :, :, None]
    sample = misorientation_density(X, periodic_axes=periodic).isel(sample=0)
    volume = volume_misorientation_density(da.from_array(X[0], chunks=(3, 2, 1, 3)), periodic_axes=periodic)
    for name in ("density", "mean", "boundaries"):
        assert_allclose(volume[name], sample[name], rtol=1e-12)
    plane = misorientation_density(X[:, :, :, 0], periodic_axes=periodic[:2]).isel(sample=0)
    assert_allclose(plane.boundaries, sample.boundaries)
