"""A first import without options: a picture of few grey levels says which phases it seems to hold."""

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_array_equal
from PIL import Image

from mksdask import create_volume, open_volume
from mksdask.importers import import_images, sources
from tests.conftest import real_data

PHASE = np.random.default_rng(0).integers(0, 3, (6, 30, 40)).astype("u1")


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    monkeypatch.setattr(sources, "SLAB_BYTES", 4000)


def store(tmp_path, image, name="a.tif", **options):
    tifffile.imwrite(tmp_path / name, image, photometric="minisblack")
    axes = "zyx" if image.ndim == 3 else None
    return import_images(tmp_path / name, tmp_path / "out.zarr", axes=axes, mode="w", **options).microstructure


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "u8"])
@pytest.mark.parametrize("levels", [(0, 255), (0, 85, 170), (2, 3), (0, 2)])
def test_import__few_grey_levels_are_refused_with_the_option_to_type(tmp_path, dtype, levels):
    image = np.array(levels, dtype)[PHASE % len(levels)]
    listed = ",".join(f"{level}:{name}" for level, name in zip(levels, "abc", strict=False))
    with pytest.raises(ValueError, match=rf"a.tif holds only the values {', '.join(map(str, levels))}, .*{listed}\)"):
        store(tmp_path, image)
    assert not (tmp_path / "out.zarr").exists()
    names = dict(zip(levels, "abc", strict=False))
    assert_array_equal(store(tmp_path, image, phases=names), (PHASE % len(levels)).T)
    assert_array_equal(store(tmp_path, image, phases="values"), image.T)
    assert_array_equal(store(tmp_path, image, thresholds=levels[1:]), (PHASE % len(levels)).T)


@pytest.mark.parametrize(
    "image",
    [
        PHASE,
        PHASE + 1,
        PHASE > 0,
        np.zeros_like(PHASE),
        PHASE * np.float32(85),
        np.random.default_rng(1).integers(0, 40, PHASE.shape).astype("i4") * 7,
        np.random.default_rng(1).integers(0, 255, PHASE.shape).astype("u1"),
    ],
)
def test_import__phases_labels_and_grey_levels_are_stored(tmp_path, image):
    assert_array_equal(store(tmp_path, image), image.T)


def test_import__one_voxel_of_another_value_decides(tmp_path):
    """No part of the image stands for the whole of it."""
    image = PHASE.copy()
    image[0, 0, 0] = 255
    with pytest.raises(ValueError, match=r"holds only the values 0, 1, 2, 255"):
        store(tmp_path, image)
    grey = np.array([0, 255], "u1")[PHASE % 2]
    grey[-1, -1] = np.arange(40)
    assert_array_equal(store(tmp_path, grey, phases="values"), grey.T)
    ramp = np.array([0, 255], "u1")[PHASE % 2]
    ramp[0] = np.random.default_rng(0).integers(0, 255, ramp[0].shape)
    assert_array_equal(store(tmp_path, ramp), ramp.T)


def test_import__only_what_is_kept_is_looked_at(tmp_path):
    image = PHASE.copy()
    image[0] = 255
    assert_array_equal(store(tmp_path, image, crop={"z": (1, None)}), image[1:].T)


def test_import__two_phases_after_jpeg(tmp_path, monkeypatch):
    monkeypatch.undo()
    y, x = np.mgrid[:300, :300]
    phases = (np.sin(x / 9) * np.cos(y / 13) > 0).astype("u1")
    Image.fromarray(phases * 255).save(tmp_path / "a.jpg", quality=75)
    with pytest.raises(
        ValueError, match=r"a.jpg holds many values, but nearly all lie close to \d+ and 2\d\d.*--otsu 2"
    ):
        import_images(tmp_path / "a.jpg", tmp_path / "a.zarr")
    found = import_images(tmp_path / "a.jpg", tmp_path / "a.zarr", otsu=2).microstructure
    assert (found.values != phases.T).mean() < 0.01
    with Image.open(tmp_path / "a.jpg") as image:
        grey = import_images(tmp_path / "a.jpg", tmp_path / "b.zarr", phases="values").microstructure
        assert_array_equal(grey, np.asarray(image).T)
    noisy = np.clip(np.array([90, 160])[phases] + np.random.default_rng(0).normal(0, 15, phases.shape), 0, 255)
    Image.fromarray(noisy.astype("u1")).save(tmp_path / "grey.png")
    import_images(tmp_path / "grey.png", tmp_path / "grey.zarr")


def test_import__a_small_image_is_not_judged(tmp_path):
    image = np.array([[3, 9, 4], [200, 7, 1]], "u1")
    assert_array_equal(store(tmp_path, image), image.T)


def test_import__real_images(tmp_path, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"holds only the values 0, 85, 170, .*--phases 0:a,85:b,170:c"):
        import_images(real_data("electrode_256_3phase.tif"), tmp_path / "e.zarr")
    with pytest.raises(ValueError, match=r"holds only the values 0, 255, .*--phases 0:a,255:b"):
        import_images(real_data("berea_400.tif"), tmp_path / "b.zarr", crop={"z": (0, 50)})


@pytest.mark.slow
def test_import__by_the_command(tmp_path, run):
    tifffile.imwrite(tmp_path / "a.tif", np.array([0, 85, 170], "u1")[PHASE], photometric="minisblack")
    told = run("import", "a.tif", "a.zarr", code=1)
    assert "--phases 0:a,85:b,170:c" in told
    found = run("import", "a.tif", "a.zarr", "--phases", "0:pore,85:clay,170:grain")
    assert list(found["fractions"]) == ["pore", "clay", "grain"]
    found = run("import", "a.tif", "b.zarr", "--phases", "values")
    assert list(found["fractions"]) == ["0", "85", "170"]
    labels = np.arange(PHASE.size, dtype="i4").reshape(PHASE.shape)
    tifffile.imwrite(tmp_path / "l.tif", labels, photometric="minisblack")
    found = run("import", "l.tif", "l.zarr")
    assert "fractions" not in found
    assert found["values"] == "labels or grey levels, of which some are not from 0 to 255"
    tifffile.imwrite(tmp_path / "g.tif", (labels % 200).astype("u1"), photometric="minisblack")
    assert run("import", "g.tif", "g.zarr")["values"] == "200 labels or grey levels"


def test_describe__empty_phases_are_left_out(tmp_path):
    create_volume(tmp_path / "a.zarr", (PHASE > 0) * np.uint8(2), phases=["pore", "clay", "grain", "salt"])
    found = open_volume(tmp_path / "a.zarr").mks.describe(fractions=True)
    assert list(found["fractions"]) == ["pore", "grain"]
