"""Figures compared with pictures in tests/pictures that somebody has looked at. The option `--draw` keeps new ones.

The pictures compared are thumbnails, in which other fonts and the smoothing of lines hardly show.
"""

import io
import itertools
import re
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import tifffile
import xarray as xr
from matplotlib.text import Text
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, KFold

from mksdask import (
    GSHBasis,
    MKSHomogenizationModel,
    MKSLocalizationModel,
    MKSStructureAnalysis,
    PartialResult,
    PrimitiveBasis,
    sample_windows,
    tools,
)
from mksdask.compute.watching import Plane
from mksdask.datasets import CahnHilliardSimulation, FibreTexture, make_microstructure, make_polycrystal
from mksdask.datasets.responses import (
    make_elastic_FE_strain_delta,
    make_elastic_FE_strain_random,
    make_elastic_stiffness,
)
from mksdask.stats import (
    autocorrelate,
    chord_lengths,
    cluster_statistics,
    correlate,
    correlate_volume,
    crosscorrelate,
    reconstruct,
)
from mksdask.texture import misorientation_density, texture_coefficients
from tests.conftest import real_data

FOLDER = Path(__file__).parent / "pictures"
WIDTH = 180
# Root mean square difference, in levels of 256, after a slight blur: text moves by less, a colour map by far more.
TOLERANCE = 8.0


def labelled(values, *, spacing, units, phases):
    dims = ("sample", "x", "y", "z")[: values.ndim]
    coords = {
        dim: (dim, np.arange(n) * spacing, {"units": units}) for dim, n in zip(dims[1:], values.shape[1:], strict=True)
    }
    return xr.DataArray(values, dims=dims, coords=coords, attrs={"phases": list(phases)})


@cache
def micrographs():
    names = ("ceramics", "copolymer", "pmma", "sandstone")
    images = [np.load(real_data(f"micrographs/{name}_resized.npy"), allow_pickle=False) for name in names]
    phases = np.stack([(image > image.min()).astype(np.uint8) for image in images])
    return labelled(phases, spacing=0.5, units="um", phases=("matrix", "inclusion"))


@cache
def electrode():
    volume = tifffile.imread(real_data("electrode_256_3phase.tif"))[:96, :96, :96].transpose(2, 1, 0) // 85
    return labelled(volume[None].astype(np.uint8), spacing=0.25, units="um", phases=("pore", "active", "binder"))


@cache
def made_up(size):
    X = make_microstructure(n_samples=4 if len(size) == 2 else 1, size=size, n_phases=3, grain_size=5)
    return labelled(X, spacing=0.25, units="um", phases=("pore", "active", "binder"))


@cache
def statistics():
    return correlate(micrographs(), PrimitiveBasis(2), cutoff=40)


@cache
def analysis():
    windows = xr.concat([sample_windows(image, size=64, n=12, seed=0) for image in micrographs()], "sample")
    return MKSStructureAnalysis(PrimitiveBasis(2), n_components=4, cutoff=20, periodic_axes=()).fit(windows.compute())


@cache
def stiffness():
    X, y = make_elastic_stiffness(n_samples=[20] * 4, size=(15, 15), grain_size=[(9, 2), (2, 9), (4, 4), (2, 2)])
    order = np.random.default_rng(0).permutation(len(X))
    return X[order], y[order]


@cache
def search():
    X, y = stiffness()
    model = MKSHomogenizationModel(PrimitiveBasis(2), periodic_axes=[0, 1])
    grid = {"n_components": [1, 2, 4, 8], "degree": [1, 2]}
    return GridSearchCV(model, grid, cv=KFold(3)).fit(model.share(X), y)


@cache
def local():
    material = {"elastic_modulus": (80, 100, 120), "poissons_ratio": (0.3, 0.3, 0.3), "size": (21, 21)}
    model = MKSLocalizationModel(PrimitiveBasis(3)).fit(*make_elastic_FE_strain_delta(**material))
    X, strain = make_elastic_FE_strain_random(n_samples=2, **material)
    return model, X, strain, model.predict(X)


@cache
def concentrations():
    start = np.random.default_rng(0).uniform(-0.1, 0.1, (1, 48, 48))
    simulation = CahnHilliardSimulation(dt=0.01)
    first = simulation.run(start, 40).response
    return np.concatenate([start, first, simulation.run(first, 80).response])


def scores():
    return [analysis().reduced_fit_data[start : start + 12] for start in range(0, 48, 12)]


def names():
    return ["ceramics", "copolymer", "PMMA", "sandstone"]


def goodness_of_fit():
    X, y = stiffness()
    model = MKSHomogenizationModel(PrimitiveBasis(2), n_components=4, degree=2, periodic_axes=[0, 1]).fit(
        X[:60], y[:60]
    )
    return tools.draw_goodness_of_fit(
        [y[:60], model.predict(X[:60])], [y[60:], model.predict(X[60:])], quantity="$C_{11}$ / GPa"
    )


def learning_curves():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    return tools.draw_learning_curves(LinearRegression(), X, X @ rng.normal(size=4) + 0.3 * rng.normal(size=60))


def evolution():
    steps = np.linspace(0, 1, 9)
    return tools.draw_evolution(
        [np.stack([steps * k, steps**2 - k, np.sin(3 * steps) + k], axis=1) for k in range(3)], ["a", "b", "c"]
    )


def partial():
    f = analysis().dimension_reducer_.mean_.reshape(41, 41, 2)[..., 0]
    plane = Plane.of([41, 41], [("x", 0.5, "um"), ("y", 0.5, "um")])
    return tools.draw_partial(PartialResult(24, 48, "samples", plane.label(f), scores()[0][:, :2]))


def radial():
    f, std = correlate_volume(
        micrographs()[3], PrimitiveBasis(2), correlations=[(0, 0), (1, 1)], cutoff=20, return_std=True
    )
    return tools.draw_radial(f, std)


def reconstruction():
    f = correlate(micrographs()[3:, :96, :96], PrimitiveBasis(2), correlations=[(1, 1)], cutoff=20)[0]
    made = reconstruct(f, size=(96, 96), periodic_axes=[0, 1], tolerance=0.02, n_samples=2)
    return tools.draw_reconstruction(f, made)


@cache
def polycrystal():
    texture = FibreTexture((1, 1, 1), (0.5, 0.0, 1.0), spread=np.deg2rad(6), weight=0.8)
    return make_polycrystal(1, (48, 48), 400, texture=texture)


@cache
def texture():
    basis = GSHBasis(None, domain="cubic", max_degree=12)
    return texture_coefficients(polycrystal(), basis, halfwidth=np.deg2rad(12))[0], basis


FIGURES = {
    "draw_pole_figure": lambda: tools.draw_pole_figure(*texture()),
    "draw_odf": lambda: tools.draw_odf(*texture()),
    "draw_misorientations": lambda: tools.draw_misorientations(misorientation_density(polycrystal()).isel(sample=0)),
    "draw_radial": radial,
    "draw_chord_lengths": lambda: tools.draw_chord_lengths(chord_lengths(electrode()[0], 1)),
    "draw_clusters": lambda: tools.draw_clusters(cluster_statistics(electrode()[0], 2)),
    "draw_reconstruction": reconstruction,
    "draw_microstructures": lambda: tools.draw_microstructures(made_up((60, 40))),
    "draw_microstructures_3d": lambda: tools.draw_microstructures(made_up((48, 40, 32))),
    "draw_microstructure_strain": lambda: tools.draw_microstructure_strain(local()[1][0], local()[2][0]),
    "draw_strains": lambda: tools.draw_strains(local()[2], ["first", "second"]),
    "draw_strains_compare": lambda: tools.draw_strains_compare(local()[2][0], local()[3][0]),
    "draw_concentrations": lambda: tools.draw_concentrations(concentrations(), ["0", "0.4", "1.2"]),
    "draw_concentrations_compare": lambda: tools.draw_concentrations_compare(concentrations()[1:]),
    "draw_differences": lambda: tools.draw_differences([local()[2][0] - local()[3][0]], ["finite elements - kernels"]),
    "draw_coeff": lambda: tools.draw_coeff(local()[0].coef_),
    "draw_correlations": lambda: tools.draw_correlations(statistics()[3]),
    "draw_correlations_3d": lambda: tools.draw_correlations(correlate(electrode(), PrimitiveBasis(3), cutoff=20)[0]),
    "draw_autocorrelations": lambda: tools.draw_autocorrelations(
        autocorrelate(micrographs(), PrimitiveBasis(2), cutoff=40)[0]
    ),
    "draw_crosscorrelations": lambda: tools.draw_crosscorrelations(
        crosscorrelate(micrographs(), PrimitiveBasis(2), cutoff=40)[0]
    ),
    "draw_components": lambda: tools.draw_components(analysis().components_[:2], [(0, 0), (0, 1)]),
    "draw_components_scatter": lambda: tools.draw_components_scatter([each[:, :2] for each in scores()], names()),
    "draw_components_scatter_3d": lambda: tools.draw_components_scatter([each[:, :3] for each in scores()], names()),
    "draw_component_variance": lambda: tools.draw_component_variance(
        analysis().dimension_reducer_.explained_variance_ratio_
    ),
    "draw_evolution": evolution,
    "draw_gridscores": lambda: tools.draw_gridscores(search(), "n_components", by="degree", score_label="R²"),
    "draw_gridscores_matrix": lambda: tools.draw_gridscores_matrix(
        search(), ["n_components", "degree"], score_label="R²"
    ),
    "draw_goodness_of_fit": goodness_of_fit,
    "draw_learning_curves": learning_curves,
    "draw_partial": partial,
}


@cache
def figure_of(name):
    return FIGURES[name]()


def texts_of(figure):
    """The texts that are seen. Axes keep the labels of ticks that they do not show."""
    hidden = set()
    for panel in figure.axes:
        axes = [panel.xaxis, panel.yaxis, *([panel.zaxis] if hasattr(panel, "zaxis") else [])]
        for axis in axes:
            shown = axis._update_ticks() if panel.axison else []
            labels = [
                {text for tick in ticks for text in (tick.label1, tick.label2)}
                for ticks in ([*axis.majorTicks, *axis.minorTicks], shown)
            ]
            hidden |= labels[0] - labels[1]
    seen = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text, text.get_window_extent()) for text in seen if text not in hidden]


def overlap(a, b):
    """Pixels of the shorter side that two boxes share."""
    return min(min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0))


def thumb(figure, tmp_path):
    figure.savefig(tmp_path / "figure.png", dpi=150)
    with Image.open(tmp_path / "figure.png") as picture:
        height = round(WIDTH * picture.height / picture.width)
        return picture.convert("RGB").resize((WIDTH, height), Image.Resampling.BOX)


def difference(a, b):
    blurred = [gaussian_filter(np.asarray(picture, dtype=float), (1.5, 1.5, 0)) for picture in (a, b)]
    return float(np.sqrt(np.mean((blurred[0] - blurred[1]) ** 2)))


@pytest.mark.skipif(
    mpl.__version_info__ < (3, 11), reason="the kept pictures are of matplotlib 3.11, which lays out colour bars anew"
)
@pytest.mark.parametrize("name", FIGURES)
def test_figure__looks_as_it_did(name, tmp_path, request):
    found, kept = thumb(figure_of(name), tmp_path), FOLDER / f"{name}.png"
    if request.config.getoption("--draw"):
        FOLDER.mkdir(exist_ok=True)
        found.save(kept, optimize=True)
    with Image.open(kept) as expected:
        # Labels may be a little wider or narrower elsewhere.
        assert abs(found.height - expected.height) <= 3
        assert difference(found.resize(expected.size), expected.convert("RGB")) < TOLERANCE


@pytest.mark.parametrize("name", FIGURES)
def test_figure__is_fit_for_print(name):
    figure = figure_of(name)
    figure.savefig(io.BytesIO(), format="png", dpi=figure.dpi)
    assert round(25.4 * figure.get_figwidth()) in (88, 180)
    texts = texts_of(figure)
    for text, box in texts:
        assert text.get_fontsize() >= 6, text
        assert min(box.x0, box.y0, figure.bbox.x1 - box.x1, figure.bbox.y1 - box.y1) > -1.5, text
        for panel in figure.axes:
            is_own = text in panel.findobj(Text) or hasattr(panel, "zaxis")
            assert is_own or overlap(box, panel.get_window_extent()) < 1.5, text
    for (first, a), (second, b) in itertools.combinations(texts, 2):
        assert overlap(a, b) < 1.5, (first, second)


def test_pictures__there_is_one_of_each_figure():
    assert {path.stem for path in FOLDER.glob("*.png")} == set(FIGURES)
    public = {name for name in tools.__all__ if name.startswith("draw_")}
    assert public == {re.sub("_3d$", "", name) for name in FIGURES}


def test_pictures__other_figures_would_be_noticed():
    pictures = {path.stem: Image.open(path).convert("RGB") for path in FOLDER.glob("*.png")}
    for (a, first), (b, second) in itertools.combinations(pictures.items(), 2):
        assert difference(first, second.resize(first.size)) > TOLERANCE, (a, b)
    # The same figure with another colour map, or mirrored.
    one = pictures["draw_correlations"]
    assert difference(one, Image.fromarray(np.asarray(one)[..., ::-1])) > TOLERANCE
    assert difference(one, Image.fromarray(np.asarray(one)[:, ::-1])) > TOLERANCE


@pytest.mark.parametrize("name", ["draw_correlations", "draw_components_scatter", "draw_goodness_of_fit"])
def test_figure__is_clean_as_vectors(name, tmp_path):
    figure_of(name).savefig(tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text(encoding="utf-8")
    # Maps are pixels, one image a panel and one for each colour bar; all else is lines and text.
    assert drawn.count("<image") == {"draw_correlations": 4}.get(name, 0)
    figure_of(name).savefig(tmp_path / "figure.pdf")
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
