"""The built pages, and cards of notebooks, in a browser without a window.

The pages are looked at where `MKSDASK_SITE` names the folder that they were built into.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from mksdask import PrimitiveBasis, plan
from mksdask.stats import correlate

playwright = pytest.importorskip("playwright.sync_api")

SITE = Path(os.environ.get("MKSDASK_SITE", "site")).absolute()
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGES = [
    "index.html",
    "start.html",
    "ideas/statistics.html",
    "howto/memory.html",
    "gallery/index.html",
    "gallery/overview.html",
    "api/index.html",
    "api/generated/mksdask.MKSHomogenizationModel.html",
    "command.html",
    "pymks.html",
]


@pytest.fixture(scope="module")
def site():
    if not (SITE / "index.html").exists():
        pytest.skip("the pages are not built: sphinx-build .github/docs site")
    return SITE


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("this machine has no Chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", PAGES)
def test_page__is_whole(browser, site, page, width):
    tab = browser.new_page(viewport={"width": width, "height": 844})
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("requestfailed", lambda request: errors.append(request.url))
    tab.on("console", lambda message: message.type == "error" and errors.append(message.text))
    tab.goto((site / page).as_uri())
    assert tab.locator("h1").count() == 1
    # All pictures are there, and each says what it shows. The titles of small pictures stand below them.
    for picture in tab.locator("article img:not(.sphx-glr-thumbcontainer img)").all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        assert picture.get_attribute("alt")
    # Nothing is wider than the screen, but tables and code scroll by themselves.
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert errors == []
    tab.close()


def test_mathematics__is_drawn(browser, site):
    tab = browser.new_page()
    tab.goto((site / "ideas" / "statistics.html").as_uri())
    box = tab.locator("math[display=block]").first.bounding_box()
    assert box["width"] > 100
    assert box["height"] > 30
    tab.close()


def test_search__finds_a_function(browser, site):
    tab = browser.new_page()
    tab.goto((site / "search.html").as_uri() + "?q=correlate_volume")
    tab.locator("#search-results li").first.wait_for()
    assert "correlate_volume" in tab.locator("#search-results").inner_text()
    tab.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_cards__are_drawn(browser, ensemble, tmp_path, width):
    X = ensemble[0]
    statistics = correlate(X[:2], PrimitiveBasis(2), periodic_axes=[0, 1])
    shown = [
        PrimitiveBasis(2),
        plan(correlate, X, PrimitiveBasis(2), periodic_axes=[0, 1]),
        xr.DataArray(X, dims=("sample", "x", "y"), name="microstructure", attrs={"source": "/scans" * 20})
        .to_dataset()
        .mks,
        xr.DataArray(statistics, dims=("sample", "lag_x", "lag_y", "pair")).mks,
    ]
    cards = "\n".join(f"<div>{each._repr_html_()}</div>" for each in shown)
    (tmp_path / "cards.html").write_text(f"<!doctype html><meta charset=utf-8>{cards}", encoding="utf-8")
    tab = browser.new_page(viewport={"width": width, "height": 844})
    tab.goto((tmp_path / "cards.html").as_uri())
    for card in tab.locator("body > div").all():
        box = card.bounding_box()
        assert box["height"] > 40
        assert card.inner_text().strip()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    pictures = tab.locator("img").all()
    assert pictures
    for picture in pictures:
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    tab.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_report__is_no_wider_than_the_screen(browser, run, tmp_path, width):
    scan = tmp_path / ("scans" * 20) / "rock.npy"
    scan.parent.mkdir()
    np.save(scan, np.random.default_rng(0).integers(3, size=(24, 24, 24), dtype=np.uint8))
    run("import", scan, "rock.zarr", "--phases", "0:pore,1:active,2:binder", "--axes", "xyz")
    run("report", "rock.zarr", "rock.html")
    tab = browser.new_page(viewport={"width": width, "height": 844})
    errors = []
    tab.on("console", lambda message: message.type == "error" and errors.append(message.text))
    tab.goto((tmp_path / "rock.html").as_uri())
    assert str(scan) in tab.locator("table").first.inner_text()
    for picture in tab.locator("img").all():
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert errors == []
    tab.close()
