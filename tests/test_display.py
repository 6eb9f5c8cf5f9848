"""Cards of stores, plans, bases and fitted models in notebooks."""

import base64
import io
import re
from html.parser import HTMLParser

import dask.array as da
import numpy as np
import pytest
import sklearn
from numpy.testing import assert_array_equal
from PIL import Image

from mksdask import (
    FourierBasis,
    GSHBasis,
    LegendreBasis,
    MKSHomogenizationModel,
    MKSLocalizationModel,
    MKSStructureAnalysis,
    PrimitiveBasis,
    ProductBasis,
    create_ensemble,
    create_volume,
    open_ensemble,
    open_volume,
    plan,
)
from mksdask.datasets import make_microstructure
from mksdask.datasets.responses import make_elastic_FE_strain_delta
from mksdask.display.cards import DIVERGING, SEQUENTIAL, card, picture
from mksdask.reduction import PCA, IncrementalPCA
from mksdask.regression import KernelRegressor, polynomial_regression
from mksdask.stats import correlate_volume
from tests.helpers import computes

VOID = {"br", "img", "path", "rect", "circle", "polyline", "meta", "input", "link"}


class _Balance(HTMLParser):
    """Fails where tags are not closed in their order."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def checked(html):
    parser = _Balance()
    parser.feed(html)
    parser.close()
    assert not parser.open
    return html


def images(html):
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r"data:image/png;base64,([^\"]+)", html)
    ]


def test_picture__has_x_to_the_right_and_y_downwards():
    field = np.zeros((5, 3))
    field[4, 0] = 1.0
    (pixels,) = images(picture(field, "one"))
    assert pixels.shape == (3, 5, 3)
    assert_array_equal(pixels[0, 4], [int(SEQUENTIAL[-1][i : i + 2], 16) for i in (0, 2, 4)])
    assert_array_equal(pixels[2, 0], [int(SEQUENTIAL[0][i : i + 2], 16) for i in (0, 2, 4)])


def test_picture__diverging_is_white_at_zero():
    (pixels,) = images(picture(np.array([[-1.0, 0.0, 4.0]]), "three", diverging=True))
    middle = [int(DIVERGING[len(DIVERGING) // 2][i : i + 2], 16) for i in (0, 2, 4)]
    assert_array_equal(pixels[1, 0], middle)


def test_card__escapes_what_it_is_given():
    html = checked(card("<script>", {"<b>": "<i>"}, notes=["a & b"], table=[("stage", "n"), ("<x>", "1")]))
    assert "<script>" not in html
    assert all(text in html for text in ("&lt;script&gt;", "&lt;b&gt;", "&lt;i&gt;", "a &amp; b", "&lt;x&gt;"))


def test_card__takes_the_colours_of_the_page():
    html = card("title", {"fact": 1}, [picture(np.eye(4), "map")])
    style = re.search(r"<style>(.*)</style>", html, re.DOTALL).group(1)
    assert "currentColor" in style
    assert not re.search(r"[^-]color:(?!inherit)", style)
    assert not re.search(r"background(-color)?:(?!none)", style)
    # Against the styles of notebooks for tables.
    assert "text-align:left!important" in style


def test_stores__show_samples_without_computing_others(tmp_path):
    X = make_microstructure(n_samples=9, size=(12, 10), n_phases=2, grain_size=3)
    create_ensemble(
        tmp_path / "e.zarr", X, phases=("pore", "grain"), spacing=0.5, units="um", periodic_axes=[0], chunks=4
    )
    ensemble = open_ensemble(tmp_path / "e.zarr")
    html = checked(ensemble.mks._repr_html_())
    assert all(text in html for text in ("12 × 10", "pore, grain", "x 0.5, y 0.5", "µm", "sample 8"))
    shown = images(html)
    assert len(shown) == 4
    assert "4 of 9 samples are drawn." in html
    last = X[8].T
    assert len(np.unique(shown[-1].reshape(-1, 3), axis=0)) == 2
    assert_array_equal(shown[-1][..., 0] == int(SEQUENTIAL[-1][:2], 16), last == 1)
    assert "2-point" not in repr(ensemble.mks)
    assert "12 × 10" in repr(ensemble.mks)
    # Statistics are not computed for being shown; those at hand are.
    lazy = ensemble.mks.correlate()
    with computes(0):
        assert not images(checked(lazy.mks._repr_html_()))
    assert len(images(checked(lazy.compute().mks._repr_html_()))) == 2


def test_volume__shows_its_middle_however_large(tmp_path):
    X = np.zeros((300, 20, 5), dtype=np.uint8)
    X[:22], X[150, 3, 2] = 1, 1
    create_volume(tmp_path / "v.zarr", X)
    html = checked(open_volume(tmp_path / "v.zarr").mks._repr_html_())
    # It says what it cuts.
    assert "plane z = 2 of 5, middle 256 × 20 of 300 × 20" in html
    (shown,) = images(html)
    assert shown.shape == (20, 256, 3)
    assert_array_equal(np.argwhere(shown[..., 0] > 0), [[3, 150 - 22]])


def test_orientations__are_shown_as_colours(tmp_path):
    angles = np.zeros((6, 4, 3))
    angles[0, 0] = 0.3, np.pi / 4, 0.0
    angles[1, 0] = np.nan
    create_volume(tmp_path / "v.zarr", angles)
    (shown,) = images(open_volume(tmp_path / "v.zarr").mks._repr_html_())
    # A <101> lies along z at the first voxel, and a <001> where all angles are 0.
    assert_array_equal(shown[0, :3], [[0, 255, 0], [0, 0, 0], [255, 0, 0]])


@pytest.mark.parametrize(
    ("basis", "texts", "n_curves"),
    [
        (PrimitiveBasis(3), ("domain", "0, 2", "n_states=3"), 3),
        (PrimitiveBasis(2), ("n_states=2", "0, 1"), 2),
        (LegendreBasis(4, domain=(-1, 1)), ("-1, 1",), 4),
        (FourierBasis(3), ("complex",), 6),
        (GSHBasis(15, domain="cubic"), ("l = 0 1", "cubic", "Bunge"), 0),
        (ProductBasis(PrimitiveBasis(2), GSHBasis(4, domain="cubic")), ("factor 1", "GSHBasis"), 2),
    ],
)
def test_bases__show_their_functions(basis, texts, n_curves):
    html = checked(basis._repr_mimebundle_()["text/html"])
    assert all(text in html for text in texts)
    assert html.count("<polyline") == n_curves
    assert basis._repr_html_().endswith(basis._card())


def test_models__show_what_they_have_learnt_once_they_have(tmp_path):
    X = make_microstructure(n_samples=12, size=(9, 9), grain_size=2)
    y = X.mean(axis=(1, 2))
    reduced = MKSStructureAnalysis(PrimitiveBasis(2), n_components=3)
    for model in (reduced, MKSHomogenizationModel(PrimitiveBasis(2), n_components=3, property_linker="kernel")):
        assert "mks-card" not in model._repr_mimebundle_()["text/html"]
        model.fit(X, y)
        html = checked(model._repr_mimebundle_()["text/html"])
        assert "12 samples, 3 components" in html
        assert model is reduced or "kernel ridge regression, Gaussian kernel" in html
        assert len(images(html)) == 3
        assert html.count("<circle") == 12
        assert html.count("<rect") == 3
    with sklearn.config_context(display="text"):
        assert "text/html" not in reduced._repr_mimebundle_()
    local = MKSLocalizationModel(PrimitiveBasis(2))
    local.fit(*make_elastic_FE_strain_delta(elastic_modulus=(100, 120), poissons_ratio=(0.3, 0.3), size=(9, 9)))
    assert len(images(checked(local._repr_mimebundle_()["text/html"]))) == 2


def test_reducers_and_regressors__say_what_was_chosen():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 50))
    assert "gram" in checked(PCA(3).fit(X)._repr_mimebundle_()["text/html"])
    assert "30" in checked(IncrementalPCA(3).fit(X)._card())
    assert checked(PCA().fit(np.ones((4, 3)))._card()).count('height="0.0"') == 3
    regressor = KernelRegressor().fit(X[:, :3], X[:, 0])
    assert f"{regressor.gamma_:.6g}" in checked(regressor._card())
    few = KernelRegressor(n_landmarks=8).fit(X[:, :3], X[:, 0])
    assert "landmarks" in checked(few._card())
    assert polynomial_regression(2).in_words == "polynomial regression of degree 2"
    assert "mks-card" not in polynomial_regression(2)._repr_mimebundle_()["text/html"]


def test_plan__is_a_card():
    volume = da.zeros((64, 64, 64), chunks=32, dtype="u1")
    html = checked(plan(correlate_volume, volume, PrimitiveBasis(2), cutoff=4)._repr_html_())
    assert "tile sums" in html
    assert "<thead>" in html
