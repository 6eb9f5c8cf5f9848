"""The built pages in a browser without a window: `MKSDASK_SITE=site pytest tests/test_site.py`."""

import os
import shutil
from pathlib import Path

import pytest

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
def browser():
    if not (SITE / "index.html").exists():
        pytest.skip("the pages are not built: sphinx-build .github/docs site")
    if BROWSER is None:
        pytest.skip("this machine has no Chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", PAGES)
def test_page__is_whole(browser, page, width):
    tab = browser.new_page(viewport={"width": width, "height": 844})
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("requestfailed", lambda request: errors.append(request.url))
    tab.goto((SITE / page).as_uri())
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


def test_mathematics__is_drawn(browser):
    tab = browser.new_page()
    tab.goto((SITE / "ideas" / "statistics.html").as_uri())
    box = tab.locator("math[display=block]").first.bounding_box()
    assert box["width"] > 100
    assert box["height"] > 30
    tab.close()


def test_search__finds_a_function(browser):
    tab = browser.new_page()
    tab.goto((SITE / "search.html").as_uri() + "?q=correlate_volume")
    tab.locator("#search-results li").first.wait_for()
    assert "correlate_volume" in tab.locator("#search-results").inner_text()
    tab.close()
