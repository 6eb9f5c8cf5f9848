"""Figures: what is drawn, not just that something is."""

import io
import itertools
import re
import sys

import dask.array as da
import matplotlib as mpl
import numpy as np
import pytest
import tifffile
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LinearRegression

from mksdask import GSHBasis, LegendreBasis, MKSHomogenizationModel, MKSStructureAnalysis, PrimitiveBasis, tools
from mksdask.datasets import make_microstructure
from mksdask.datasets.responses import make_elastic_stiffness
from mksdask.importers import import_images
from mksdask.stats import (
    chord_lengths,
    cluster_statistics,
    correlate,
    correlate_volume,
    reconstruct,
    specific_surface,
)
from mksdask.texture import misorientation_density, texture_coefficients
from mksdask.tools.layout import fitted
from tests.helpers import computes


@pytest.fixture(autouse=True)
def _nothing_is_shown():
    mpl.use("Agg")
    yield
    assert plt.get_fignums() == []


def images(fig):
    return [image for ax in fig.axes for image in ax.get_images()]


def test_microstructures__x_runs_right_and_scale_is_shared():
    X = make_microstructure(n_samples=3, size=(8, 5), grain_size=2, n_phases=3, chunks=2)
    fig = tools.draw_microstructures(X, ["a", "b", "c"])
    drawn = images(fig)
    assert len(drawn) == 3
    for image, sample in zip(drawn, X.compute(), strict=True):
        assert_array_equal(image.get_array(), sample.T)
        assert image.origin == "upper"
        assert image.get_extent() == [-0.5, 7.5, 4.5, -0.5]
        assert image.norm is drawn[0].norm
    assert [ax.get_title() for ax in fig.axes] == ["a", "b", "c"]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["phase 0", "phase 1", "phase 2"]
    # Neighbours share their axes.
    assert [ax.get_ylabel() for ax in fig.axes] == ["y / voxel", "", ""]


def test_microstructures__the_corner_of_an_image_stays_where_the_instrument_shows_it(tmp_path):
    planes = np.zeros((2, 20, 30), dtype=np.uint8)
    planes[:, :4, :6] = 1
    tifffile.imwrite(tmp_path / "scan.tif", planes, photometric="minisblack")
    volume = import_images(tmp_path / "scan.tif", tmp_path / "scan.zarr", axes="zyx", phases="values").microstructure
    fig = tools.draw_microstructures(volume.isel(z=0).expand_dims("sample"))
    pixels, box = np.asarray(Image.open(io.BytesIO(fig._repr_png_()))), fig.axes[0].get_window_extent()

    def colour(right, down):
        row = len(pixels) - (box.y1 - down * box.height)
        return pixels[int(row), int(box.x0 + right * box.width)].tolist()

    assert colour(0.1, 0.1) != colour(0.1, 0.9) == colour(0.9, 0.1) == colour(0.9, 0.9)


def test_microstructures__too_many_are_refused_before_they_are_loaded():
    with computes(0), pytest.raises(ValueError, match="such as X"):
        tools.draw_microstructures(da.zeros((1000, 5, 5), chunks=(10, 5, 5)))


def test_microstructures__3d_as_central_slices_in_physical_units(tmp_path):
    V = xr.DataArray(
        np.arange(2 * 4 * 5 * 6).reshape(2, 4, 5, 6) / 10.0,
        dims=("sample", "x", "y", "z"),
        coords={"x": ("x", np.arange(4) * 0.5, {"units": "um"}), "y": np.arange(5) * 0.5, "z": np.arange(6) * 0.5},
    )
    fig = tools.draw_microstructures(V)
    drawn = images(fig)
    assert len(drawn) == 6
    assert_allclose(drawn[0].get_array(), V[0, :, :, 3].T)
    assert_allclose(drawn[1].get_array(), V[0, :, 2, :].T)
    assert_allclose(drawn[2].get_array(), V[0, 2].T)
    # The axes of a row of slices are named once.
    assert [ax.get_xlabel() for ax in fig.axes[:6]] == ["", "", "", "x / µm", "x / µm", "y / µm"]
    fig.savefig(tmp_path / "figure.png")


def test_correlations__lag_zero_is_at_the_origin():
    X = make_microstructure(n_samples=1, size=(8, 7), grain_size=2)
    f = correlate(X, PrimitiveBasis(2), periodic_axes=[0, 1])
    fig = tools.draw_correlations(f[0], [(0, 0), (0, 1)])
    first = images(fig)[0]
    assert_array_equal(first.get_array(), f[0, ..., 0].T)
    assert first.get_extent() == [-4.5, 3.5, 3.5, -3.5]
    assert "0, 1" in fig.axes[1].get_title()
    with pytest.raises(ValueError, match="each of the 2 pairs"):
        tools.draw_correlations(f[0], [(0, 0)])
    labelled = correlate(xr.DataArray(X, dims=("sample", "x", "y")), PrimitiveBasis(2), cutoff=3)
    assert images(tools.draw_correlations(labelled[0]))[0].get_extent() == [-3.5, 3.5, 3.5, -3.5]
    assert "0, 1" in tools.draw_correlations(labelled[0]).axes[1].get_title()
    assert len(images(tools.draw_autocorrelations(f[0]))) == len(images(tools.draw_crosscorrelations(f[0]))) == 2


def test_microstructure_strain__two_scales():
    fig = tools.draw_microstructure_strain(np.eye(4, dtype=int), np.eye(4) * 0.01)
    _micro, strain = images(fig)
    assert_allclose(strain.get_clim(), (0, 0.01))
    with pytest.raises(ValueError, match="strain must have the shape"):
        tools.draw_microstructure_strain(np.eye(4), np.zeros((4, 4, 3)))


def test_components__diverging_scale_about_zero():
    fig = tools.draw_components(np.random.default_rng(0).normal(size=(3, 5, 5, 2)), [(0, 0), (0, 1)])
    drawn = images(fig)
    assert len(drawn) == 6
    low, high = drawn[0].get_clim()
    assert low == -high
    # A component has a scale of its own, which its pairs share.
    assert drawn[0].norm is drawn[1].norm is not drawn[2].norm
    assert len(images(tools.draw_components(np.random.default_rng(0).normal(size=(1, 5, 5, 5, 2))))) == 6


@pytest.mark.parametrize(
    "given",
    [
        (np.zeros((9, 2)),),
        ([np.zeros((9, 2)), np.zeros((5, 2))], ["Training Data", "Testing Data"]),
        ([np.zeros((9, 3)), np.zeros((9, 3))],),
    ],
)
def test_components__of_scores_names_the_figure_of_scores(given):
    with pytest.raises(ValueError, match="use draw_components_scatter for scores of samples"):
        tools.draw_components(*given)


def test_components_scatter__2d_and_3d():
    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(9, 2)), da.from_array(rng.normal(size=(4, 2)))]
    fig = tools.draw_components_scatter(sets, ["a", "b"])
    points = [c.get_offsets() for c in fig.axes[0].collections]
    assert_allclose(points[1], sets[1].compute())
    assert tools.draw_components_scatter([rng.normal(size=(9, 3))], legend_outside=True).axes[0].name == "3d"
    fig = tools.draw_components_scatter(sets, variance=[0.9, 0.05, 0.01])
    assert [fig.axes[0].get_xlabel(), fig.axes[0].get_ylabel()] == ["PC 1 (90 %)", "PC 2 (5 %)"]
    with pytest.raises(ValueError, match="variance must hold a share for each of the 2 components"):
        tools.draw_components_scatter(sets, variance=[0.9])
    with pytest.raises(ValueError, match="slice the scores"):
        tools.draw_components_scatter([rng.normal(size=(9, 5))])
    with pytest.raises(ValueError, match="labels must name"):
        tools.draw_components_scatter(sets, ["a"])


def test_component_variance__is_cumulative():
    line = tools.draw_component_variance([0.5, 0.3]).axes[0].lines[0]
    assert_allclose(line.get_ydata(), [50, 80])
    assert_allclose(line.get_xdata(), [1, 2])


RESULTS = {
    "params": [{"n_components": n, "degree": d} for d in (2, 1) for n in (4, 2)],
    "mean_test_score": np.array([0.9, 0.8, 0.7, 0.6]),
    "std_test_score": np.full(4, 0.01),
}


def test_gridscores__one_sorted_curve_for_each_value():
    fig = tools.draw_gridscores(RESULTS, "n_components", by="degree")
    lines = fig.axes[0].lines
    assert [line.get_label() for line in lines] == ["degree = 1", "degree = 2"]
    assert_allclose(lines[1].get_xydata(), [[2, 0.8], [4, 0.9]])
    with pytest.raises(ValueError, match="did not vary 'alpha'"):
        tools.draw_gridscores(RESULTS, "alpha")


def test_gridscores__finds_the_second_parameter():
    lines = tools.draw_gridscores(RESULTS, "n_components").axes[0].lines
    assert [line.get_label() for line in lines] == ["degree = 1", "degree = 2"]
    lines = tools.draw_gridscores(RESULTS, "degree", data_labels=["few", "many"]).axes[0].lines
    assert [line.get_label() for line in lines] == ["few", "many"]
    assert_allclose(lines[1].get_xydata(), [[1, 0.7], [2, 0.9]])
    # A parameter with one value is not drawn.
    alone = RESULTS | {"params": [{"n_components": n, "alpha": 1.0} for n in range(4)]}
    (line,) = tools.draw_gridscores(alone, "n_components").axes[0].lines
    assert len(line.get_xydata()) == 4


def test_gridscores__curves_of_values_without_an_order():
    bases = [PrimitiveBasis(2), LegendreBasis(2)]
    results = RESULTS | {"params": [{"cutoff": n, "basis": basis} for basis in bases for n in (4, 2)]}
    lines = tools.draw_gridscores(results, "cutoff", data_labels=["Primitive", "Legendre"]).axes[0].lines
    assert_allclose(lines[0].get_xydata(), [[2, 0.8], [4, 0.9]])
    assert_allclose(lines[1].get_xydata(), [[2, 0.6], [4, 0.7]])


def test_gridscores__says_what_to_do_with_more_parameters():
    params = [{"n": n, "degree": degree, "cutoff": cutoff} for n in (1, 2) for degree in (1, 2) for cutoff in (3, 4)]
    results = {"params": params, "mean_test_score": np.ones(8), "std_test_score": np.ones(8)}
    match = r"\['n', 'degree', 'cutoff'\], but .* two .* one value of {0}, such as search\.best_params_\['{0}'\]"
    with pytest.raises(ValueError, match=match.format("cutoff")):
        tools.draw_gridscores(results, "n")
    with pytest.raises(ValueError, match=match.format("degree")):
        tools.draw_gridscores(results, "n", by="cutoff")


def test_gridscores_matrix__scores_where_they_belong():
    matrix = images(tools.draw_gridscores_matrix(RESULTS, ["n_components", "degree"]))[0].get_array()
    assert_allclose(matrix, [[0.6, 0.7], [0.8, 0.9]])


def test_goodness_of_fit__points_errors_and_diagonal():
    fit = [[1, 2, 3], [1.1, 2.2, 2.9], [0.1, 0.2, 0.3]]
    fig = tools.draw_goodness_of_fit(fit, [[2], [2.5]], ["fit", "test"], quantity="$C_{11}$ / GPa")
    assert_allclose(fig.axes[0].collections[2].get_offsets(), [[2, 2.5]])
    assert_allclose([bar[:, 1] for bar in fig.axes[0].collections[0].get_segments()], [[1, 1.2], [2, 2.4], [2.6, 3.2]])
    (legend,) = fig.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["fit: R² = 0.9700\nRMSE = 0.141 GPa", "test: RMSE = 0.5 GPa"]
    assert fig.axes[0].get_ylabel() == "predicted $C_{11}$ / GPa"
    # The legend hides neither points nor the label of the axis.
    fig.draw_without_rendering()
    box, label = (item.get_window_extent() for item in (legend, fig.axes[0].xaxis.label))
    assert fig.bbox.ymin < box.ymin < box.ymax < label.ymin
    assert legend.get_title().get_text() == "bars: ± 1 standard deviation"
    x, y = fig.axes[0].lines[0].get_data()
    assert_allclose(x, y)
    with pytest.raises(ValueError, match=r"\(2, n_samples\)"):
        tools.draw_goodness_of_fit([1, 2, 3])


def test_learning_curves__rise_with_the_samples():
    x = np.linspace(0, 1, 60)[:, None]
    rng = np.random.default_rng(0)
    fig = tools.draw_learning_curves(LinearRegression(), x, x[:, 0] + rng.normal(scale=0.01, size=60), cv=5, title="t")
    assert len(fig.axes[0].lines) == 2
    assert fig.axes[0].lines[0].get_xdata()[-1] == 48


@pytest.mark.parametrize("spatial", [(20,), (6, 6), (4, 5, 6)])
def test_figures__labels_must_match(spatial):
    with pytest.raises(ValueError, match="labels must name each of the 2 panels"):
        tools.draw_microstructures(list(np.zeros((2, *spatial))), ["one"])
    assert tools.draw_microstructures(list(np.zeros((2, *spatial)))).axes


def test_strains__share_one_scale_and_differences_are_symmetric_about_zero():
    rng = np.random.default_rng(0)
    fields = rng.normal(size=(3, 6, 5))
    for fig, titles in [
        (tools.draw_strains(fields, ["a", "b", "c"]), ["a", "b", "c"]),
        (tools.draw_strains_compare(fields[0], fields[1]), ["finite elements", "MKS"]),
    ]:
        drawn = images(fig)
        assert [ax.get_title() for ax in fig.axes[:-1]] == titles
        assert (drawn[0].norm.vmin, drawn[0].norm.vmax) == (fields[: len(drawn)].min(), fields[: len(drawn)].max())
        for image, field in zip(drawn, fields, strict=False):
            assert_array_equal(image.get_array(), field.T)
            assert image.norm is drawn[0].norm
    near = fields[:2] + 5
    for fig in (tools.draw_concentrations(near), tools.draw_concentrations_compare(list(near))):
        low, high = images(fig)[0].get_clim()
        assert (low + high) / 2 == pytest.approx(near.mean())
        assert low == pytest.approx(near.min()) or high == pytest.approx(near.max())
    difference = images(tools.draw_differences([fields[0] - 3], ["a - b"]))[0]
    assert difference.norm.vmin == -difference.norm.vmax == (fields[0] - 3).min()
    with pytest.raises(ValueError, match="must be fields of one shape"):
        tools.draw_concentrations([fields[0], fields[0, :2]])


def test_strains__labelled_fields_have_physical_axes():
    field = xr.DataArray(
        np.random.default_rng(1).normal(size=(4, 6)),
        dims=("x", "y"),
        coords={"x": ("x", 0.5 * np.arange(4), {"units": "um"}), "y": ("y", 0.5 * np.arange(6), {"units": "um"})},
    )
    for fig in (tools.draw_strains_compare(field, field), tools.draw_strains(field.expand_dims("sample").chunk())):
        assert fig.axes[0].get_xlabel() == "x / µm"
        assert images(fig)[0].get_extent() == [-0.25, 1.75, 2.75, -0.25]


@pytest.mark.parametrize("size", [(9,), (9, 8), (5, 6, 7)])
def test_coeff__lag_zero_is_at_the_origin(size):
    kernels = np.zeros((*size, 2))
    kernels[(*(n // 2 for n in size), 1)] = -2.0
    fig = tools.draw_coeff(kernels)
    if len(size) == 1:
        x, y = fig.axes[1].get_lines()[0].get_data()
        assert x[np.argmin(y)] == 0
        return
    drawn = images(fig)
    assert len(drawn) == 2 * (3 if len(size) == 3 else 1)
    assert (drawn[0].norm.vmin, drawn[0].norm.vmax) == (-2.0, 2.0)
    for image in drawn[len(drawn) // 2 :]:
        left, right, top, bottom = image.get_extent()
        rows, columns = image.get_array().shape
        row, column = np.argwhere(np.asarray(image.get_array()) == -2.0)[0]
        assert left + (column + 0.5) * (right - left) / columns == pytest.approx(0)
        assert bottom + (row + 0.5) * (top - bottom) / rows == pytest.approx(0)
    assert fig.axes[len(drawn) - 1].get_xlabel() == f"lag {'x' if len(size) == 2 else 'y'} / voxel"


def test_coeff__is_drawn_near_lag_zero():
    kernels = np.full((41, 41, 2), 1e-3)
    kernels[20, 12:29] = 1.0
    labelled = xr.DataArray(kernels, dims=("x", "y", "state"), coords={"x": ("x", np.arange(-20, 21) * 0.5)})
    assert images(tools.draw_coeff(kernels))[0].get_extent() == [-8.5, 8.5, 8.5, -8.5]
    assert images(tools.draw_coeff(labelled, cutoff=3))[0].get_extent() == [-1.75, 1.75, 3.5, -3.5]


def test_evolution__a_panel_a_component_against_time():
    time = np.linspace(0, 3, 7)
    first, second = np.column_stack([time, time**2, -time]), np.column_stack([time, time**3, time])
    fig = tools.draw_evolution([first, second], ["slow", "fast"], time_label="time / s", legend_outside=True)
    assert len(fig.axes) == 2
    for panel, column in zip(fig.axes, (1, 2), strict=True):
        assert panel.get_xlabel() == "time / s"
        for line, scores in zip(panel.get_lines(), (first, second), strict=True):
            assert_array_equal(line.get_xdata(), time)
            assert_array_equal(line.get_ydata(), scores[:, column])
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["slow", "fast"]
    with pytest.raises(ValueError, match="time first"):
        tools.draw_evolution([time])


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda F: tools.draw_strains(F[:0]), "nothing to draw"),
        (lambda F: tools.draw_strains(3.0), "n_samples"),
        (lambda F: tools.draw_strains(F + 1j), "must be real"),
        (lambda F: tools.draw_coeff(1j * F), "must be real"),
        (lambda F: tools.draw_coeff(F, cutoff=-1), "cutoff must be a number of voxels from 0"),
        (lambda F: tools.draw_coeff(F[:0]), "coeff must hold at least one lag and one state"),
        (lambda F: tools.draw_correlations(F[..., :0]), "X_corr must hold at least one lag and one pair"),
        (lambda F: tools.draw_autocorrelations([[]]), "X_corr must hold at least one lag and one pair"),
        (lambda F: tools.draw_concentrations_compare(list(F[0]), F[1]), "labels must be texts"),
        (lambda F: tools.draw_evolution([F[0]], component_labels=["a"]), "component_labels must name each"),
        (lambda F: tools.draw_strains(xr.DataArray(F, dims=("sample", "x", "component"))), "one component"),
        (lambda F: tools.draw_strains(F[..., None, None]), "must hold fields with 1 to 3 axes of voxels"),
        (lambda F: tools.draw_goodness_of_fit([[1, np.nan], [1, 2]]), "must hold finite numbers; leave out samples"),
        (
            lambda F: tools.draw_learning_curves(LinearRegression(), F[0], F[0, :, 0], train_sizes=[-1]),
            "train_sizes must be positive",
        ),
        (
            lambda F: tools.draw_radial(1j * F, n_spatial=2),
            "statistics must be real, got complex128; draw statistics.real",
        ),
        (
            lambda F: tools.draw_reconstruction(
                F,
                xr.Dataset({"microstructure": (("sample", "x", "y"), F), "error": ("sample", F[:, 0, 0])}),
                n_spatial=2,
            ),
            "statistics must name their pairs",
        ),
    ],
)
def test_figures__raise_on_what_cannot_be_drawn(draw, message):
    with pytest.raises(ValueError, match=message):
        draw(np.random.default_rng(0).random((2, 4, 3)))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda F: tools.draw_gridscores({"params": []}, "alpha"), "cv_results must be the cv_results_ of a search"),
        (lambda F: tools.draw_components_scatter(3.0), "datasets must be a list of arrays of scores"),
        (lambda F: tools.draw_strains(F[None], ax="left"), "ax must be axes of matplotlib, one for each panel"),
        (
            lambda F: tools.draw_learning_curves(LinearRegression(), F, F[:, 0], cv="five"),
            "cv must be a number of folds",
        ),
        (
            lambda F: tools.draw_learning_curves(LinearRegression(), F, F[:, 0], params=[1]),
            "params must be a dict of arguments of fit",
        ),
        (lambda F: tools.draw_misorientations(F), "the Dataset that misorientation_density returns"),
    ],
)
def test_figures__raise_on_other_types(draw, message):
    with pytest.raises(TypeError, match=message):
        draw(np.random.default_rng(0).random((6, 3)))


def test_texture__is_drawn_on_axes_that_are_given_and_of_one_sample():
    basis = GSHBasis(None, domain="cubic", max_degree=4)
    C = texture_coefficients(np.zeros((2, 2, 2, 3)), basis, halfwidth=0.3)
    fig = Figure()
    panels = fig.subplots(1, 3)
    assert tools.draw_pole_figure(C[0], basis, [(0, 0, 1), (1, 1, 1)], ax=list(panels[:2])) is fig
    assert [panel.get_title() for panel in panels] == ["001", "111", ""]
    assert tools.draw_odf(C[0], basis, [0.0], ax=panels[2]) is fig
    assert panels[2].get_title() == "φ₂ = 0°"
    # The rest of the last row is left empty. Sections that are four times as long as high stand in two columns.
    for wide, columns in (
        (tools.draw_pole_figure(C[0], basis, np.eye(5, 3) + 0.1), 4),
        (tools.draw_odf(C[0], basis, np.arange(5) / 9), 2),
    ):
        places = [panel.get_subplotspec() for panel in wide.axes if panel.get_title()]
        assert [(place.rowspan.start, place.colspan.start) for place in places] == [
            divmod(i, columns) for i in range(5)
        ]
    with pytest.raises(ValueError, match="coefficients must be those of one sample, got several"):
        tools.draw_odf(C, basis)
    with pytest.raises(ValueError, match="poles must be directions of three numbers"):
        tools.draw_pole_figure(C[0], basis, [(1, 0)])
    with pytest.raises(ValueError, match="sections must be angles φ2 in radians"):
        tools.draw_odf(C[0], basis, [np.inf])
    found = misorientation_density(np.random.default_rng(0).random((2, 4, 4, 3)), "cubic")
    assert tools.draw_misorientations(found.isel(sample=0), title="wire").axes[0].get_title() == "wire"
    with pytest.raises(ValueError, match=r"must be of one sample, .* select one by \.isel\(sample=0\)"):
        tools.draw_misorientations(found)


def test_strains__are_labelled_by_what_the_field_says():
    field = xr.DataArray(
        np.random.default_rng(0).random((1, 5, 4, 3)),
        dims=("sample", "x", "y", "component"),
        coords={"component": ["xx", "yy", "xy"]},
    )

    def bar(fields, **options):
        return tools.draw_strains(fields, **options).axes[-1].get_ylabel()

    assert bar(field.values[..., 1]) == bar(field[..., 0]) == r"$\varepsilon_{xx}$"
    assert bar(field.sel(component="yy")) == bar([field[0].sel(component="yy")]) == r"$\varepsilon_{yy}$"
    assert bar(field.sel(component="yy"), label="e") == "e"
    stress = field.rename("prediction").assign_attrs(long_name="stress", units="MPa")
    assert bar(stress.sel(component="xy")) == "stress xy / MPa"
    one = field[0].sel(component="xy")
    assert tools.draw_strains_compare(one, one).axes[-1].get_ylabel() == r"$\varepsilon_{xy}$"
    drawn = tools.draw_microstructure_strain(np.zeros((5, 4), dtype=int), one)
    assert r"$\varepsilon_{xy}$" in {ax.get_ylabel() for ax in drawn.axes}


def test_figures__axes_start_where_the_coordinates_do():
    field = xr.DataArray(
        np.zeros((1, 5, 4)), dims=("sample", "x", "y"), coords={"x": ("x", np.arange(10.0, 15.0), {"units": "um"})}
    )
    axes = tools.draw_strains(field).axes[0]
    assert axes.get_xlim() == (9.5, 14.5)
    assert axes.get_ylim() == (3.5, -0.5)


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: tools.draw_component_variance([0.8, 0.15], ax=ax),
        lambda ax: tools.draw_goodness_of_fit([[1, 2], [1.1, 2.0]], ax=ax),
        lambda ax: tools.draw_components_scatter([np.arange(6.0).reshape(3, 2)], ["rolled"], ax=ax),
        lambda ax: tools.draw_gridscores(
            {"params": [{"n": 1}, {"n": 2}], "mean_test_score": [0.8, 0.9], "std_test_score": [0.02, 0.01]}, "n", ax=ax
        ),
        lambda ax: tools.draw_learning_curves(
            {"line": LinearRegression()},
            np.arange(20.0)[:, None],
            np.arange(20.0),
            loss=True,
            train_sizes=[0.5, 1.0],
            ax=ax,
        ),
    ],
)
def test_draw__on_axes_that_are_given(draw):
    fig = Figure()
    left, right = fig.subplots(1, 2)
    assert draw(right) is fig
    assert right.has_data()
    assert not left.has_data()
    assert len(fig.axes) == 2


def test_draw__three_components_need_axes_of_three_dimensions():
    with pytest.raises(ValueError, match='projection="3d"'):
        tools.draw_components_scatter([np.zeros((3, 3))], ax=Figure().subplots())


def test_draw_learning_curves__several_linkages_and_shared_statistics():
    X, y = make_elastic_stiffness(n_samples=(20, 20), size=(9, 9), grain_size=((2, 2), (6, 3)))
    model = MKSHomogenizationModel(PrimitiveBasis(2), n_components=2, periodic_axes=[0, 1])
    models = {"line": model, "parabola": clone(model).set_params(degree=2)}
    shared = tools.draw_learning_curves(models, model.share(X), y, train_sizes=[0.5, 1.0], cv=3, loss=True)
    plain = tools.draw_learning_curves(models, X, y, train_sizes=[0.5, 1.0], cv=3, loss=True)
    for ours, theirs in zip(shared.axes[0].lines, plain.axes[0].lines, strict=True):
        assert ours.get_label() == theirs.get_label()
        assert_allclose(ours.get_xydata(), theirs.get_xydata(), rtol=1e-2)
    assert shared.axes[0].get_yscale() == "log"
    assert [line.get_label() for line in shared.axes[0].lines] == ["line", "parabola"]


def test_correlations__maps_that_would_be_flat_have_scales_of_their_own():
    f = np.random.default_rng(0).random((9, 9, 2))
    alike, apart = images(tools.draw_correlations(f)), images(tools.draw_correlations(f * [1.0, 0.1]))
    assert alike[0].norm is alike[1].norm
    assert apart[0].norm.vmax > 5 * apart[1].norm.vmax


def test_components__of_a_model_have_names_and_units():
    X = xr.DataArray(
        make_microstructure(n_samples=8, size=(9, 8), seed=0),
        dims=("sample", "x", "y"),
        coords={dim: (dim, np.arange(n) * 0.5, {"units": "um"}) for dim, n in (("x", 9), ("y", 8))},
        attrs={"phases": ["pore", "grain"]},
    )
    model = MKSStructureAnalysis(PrimitiveBasis(2), n_components=2, cutoff=3).fit(X)
    fig = tools.draw_components(model.components_map())
    share = model.dimension_reducer_.explained_variance_ratio_[0]
    assert fig.axes[0].get_title().split() == f"φ₁ ({100 * share:.3g} %), pore–pore".split()
    assert fig.axes[2].get_xlabel() == "lag x / µm"
    assert_array_equal(model.components_map(), model.components_)


def test_figures__are_made_for_print(tmp_path):
    settings = dict(mpl.rcParams)
    titles = [f"sample {j} of a material with a long description" for j in range(4)]
    fig = tools.draw_microstructures(make_microstructure(n_samples=4, size=(9, 9), chunks=4), titles)
    fig.savefig(tmp_path / "figure.pdf")
    # Type 3 is the default of matplotlib, and journals refuse it.
    fonts = re.findall(rb"/FontFile2|/Type3", (tmp_path / "figure.pdf").read_bytes())
    assert set(fonts) == {b"/FontFile2"}
    assert fig.get_figwidth() == pytest.approx(180 / 25.4, abs=0.01)
    texts = [text for text in fig.findobj(Text) if text.get_text()]
    assert min(text.get_fontsize() for text in texts) >= 6
    boxes = [ax.title.get_window_extent() for ax in fig.axes]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    assert dict(mpl.rcParams) == settings


def test_figures__of_curves_break_what_is_too_long_into_lines():
    rng = np.random.default_rng(0)
    name = "samples of the {} series, which were annealed for two hours at 600 °C"
    names = [name.format(which) for which in ("first", "second", "third")]
    sets, data = [rng.normal(size=(40, 2)) for _ in names], rng.random((2, 9))
    drawn = [
        tools.draw_components_scatter(sets, names, title=name, variance=[0.5, 0.3]),
        tools.draw_evolution(sets, names, title=name),
        tools.draw_goodness_of_fit(data, data, names[:2], quantity="effective stiffness along the first axis / GPa"),
    ]
    for fig in drawn:
        fig.savefig(io.BytesIO(), dpi=fig.dpi)
        for text in fig.findobj(Text):
            if len(text.get_text()) > 20:
                box = text.get_window_extent()
                assert 0 <= box.x0 < box.x1 <= fig.bbox.x1, text
                assert 0 <= box.y0 < box.y1 <= fig.bbox.y1, text
        # Below the panels, where it hides nothing.
        assert fig.legends[0].get_window_extent().y1 < min(ax.get_window_extent().y0 for ax in fig.axes)
        assert not re.search("^/", drawn[-1].axes[0].get_ylabel(), re.MULTILINE)


def test_legend__of_axes_that_are_given_stands_below_the_lowest():
    panels = Figure(layout="constrained").subplots(2, 2)
    tools.draw_microstructures(np.eye(5, dtype=int)[None].repeat(4, 0), phases=["pore", "grain"], ax=panels.ravel())
    assert [panel.get_legend() is not None for panel in panels.ravel()] == [False, False, True, False]


def test_maps__say_what_is_there():
    # Rounding errors are neither a position nor a pattern, and what is missing is not as white as zero.
    lags = np.linspace(-1.2, 1.2, 3)
    f = xr.DataArray(
        np.full((3, 3, 3, 1), 0.25, dtype=np.float32), dims=("lag_x", "lag_y", "lag_z", "pair")
    ).assign_coords(lag_z=("lag_z", lags - 1e-16, {"units": "um"}))
    f[0, 0, 0] += 1e-8
    fig = tools.draw_correlations(f)
    assert [panel.get_title().split("\n")[-1] for panel in fig.axes[:3]] == [
        "lag z = 0 µm", "lag y = 0 µm", "lag x = 0 µm"
    ]  # fmt: skip
    assert np.ptp(images(fig)[0].get_clim()) == 1
    difference = np.eye(4)
    difference[0, 0] = np.nan
    (image,) = images(tools.draw_differences([difference]))
    assert_allclose(image.to_rgba(image.get_array())[0, 0], [0.6, 0.6, 0.6, 1.0])


def test_maps__name_samples_phases_and_what_black_means():
    X = xr.DataArray(
        np.eye(6, dtype=int)[None].repeat(3, 0), dims=("sample", "x", "y"), coords={"sample": ["A-7", "B", "C"]}
    )
    assert [panel.get_title() for panel in tools.draw_microstructures(X[1:]).axes] == ["B", "C"]
    numbered = X.assign_coords(sample=[4, 8, 15]).astype(float)
    assert [panel.get_title() for panel in tools.draw_strains(numbered[1:]).axes[:2]] == ["sample 8", "sample 15"]
    (line,) = tools.draw_microstructures([np.array([0, 1, 1])], phases=["pore", "grain"]).axes
    assert [text.get_text() for text in line.get_yticklabels()] == ["pore", "grain"]
    angles = np.zeros((1, 5, 5, 3))
    notes = []
    for angle in (0.0, np.nan):
        angles[0, 0, 0] = angle
        notes.append(tools.draw_microstructures(angles, laue_groups="cubic").get_supxlabel())
    assert ["black" in note for note in notes] == [False, True]


def test_texts__are_broken_neither_in_formulas_nor_before_units():
    assert fitted(r"predicted $C_{11}$ / GPa", 1.5) == r"predicted $C_{11}$ / GPa"
    assert fitted(r"stress $\sigma_{eq} = \sqrt{3 J_2}$ of it / MPa", 1.0).split("\n") == [
        "stress",
        r"$\sigma_{eq} = \sqrt{3 J_2}$",
        "of it / MPa",
    ]


def test_figures__write_powers_of_ten():
    values = np.array([1.0, 2.0, 3.0]) * 1e9
    fig = tools.draw_goodness_of_fit([values, values + 2e7], quantity="stiffness / Pa")
    assert fig.legends[0].get_texts()[0].get_text().endswith("RMSE = 2 × 10⁷ Pa")
    fig.draw_without_rendering()
    assert "10^{9}" in fig.axes[0].xaxis.get_offset_text().get_text()


def test_gridscores_matrix__long_values_stand_upright():
    long = {
        "params": [{"alpha": a, "n": n} for a in np.geomspace(1e-9, 1, 10) for n in (1, 2)],
        "mean_test_score": np.arange(20.0),
        "std_test_score": np.ones(20),
    }
    rotations = [
        tools.draw_gridscores_matrix(results, names).axes[0].get_xticklabels()[0].get_rotation()
        for results, names in ((RESULTS, ["n_components", "degree"]), (long, ["alpha", "n"]))
    ]
    assert rotations == [0, 90]


def test_component_variance__counts_in_whole_numbers():
    fig = tools.draw_component_variance([0.9])
    assert [tick for tick in fig.axes[0].get_xticks() if 0.5 < tick < 1.5] == [1.0]


def test_gridscores__parameters_over_decades_have_a_logarithmic_axis():
    def results(values):
        return {
            "params": [{"alpha": value} for value in values],
            "mean_test_score": np.ones(len(values)),
            "std_test_score": np.ones(len(values)),
        }

    for values, scale in (([1e-4, 1e-2, 1.0], "log"), ([1, 2, 8], "linear"), ([0.0, 1e-3, 10.0], "linear")):
        assert tools.draw_gridscores(results(values), "alpha").axes[0].get_xscale() == scale


def test_figures__may_be_shown_in_scripts():
    fig = tools.draw_component_variance([0.8, 0.15])
    with pytest.warns(UserWarning, match=r"fig\.savefig\('figure\.png'\) keeps it"):
        fig.show()
    assert fig._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("edge", [5, 6, 11, 12, 41])
def test_maps__labels_stay_off_their_neighbours(edge):
    fig = tools.draw_correlations(
        10.0 * np.random.default_rng(0).random((edge, edge, edge, 2)) - 1.3, [(1, 1), (5, 5)], n_spatial=3
    )
    fig.savefig(io.BytesIO(), format="png")
    panels = fig.axes[:3]
    for left, right in itertools.pairwise(panels):
        assert right.yaxis.label.get_window_extent().x0 > left.get_window_extent().x1
    assert panels[0].yaxis.label.get_window_extent().x0 >= 0


def test_maps__on_axes_that_are_given():
    fig = Figure(layout="constrained")
    left, right = fig.subplots(1, 2)
    f = np.random.default_rng(0).random((9, 9, 2))
    assert tools.draw_correlations(f, [(0, 0), (0, 1)], ax=[left, right]) is fig
    assert_array_equal(right.get_images()[0].get_array(), f[..., 1].T)
    one = Figure().subplots()
    assert tools.draw_differences([f[..., 0]], ["difference"], ax=one) is one.get_figure()
    deep = Figure().subplots(1, 3)
    tools.draw_microstructures(np.zeros((1, 4, 5, 6), dtype=int), ax=deep)
    assert [ax.get_xlabel() for ax in deep] == ["x / voxel", "x / voxel", "y / voxel"]
    with pytest.raises(ValueError, match="ax must hold 2 axes, one for each panel, got 1"):
        tools.draw_correlations(f, ax=left)


def test_show_volume__draws_phases_and_fields_in_their_units(monkeypatch):
    pytest.importorskip("k3d")
    phases = make_microstructure(n_samples=1, size=(20, 14, 10), n_phases=3, grain_size=3)[0]
    labelled = xr.DataArray(
        phases,
        dims=("x", "y", "z"),
        coords={dim: (dim, np.arange(n) * 0.5, {"units": "um"}) for dim, n in zip("xyz", phases.shape, strict=True)},
        attrs={"phases": ["pore", "grain", "binder"]},
    )
    plot = tools.show_volume(labelled, hide=["pore"])
    (drawn,) = plot.objects
    assert_array_equal(np.asarray(drawn.voxels).transpose(2, 1, 0), np.where(phases == 0, 0, phases + 1))
    assert plot.axes == ["x / µm", "y / µm", "z / µm"]
    # Twice coarser, in the same place.
    (drawn,) = tools.show_volume(labelled, size=10).objects
    assert_array_equal(np.asarray(drawn.voxels).transpose(2, 1, 0), phases[::2, ::2, ::2] + 1)
    corner = np.asarray(drawn.model_matrix) @ [0.5, 0.5, 0.5, 1.0]
    assert_allclose(corner[:3], [10.0, 7.0, 5.0])
    field = np.random.default_rng(0).normal(size=(6, 5, 4))
    (cloud,) = tools.show_volume(field).objects
    assert_allclose(np.asarray(cloud.volume).transpose(2, 1, 0), field, rtol=1e-6)
    with pytest.raises(ValueError, match=r"hide must name phases of \['pore', 'grain', 'binder'\], got 'air'"):
        tools.show_volume(labelled, hide=["air"])
    with pytest.raises(ValueError, match="must be three-dimensional"):
        tools.show_volume(phases[0])
    with pytest.raises(ValueError, match="must hold phase numbers from 0 to 253, got 0 to 300"):
        tools.show_volume(np.arange(301).reshape(7, 43, 1))
    for size in ([3, 3], xr.Dataset(), 0):
        with pytest.raises(ValueError, match="size must be"):
            tools.show_volume(field, size=size)
    monkeypatch.setitem(sys.modules, "k3d", None)
    with pytest.raises(ImportError, match=r"pip install 'mksdask\[interactive\]'"):
        tools.show_volume(phases)


def test_curves__write_units_as_a_reader_expects_them():
    phases = make_microstructure(n_samples=1, size=(24, 24), grain_size=4, chunks=1, seed=0)[0]
    steps = {dim: (dim, np.arange(24) * 0.5, {"units": "um"}) for dim in "xy"}
    X = xr.DataArray(phases, dims=("x", "y"), coords=steps, attrs={"periodic_axes": ["x", "y"]})
    f = correlate(X.expand_dims("sample"), PrimitiveBasis(2), correlations=[(0, 0)], cutoff=5)[0]
    chords = tools.draw_chord_lengths(chord_lengths(X, 1))
    assert chords.axes[0].get_xlabel() == "chord length / µm"
    assert all(text.get_text().endswith(" µm") for text in chords.legends[0].get_texts())
    assert tools.draw_radial(f).axes[0].get_xlabel() == "distance / µm"
    assert tools.draw_clusters(cluster_statistics(X, 1)).axes[0].get_xlabel() == "size of a cluster / µm²"
    assert tools.draw_reconstruction(f, reconstruct(f, tolerance=0.5)).axes[0].get_xlabel() == "distance / µm"


def test_draw_radial__error_bars_and_tangents_of_the_specific_surface():
    X = np.kron(np.random.default_rng(0).integers(0, 2, (12, 12, 12)), np.ones((4, 4, 4), int))
    f, std = correlate_volume(X, PrimitiveBasis(2), cutoff=6, correlations=[(1, 1), (0, 1)], return_std=True)
    ax = tools.draw_radial(f, std, n_spatial=3).axes[0]
    assert len(ax.containers) == 2
    # One of the two pairs is an autocorrelation.
    (tangent,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    (x0, x1), (y0, y1) = tangent.get_data()
    assert x0 == 0
    assert y0 == pytest.approx(X.mean())
    surface = float(specific_surface(f.compute(), n_spatial=3)[0])
    assert (y0 - y1) / (x1 - x0) == pytest.approx(surface / 4)


def test_draw_curves__raise_on_other_arguments():
    f = np.zeros((3, 5, 5, 1))
    with pytest.raises(ValueError, match="select one, such as statistics"):
        tools.draw_radial(f, n_spatial=2)
    with pytest.raises(ValueError, match="std must have the shape"):
        tools.draw_radial(f[0], f[0, :3], n_spatial=2)
    for draw in (tools.draw_chord_lengths, tools.draw_clusters):
        with pytest.raises(TypeError, match="must be the Dataset that"):
            draw(f)
    with pytest.raises(TypeError, match="reconstruct returns"):
        tools.draw_reconstruction(f[0], f, n_spatial=2)
