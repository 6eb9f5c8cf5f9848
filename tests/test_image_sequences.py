"""Pictures of PNG, JPEG, GIF and WebP; folders of slices; and many files as one ensemble."""

import shutil

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from numpy.testing import assert_array_equal
from PIL import Image

from mksdask import create_volume, open_ensemble
from mksdask.importers import AssumedWarning, import_images, sources
from mksdask.importers.image_files import open_source
from mksdask.importers.sources import Choice

VOLUME = np.random.default_rng(0).integers(0, 255, (12, 13, 17)).astype("u1")  # z, y, x


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    monkeypatch.setattr(sources, "SLAB_BYTES", 1000)


def save(path, image):
    Image.fromarray(image).save(path)


def save_tiff(path, image):
    tifffile.imwrite(path, image, photometric="minisblack", compression="lzw")


def folder(path, pages=VOLUME, name="slice{}.png", write=save):
    path.mkdir()
    for number, page in enumerate(pages):
        write(path / name.format(number), page)
    return path


def equal(path, expected, axes="zyx", **choice):
    found = open_source(path, Choice(**choice))
    assert found.axes == axes
    assert found.data.dtype == expected.dtype
    assert_array_equal(found.data.compute(scheduler="sync"), expected)
    return found


def scikit_image(path, image):
    pytest.importorskip("skimage.io").imsave(path, image, check_contrast=False)


def imageio(path, image):
    pytest.importorskip("imageio.v3").imwrite(path, image)


def opencv(path, image):
    pytest.importorskip("cv2").imwrite(str(path), image)


def webp(path, image):
    Image.fromarray(np.repeat(image[..., None], 3, -1)).save(path, lossless=True)


@pytest.mark.parametrize("write", [save, scikit_image, imageio, opencv])
@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff"])
def test_folder__slices_of_several_writers(tmp_path, write, suffix):
    assert not equal(folder(tmp_path / "a", name="s{}." + suffix, write=write), VOLUME).assumed or suffix == "bmp"
    if suffix != "bmp":
        equal(folder(tmp_path / "b", VOLUME.astype("u2") * 200, "s{}." + suffix, write), VOLUME.astype("u2") * 200)


def test_folder__webp_and_jpeg(tmp_path):
    equal(folder(tmp_path / "a", name="{}.webp", write=webp), VOLUME)
    path = folder(tmp_path / "b", name="{}.jpg")
    equal(path, np.stack([np.asarray(Image.open(path / f"{i}.jpg")) for i in range(12)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda path: save(path / "slice12.png", VOLUME[0, :5]),
            r"slice12.png does not belong .*: size 17x5 instead of",
        ),
        (lambda path: save(path / "slice3.png", VOLUME[0].astype("u2")), r"slice3.png .*dtype uint16 instead of uint8"),
        (lambda path: save(path / "slice12.tif", VOLUME[0]), r"slice12.tif does not belong .*the others are png files"),
        (lambda path: save(path / "preview.png", VOLUME[0]), r"preview.png .*differs from slice0.png in more than its"),
        (lambda path: save(path / "slice7_thumb.png", VOLUME[0]), r"slice7_thumb.png .*differs from slice0.png"),
        (lambda path: np.save(path / "all.npy", VOLUME), r"all.npy does not belong .*the others are png"),
        (lambda path: (path / "slice4.png").write_text("none"), r"slice4.png: it cannot be read"),
        (
            lambda path: (save(path / "a.jpg", VOLUME[0]), shutil.move(path / "a.jpg", path / "slice4.png")),
            "slice4.png .*format JPEG instead of PNG",
        ),
    ],
)
def test_folder__what_does_not_belong_is_refused_by_name(tmp_path, change, message):
    path = folder(tmp_path / "a")
    change(path)
    with pytest.raises(ValueError, match=message):
        import_images(path, tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()
    equal(path, VOLUME[5:7], pattern="slice[56].png")


def test_folder__gaps_and_other_files_are_said(tmp_path):
    path = folder(tmp_path / "a")
    (path / "slice3.png").unlink()
    (path / "slice4.png").unlink()
    for name in ("scan.log", ".hidden", "Thumbs.db"):
        (path / name).write_text("")
    found = equal(path, np.delete(VOLUME, [3, 4], 0))
    assert "2 of the numbers of slices are missing, the first after slice2.png" in found.assumed[0]
    assert "left out of the folder, because they are no pictures: Thumbs.db, scan.log" in found.assumed[1]
    with pytest.warns(AssumedWarning, match="2 of the numbers"):
        import_images(path, tmp_path / "a.zarr", pattern="*.png")
    assert not equal(folder(tmp_path / "even", VOLUME[:4], "{0}0.png"), VOLUME[:4]).assumed
    assert "count along several axes" in equal(folder_of_two(tmp_path / "two"), VOLUME[:4]).assumed[0]


def folder_of_two(path):
    path.mkdir()
    for number, page in enumerate(VOLUME[:4]):
        save(path / f"a{number // 2}_z{number % 2}.png", page)
    return path


def test_files__in_the_order_of_letters_are_refused(tmp_path):
    path = folder(tmp_path / "a")
    files = sorted(path.iterdir())
    with pytest.raises(ValueError, match=r"slice11.png comes before slice2.png, .*pattern in quotes"):
        open_source(files)
    ordered = [path / f"slice{i}.png" for i in range(12)]
    equal(ordered, VOLUME)
    equal(ordered[::-1], VOLUME[::-1])


def test_folder__stacks_of_several_pages_follow_each_other(tmp_path):
    parts = [VOLUME[:4], VOLUME[4:7], VOLUME[7:]]
    found = equal(folder(tmp_path / "a", parts, "{}.tif", save_tiff), VOLUME)
    assert found.assumed == (
        "pages without a name are taken for slices along z; say axes=",
        "3 files of several slices each are joined along z; say join=",
    )
    with pytest.raises(ValueError, match=r"1.tif does not belong .*number of axes 3 instead of 2"):
        open_source(folder(tmp_path / "b", [VOLUME[0], VOLUME[1:3], VOLUME[3]], "{}.tif", save_tiff))


def test_folder__spacing(tmp_path):
    def write(path, page, dots=2e4):
        tifffile.imwrite(path, page, resolution=(dots, dots), resolutionunit="CENTIMETER")

    path = folder(tmp_path / "a", name="{}.tif", write=write)
    found = equal(path, VOLUME)
    assert (found.spacing, found.units) == ({"x": 0.5, "y": 0.5}, "um")
    with pytest.warns(AssumedWarning, match=r"spacing 0.5 along z assumed"):
        import_images(path, tmp_path / "a.zarr")
    write(path / "7.tif", VOLUME[0], 1e4)
    with pytest.raises(ValueError, match=r"7.tif does not belong .*spacing .*1.0.* instead of"):
        open_source(path)


def test_folder__of_colours(tmp_path):
    equal(folder(tmp_path / "a", np.repeat(VOLUME[..., None], 3, -1)), VOLUME)
    path = folder(tmp_path / "b", np.stack([VOLUME, VOLUME // 2, VOLUME // 3], -1))
    with pytest.raises(ValueError, match=r"slice0.png has colours, in 3 channels .*choose one by channel="):
        open_source(path)
    equal(path, VOLUME // 2, channel=1)
    path = folder(tmp_path / "c", np.repeat(VOLUME[..., None], 3, -1))
    colours = np.repeat(VOLUME[4][..., None], 3, -1)
    colours[0, 0, 2] ^= 1
    save(path / "slice4.png", colours)
    with pytest.raises(ValueError, match=r"slice4.png has colours"):
        import_images(path, tmp_path / "c.zarr")


def test_picture__modes(tmp_path):
    page = VOLUME[0]
    save(tmp_path / "b.png", page > 100)
    equal(tmp_path / "b.png", page > 100, "yx")
    save(tmp_path / "u.png", page.astype("u2") * 200)
    equal(tmp_path / "u.png", page.astype("u2") * 200, "yx")
    palette = Image.fromarray(page).convert("P")
    palette.putpalette(np.random.default_rng(0).integers(0, 255, 768).tolist())
    palette.save(tmp_path / "p.png")
    assert "indices are read" in equal(tmp_path / "p.png", page, "yx").assumed[0]
    save(tmp_path / "rgba.png", np.stack([page, page, page, VOLUME[1]], -1))
    assert "transparency is left out" in equal(tmp_path / "rgba.png", page, "yx").assumed[0]
    equal(tmp_path / "rgba.png", VOLUME[1], "yx", channel=3)
    Image.fromarray(page).save(tmp_path / "d.png", dpi=(300, 300))
    assert "300 dots per inch" in equal(tmp_path / "d.png", page, "yx").assumed[0]
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(page).save(tmp_path / "r.png", exif=exif)
    assert "orientation 6" in equal(tmp_path / "r.png", page, "yx").assumed[0]
    Image.fromarray(page).convert("CMYK").save(tmp_path / "c.jpg")
    with pytest.raises(ValueError, match="mode CMYK, which are not read; convert it to grey"):
        open_source(tmp_path / "c.jpg")


def test_picture__colours_of_16_bits(tmp_path):
    """Pillow would keep 8 bits of them."""
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "a.png"), np.repeat((VOLUME[0].astype("u2") * 256 + 1)[..., None], 3, -1))
    with pytest.raises(ValueError, match="convert it to grey levels of 8 or 16 bits"):
        open_source(tmp_path / "a.png")


def test_picture__of_too_many_pixels(tmp_path, monkeypatch):
    save(tmp_path / "a.png", VOLUME[0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"a.png has more pixels than Pillow reads .*; save it as a tiled TIFF"):
        open_source(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_picture__animations_are_stacks(tmp_path, name):
    pages = [Image.fromarray(page).convert("RGB" if name == "a.webp" else "L") for page in VOLUME]
    pages[0].save(
        tmp_path / name, save_all=True, append_images=pages[1:], **({"lossless": True} if "w" in name else {})
    )
    assert "12 frames of an animation are taken for slices" in equal(tmp_path / name, VOLUME).assumed[0]
    equal(tmp_path / name, VOLUME[7], "yx", time=7)
    with pytest.raises(ValueError, match="time=12 must be a number from 0 to 11"):
        open_source(tmp_path / name, Choice(time=12))


def test_picture__frames_of_other_size_are_refused(tmp_path):
    pages = [Image.fromarray(page) for page in VOLUME[:2]]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:])
    # The second frame is wider than the first one, as some programs write it.
    content = (tmp_path / "a.gif").read_bytes()
    place = content.rindex(b"\x2c" + bytes(4))
    width = int.from_bytes(content[place + 5 : place + 7], "little")
    wider = content[: place + 1] + (9).to_bytes(2, "little") + content[place + 3 : place + 5]
    (tmp_path / "a.gif").write_bytes(wider + width.to_bytes(2, "little") + content[place + 7 :])
    with pytest.raises(ValueError, match=r"a.gif: frame 1 has \(26, 13\) pixels, and the first one \(17, 13\); save"):
        import_images(tmp_path / "a.gif", tmp_path / "a.zarr")


def test_picture__gif_of_few_levels(tmp_path):
    levels = np.array([0, 85, 255], "u1")[VOLUME % 3]
    pages = [Image.fromarray(page) for page in levels]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:])
    equal(tmp_path / "a.gif", levels)
    pages[0].save(tmp_path / "b.gif")
    equal(tmp_path / "b.gif", levels[0], "yx")


# Many files as one ensemble.
def write_hdf5(path, image):
    with h5py.File(path, "w") as file:
        file["data"] = image


@pytest.mark.parametrize(
    ("suffix", "write", "axes"),
    [
        ("npy", np.save, "xyz"),
        ("tif", save_tiff, "zyx"),
        ("h5", write_hdf5, "xyz"),
        ("zarr", lambda path, image: zarr.create_array(str(path), data=image), "xyz"),
    ],
)
@pytest.mark.parametrize("most", [1, 2**24])
def test_samples__volumes(tmp_path, monkeypatch, suffix, write, axes, most):
    monkeypatch.setattr("mksdask.importers.image_samples.MOST_BYTES", most)
    volumes = [VOLUME, VOLUME[::-1], VOLUME // 2]
    names = ["alpha", "beta", "gamma"]
    files = [tmp_path / f"{name}.{suffix}" for name in names]
    for file, volume in zip(files, volumes, strict=True):
        write(file, volume)
    stored = import_images(files, tmp_path / "out.zarr", axes=axes, join="samples")
    expected = volumes if axes == "xyz" else [volume.T for volume in volumes]
    assert_array_equal(stored.microstructure, expected)
    assert stored.microstructure.dims == ("sample", "x", "y", "z")
    assert stored["sample"].values.tolist() == names
    cut = import_images(
        tmp_path / f"[abg]*.{suffix}",
        tmp_path / "cut.zarr",
        axes=axes,
        join="samples",
        crop={"x": (2, 9)},
        thresholds=100,
    )
    assert_array_equal(cut.microstructure, np.array(expected)[:, 2:9] >= 100)


def test_samples__pictures(tmp_path):
    path = folder(tmp_path / "a")
    stored = import_images(path, tmp_path / "a.zarr", join="samples", periodic_axes=(0, 1))
    assert_array_equal(stored.microstructure, VOLUME.transpose(0, 2, 1))
    assert stored["sample"].values.tolist() == [f"slice{i}" for i in range(12)]
    assert stored.microstructure.attrs["periodic_axes"] == ["x", "y"]
    one = import_images(path / "slice3.png", tmp_path / "one.zarr", join="samples")
    assert one.microstructure.shape == (1, 17, 13)


def tiff_of_times(path, image):
    tifffile.imwrite(path, image[:, None], imagej=True, metadata={"axes": "TZYX"})


def tiff_page_by_page(path, image):
    with tifffile.TiffWriter(path) as file:
        for page in image:
            file.write(page, compression="lzw")


def pillow_pages(path, image):
    pages = [Image.fromarray(page) for page in image]
    options = {"compression": "tiff_lzw"} if path.suffix == ".tif" else {}
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)


@pytest.mark.filterwarnings("ignore::mksdask.importers.AssumedWarning")
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.tif", save_tiff),
        ("b.tif", tiff_of_times),
        ("c.tif", tiff_page_by_page),
        ("d.tif", pillow_pages),
        ("e.gif", pillow_pages),
        ("f.png", pillow_pages),
    ],
)
def test_samples__pages_of_one_file(tmp_path, name, write):
    write(tmp_path / name, VOLUME)
    stored = import_images(tmp_path / name, tmp_path / "out.zarr", join="samples")
    assert_array_equal(stored.microstructure, VOLUME.transpose(0, 2, 1))
    # Pages of several files are slices.
    write(tmp_path / f"other-{name}", VOLUME[::-1])
    files = [tmp_path / name, tmp_path / f"other-{name}"]
    if write is tiff_of_times:
        with pytest.raises(ValueError, match="choose one of 12 times"):
            import_images(files, tmp_path / "out.zarr", join="samples", mode="w")
        return
    stored = import_images(files, tmp_path / "out.zarr", join="samples", mode="w")
    assert_array_equal(stored.microstructure, np.stack([VOLUME, VOLUME[::-1]]).transpose(0, 3, 2, 1))


def test_samples__times_of_volumes_and_stacks_that_say_that_they_are_one(tmp_path):
    both = np.stack([VOLUME, VOLUME[::-1]])
    for name, options in (("a.tif", {"imagej": True}), ("b.ome.tif", {"photometric": "minisblack"})):
        tifffile.imwrite(tmp_path / name, both, metadata={"axes": "TZYX"}, **options)
        stored = import_images(tmp_path / name, tmp_path / "out.zarr", join="samples", mode="w")
        assert_array_equal(stored.microstructure, both.transpose(0, 3, 2, 1))
    tifffile.imwrite(tmp_path / "c.tif", VOLUME, imagej=True, metadata={"axes": "ZYX"})
    stored = import_images(tmp_path / "c.tif", tmp_path / "out.zarr", join="samples", mode="w")
    assert_array_equal(stored.microstructure, VOLUME.T[None])


def test_samples__in_a_folder_have_any_names(tmp_path):
    (tmp_path / "a").mkdir()
    for name, page in zip(("steel1", "alloy", "b_7"), VOLUME, strict=False):
        save(tmp_path / "a" / f"{name}.png", page)
        np.save(tmp_path / "a" / f"{name}.npy", page)
    with pytest.raises(ValueError, match="does not belong"):
        import_images(tmp_path / "a", tmp_path / "a.zarr", join="samples")
    for pattern, axes in (("*.png", None), ("*.npy", "yx")):
        stored = import_images(
            tmp_path / "a", tmp_path / "a.zarr", join="samples", pattern=pattern, axes=axes, mode="w"
        )
        assert stored["sample"].values.tolist() == ["alloy", "b_7", "steel1"]


def test_samples__are_read_lazily(tmp_path, monkeypatch):
    path = folder(tmp_path / "a", name="{}.npy", write=np.save)
    files = sorted(path.iterdir())
    monkeypatch.setattr(sources, "SLAB_BYTES", 500)
    source = open_source(files, Choice(join="samples"), axes="yx")
    assert source.data.numblocks == (6, 1, 1)
    assert source.axes == "syx"
    assert source.labels == tuple(file.stem for file in files)
    files[0].unlink()
    assert_array_equal(source.data[2:].compute(), np.stack([np.load(file) for file in files[2:]]))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (VOLUME[0, :5], r"b.npy does not belong to the other samples: size .*'y': 5.* instead of .*'y': 13"),
        (VOLUME[0].astype("f4"), r"b.npy does not belong to the other samples: dtype float32 instead of uint8"),
        (VOLUME, "b.npy"),
    ],
)
def test_samples__that_are_not_alike_are_refused_by_name(tmp_path, image, message):
    for name, values in (("a", VOLUME[0]), ("b", image), ("c", VOLUME[1])):
        np.save(tmp_path / f"{name}.npy", values)
    with pytest.raises(ValueError, match=message):
        import_images(tmp_path / "*.npy", tmp_path / "out.zarr", axes="yx", join="samples")
    assert not (tmp_path / "out.zarr").exists()


def test_samples__of_other_spacing_or_one_name(tmp_path):
    for name, step in (("a", 1.0), ("b", 2.0), ("c", 1.0)):
        metadata = {"axes": "YX", "PhysicalSizeX": step, "PhysicalSizeY": step}
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", VOLUME[0], metadata=metadata)
    with pytest.raises(ValueError, match=r"b.ome.tif does not belong .*spacing .*2.0.* instead of .*1.0"):
        import_images(tmp_path / "*.tif", tmp_path / "out.zarr", join="samples")
    stored = import_images([tmp_path / "a.ome.tif", tmp_path / "c.ome.tif"], tmp_path / "out.zarr", join="samples")
    assert stored["sample"].values.tolist() == ["a", "c"]
    assert stored.x.attrs["units"] == "um"
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "a.ome.tif", tmp_path / "other" / "a.tif")
    files = [tmp_path / "a.ome.tif", tmp_path / "other" / "a.tif"]
    with pytest.raises(ValueError, match="2 files are called 'a'"):
        import_images(files, tmp_path / "two.zarr", join="samples")


def test_samples__by_the_command(tmp_path, run):
    for number in range(3):
        np.save(tmp_path / f"s{number}.npy", VOLUME[number] % 3)
    files = sorted(tmp_path.glob("*.npy"))
    run("import", *files, tmp_path / "out.zarr", "--as", "samples", "--axes", "yx")
    stored = open_ensemble(tmp_path / "out.zarr")
    assert_array_equal(stored.microstructure, (VOLUME[:3] % 3).transpose(0, 2, 1))
    assert stored["sample"].values.tolist() == ["s0", "s1", "s2"]


def test_samples__of_stores_of_this_package(tmp_path):
    for name in "ab":
        create_volume(tmp_path / f"{name}.zarr", VOLUME % 2, spacing=0.5, units="um")
    stored = import_images([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "out.zarr", join="samples")
    assert_array_equal(stored.microstructure, [VOLUME % 2] * 2)
    assert stored.x.attrs["units"] == "um"
