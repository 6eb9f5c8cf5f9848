"""TIFF files as several programs write them: every page, series, channel and time, sizes, codecs and dtypes."""

import logging
import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_array_equal
from PIL import Image

from mksdask.importers import AssumedWarning, import_images, sources
from mksdask.importers.formats import lzw
from mksdask.importers.formats.tiff_opening import opened_tiff
from mksdask.importers.image_files import open_source
from mksdask.importers.sources import Choice

VOLUME = np.random.default_rng(0).integers(0, 255, (5, 33, 47)).astype("u1")  # z, y, x
SEVERAL = np.random.default_rng(1).integers(0, 255, (2, 4, 3, 20, 30)).astype("u1")  # t, z, c, y, x


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    monkeypatch.setattr(sources, "SLAB_BYTES", 3000)


def write(path, image, **options):
    tifffile.imwrite(path, image, photometric=options.pop("photometric", "minisblack"), **options)
    return path


def read(path, axes=None, **choice):
    source = open_source(path, Choice(**choice), axes=axes)
    return source.axes, source.data.compute(scheduler="sync")


def equal(path, expected, axes="zyx"):
    found, values = read(path)
    assert found == axes
    assert values.dtype == expected.dtype.newbyteorder("=")
    assert_array_equal(values, expected)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits", "lzma", "png", "jpegxr", "jpeg2000"])
@pytest.mark.parametrize(
    "options", [{}, {"tile": (16, 16)}, {"rowsperstrip": 5}, {"bigtiff": True}, {"byteorder": ">"}, {"predictor": True}]
)
def test_tiff__codecs_and_layouts(tmp_path, compression, options):
    if "predictor" in options and compression not in ("lzw", "zlib", "zstd"):
        pytest.skip("tifffile has predictors for LZW, zlib and zstd")
    if "byteorder" in options and compression in ("png", "jpeg2000"):
        pytest.skip("tifffile writes their bytes in a wrong order")
    level = {"compressionargs": {"level": 0}} if compression == "jpeg2000" else {}
    image = VOLUME.astype("u2") if compression != "jpegxr" else VOLUME
    equal(write(tmp_path / "a.tif", image, compression=compression, **options, **level), image)
    equal(write(tmp_path / "b.tif", image[0], compression=compression, **options, **level), image[0], "yx")


@pytest.mark.parametrize("dtype", ["?", "i1", "i2", "i4", "i8", "u4", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("compression", [None, "lzw"])
def test_tiff__dtypes(tmp_path, dtype, byteorder, compression):
    image = (VOLUME > 100) if dtype == "?" else (VOLUME.astype("f8") - (50 if dtype[0] != "u" else 0)).astype(dtype)
    equal(write(tmp_path / "a.tif", image, byteorder=byteorder, compression=compression), image)


@pytest.mark.parametrize("dtype", ["i8", "u8", ">i8", ">u2", "i1", "f2", ">f4", "?"])
def test_tiff__dtypes_are_stored(tmp_path, dtype):
    image = VOLUME // 2 if dtype != "?" else VOLUME > 100
    write(tmp_path / "a.tif", image.astype(dtype), byteorder=dtype[0] if dtype[0] == ">" else "<")
    stored = import_images(tmp_path / "a.tif", tmp_path / "a.zarr", axes="zyx").microstructure
    assert stored.dtype == np.dtype(dtype).newbyteorder("=")
    assert_array_equal(stored, image.T)


def test_tiff__a_large_page_is_read_by_rows(tmp_path, monkeypatch):
    image = np.random.default_rng(2).integers(0, 255, (300, 200)).astype("u1")
    decoded = []
    original = tifffile.TiffPage.asarray
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *a, **k: decoded.append(1) or original(*a, **k))
    for number, options in enumerate(({"rowsperstrip": 16}, {"tile": (32, 48)})):
        path = write(tmp_path / f"{number}.tif", image, compression="lzw", **options)
        source = open_source(path)
        assert source.data.numblocks[0] > 10
        assert_array_equal(source.data[100:150].compute(), image[100:150])
        assert_array_equal(source.data.compute(), image)
    assert not decoded


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("kind", [{"imagej": True}, {"ome": True}, {}])
def test_tiff__channels_and_times_are_chosen_and_never_a_depth(tmp_path, kind, compression):
    path = write(tmp_path / "a.tif", SEVERAL, metadata={"axes": "TZCYX"}, compression=compression, **kind)
    with pytest.raises(ValueError, match=r"choose one of 2 times by time= \(--time 0 to 1\) and one of 3 channels"):
        open_source(path)
    with pytest.raises(ValueError, match=r"choose one of 2 times by time="):
        open_source(path, Choice(channel=1))
    with pytest.raises(ValueError, match=r"channel=3 must be a number from 0 to 2"):
        open_source(path, Choice(channel=3, time=0))
    assert_array_equal(read(path, channel=2, time=1)[1], SEVERAL[1, :, 2])
    assert_array_equal(read(path, "szyx", channel=1)[1], SEVERAL[:, :, 1])
    stored = import_images(path, tmp_path / "a.zarr", channel=2, time=1)
    assert_array_equal(stored.microstructure, SEVERAL[1, :, 2].T)


def test_tiff__names_of_channels_are_listed(tmp_path):
    metadata = {"axes": "CYX", "Channel": {"Name": ["absorption", "phase", "dark"]}}
    write(tmp_path / "a.ome.tif", SEVERAL[0, 0], metadata=metadata)
    with pytest.raises(ValueError, match=r"--channel 0 to 2; 0: absorption, 1: phase, 2: dark"):
        open_source(tmp_path / "a.ome.tif")


def test_tiff__planes_that_the_file_does_not_name(tmp_path):
    write(tmp_path / "times.tif", SEVERAL[:, 0, 0], imagej=True, metadata={"axes": "TYX"})
    with pytest.raises(ValueError, match=r"choose one of 2 times .* or say what they are by axes=, such as 'zyx'"):
        open_source(tmp_path / "times.tif")
    assert_array_equal(read(tmp_path / "times.tif", "zyx")[1], SEVERAL[:, 0, 0])
    write(tmp_path / "four.tif", SEVERAL[:, :, 0])
    with pytest.raises(ValueError, match=r"say what they are by axes=, such as 'szyx'"):
        open_source(tmp_path / "four.tif")
    assert_array_equal(read(tmp_path / "four.tif", "szyx")[1], SEVERAL[:, :, 0])
    equal(write(tmp_path / "one.tif", VOLUME[:1][None]), VOLUME[0], "yx")
    equal(write(tmp_path / "deep.tif", VOLUME, volumetric=True, tile=(16, 16, 16)), VOLUME)
    with pytest.raises(ValueError, match=r"channel=1 must be 0, because .* has one channel"):
        open_source(tmp_path / "one.tif", Choice(channel=1))


def test_tiff__series(tmp_path):
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        for page in VOLUME:
            file.write(page, compression="lzw")
    with pytest.warns(AssumedWarning, match=r"5 series of one page each are joined as slices along z"):
        stored = import_images(tmp_path / "pages.tif", tmp_path / "a.zarr")
    assert_array_equal(stored.microstructure, VOLUME.T)
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as file:
        size = {"PhysicalSizeX": 500.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
        file.write(VOLUME, metadata={"axes": "ZYX", "Name": "scan"} | size)
        file.write(VOLUME[::-1], metadata={"axes": "ZYX", "Name": "labels"} | size | {"PhysicalSizeX": 1000.0})
    with pytest.raises(ValueError, match=r"choose one by series= \(--series\): 0: scan, zyx 5x33x47 uint8; 1: labels"):
        open_source(tmp_path / "two.ome.tif")
    found = open_source(tmp_path / "two.ome.tif", Choice(series=1))
    assert_array_equal(found.data, VOLUME[::-1])
    assert found.spacing == {"x": 1000.0, "y": 250.0}
    assert found.units == "nm"
    with tifffile.TiffWriter(tmp_path / "odd.tif") as file:
        for page in VOLUME:
            file.write(page, metadata=None)
        file.write(VOLUME[0, ::2], metadata=None)
    with pytest.raises(ValueError, match=r"0: iyx 5x33x47 uint8; 1: yx 17x47 uint8"):
        open_source(tmp_path / "odd.tif")
    with tifffile.TiffWriter(tmp_path / "thumb.tif") as file:
        for page in VOLUME:
            file.write(page, metadata=None)
        file.write(VOLUME[0, ::2, ::2], metadata=None, subfiletype=1)
    found = open_source(tmp_path / "thumb.tif")
    assert_array_equal(found.data, VOLUME)
    assert found.assumed[0] == "series 1, marked as a reduced copy, is left out; say series="
    with tifffile.TiffWriter(tmp_path / "pyramid.ome.tif", ome=True) as file:
        file.write(VOLUME, subifds=1, metadata={"axes": "ZYX"}, tile=(16, 16))
        file.write(VOLUME[:, ::2, ::2], subfiletype=1, tile=(16, 16))
    equal(tmp_path / "pyramid.ome.tif", VOLUME)


def test_tiff__pages_that_metadata_do_not_describe(tmp_path):
    write(tmp_path / "a.tif", VOLUME, ome=True, metadata={"axes": "ZYX"}, compression="lzw")
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(
        content.replace(b'SizeZ="5"', b'SizeZ="4"').replace(b'PlaneCount="5"', b'PlaneCount="4"')
    )
    with pytest.raises(ValueError, match=r"has 5 pages, but its metadata describe only 4"):
        open_source(tmp_path / "a.tif")
    write(tmp_path / "b.tif", VOLUME, imagej=True, metadata={"axes": "ZYX"})
    content = (tmp_path / "b.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(content.replace(b"images=5\n", b"images=9\n"))
    with pytest.raises(ValueError, match=r"says that it has 9 images"):
        open_source(tmp_path / "b.tif")


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("options", [{}, {"compression": "lzw", "rowsperstrip": 5}, {"tile": (16, 16)}])
def test_tiff__colours(tmp_path, planar, options):
    grey = np.repeat(VOLUME[0][..., None], 3, -1)
    colours = np.stack([VOLUME[0], VOLUME[1], VOLUME[2]], -1)
    grey, colours = (np.moveaxis(image, -1, 0) if planar == "separate" else image for image in (grey, colours))
    equal(write(tmp_path / "g.tif", grey, photometric="rgb", planarconfig=planar, **options), VOLUME[0], "yx")
    path = write(tmp_path / "c.tif", colours, photometric="rgb", planarconfig=planar, **options)
    with pytest.raises(ValueError, match=r"c.tif has colours, in 3 channels .*choose one by channel="):
        open_source(path)
    assert_array_equal(read(path, channel=1)[1], VOLUME[1])


def test_tiff__three_slices_that_were_written_as_colours(tmp_path):
    with pytest.warns(DeprecationWarning, match=r"stored as RGB"):
        tifffile.imwrite(tmp_path / "a.tif", VOLUME[:3])
    with pytest.raises(ValueError, match=r"if the channels are slices, say axes='zyx'"):
        open_source(tmp_path / "a.tif")
    assert_array_equal(read(tmp_path / "a.tif", "zyx")[1], VOLUME[:3])


def test_tiff__colours_in_a_later_slice(tmp_path):
    stack = np.repeat(VOLUME[..., None], 3, -1)
    equal(write(tmp_path / "a.tif", stack, photometric="rgb", compression="lzw"), VOLUME)
    stack[4, 3, 3, 1] ^= 1
    write(tmp_path / "b.tif", stack, photometric="rgb", compression="lzw")
    with pytest.raises(ValueError, match=r"b.tif has colours"):
        import_images(tmp_path / "b.tif", tmp_path / "b.zarr", axes="zyx")
    assert not (tmp_path / "b.zarr").exists()


def test_tiff__palettes_and_white_zero_are_said(tmp_path):
    colours = np.random.default_rng(0).integers(0, 65535, (3, 256)).astype("u2")
    found = open_source(write(tmp_path / "p.tif", VOLUME[0], photometric="palette", colormap=colours))
    assert_array_equal(found.data, VOLUME[0])
    assert "indices are read" in found.assumed[0]
    found = open_source(write(tmp_path / "w.tif", VOLUME[0], photometric="miniswhite"))
    assert_array_equal(found.data, VOLUME[0])
    assert "0 is white" in found.assumed[0]


@pytest.mark.parametrize(
    ("options", "metadata", "spacing", "units", "said"),
    [
        ({"resolution": (2, 4)}, {"unit": "\\u00B5m", "spacing": 3.0}, {"x": 0.5, "y": 0.25, "z": 3.0}, "um", ""),
        ({"resolution": (2, 2)}, {"unit": "um"}, {"x": 0.5, "y": 0.5, "z": 1.0}, "um", "no spacing if it is 1"),
        ({"resolution": (2, 2)}, {"unit": "pixel"}, {}, None, ""),
        ({"resolution": (1, 1)}, {"spacing": 2.0}, {"x": 1.0, "y": 1.0, "z": 2.0}, None, ""),
        ({"resolution": (1, 1)}, {}, {}, None, ""),
        ({"resolution": (5e3, 1e4), "resolutionunit": "CENTIMETER"}, {}, {"x": 2.0, "y": 1.0}, "um", ""),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, {"unit": "inch"}, {}, None, "72 dots per inch"),
    ],
)
def test_tiff__sizes_by_the_rules_of_imagej(tmp_path, options, metadata, spacing, units, said):
    path = write(tmp_path / "a.tif", VOLUME, imagej=True, metadata={"axes": "ZYX"} | metadata, **options)
    found = open_source(path)
    assert (found.spacing, found.units) == (spacing, units)
    assert said in " ".join(found.assumed)
    assert bool(said) == bool(found.assumed)


def test_tiff__units_of_axes_by_the_rules_of_imagej(tmp_path):
    metadata = {"axes": "ZYX", "unit": "um", "zunit": "nm", "spacing": 500.0}
    found = open_source(write(tmp_path / "a.tif", VOLUME, imagej=True, resolution=(2, 4), metadata=metadata))
    assert (found.spacing, found.units) == ({"x": 0.5, "y": 0.25, "z": 0.5}, "um")
    metadata["yunit"] = "pixel"
    write(tmp_path / "b.tif", VOLUME, imagej=True, resolution=(2, 4), metadata=metadata)
    with pytest.raises(ValueError, match=r"b.tif.* give spacing= and units="):
        open_source(tmp_path / "b.tif")


@pytest.mark.parametrize(
    ("metadata", "origin"),
    [
        ({"xorigin": 6.0, "yorigin": -8, "zorigin": 2.5}, {"x": -3.0, "y": 2.0, "z": -7.5}),
        ({"zorigin": -1}, {"z": 3.0}),
        ({"xorigin": 6.0, "yorigin": 8.0, "inverty": True}, {"x": -3.0}),
        ({"xorigin": 0.0}, {}),
    ],
)
@pytest.mark.parametrize("kind", [{"imagej": True}, {}])
def test_tiff__origin_by_the_rules_of_imagej(tmp_path, kind, metadata, origin):
    metadata = {"axes": "ZYX", "unit": "um", "spacing": 3.0} | metadata
    path = write(tmp_path / "a.tif", VOLUME, resolution=(2, 4), metadata=metadata, **kind)
    found = open_source(path)
    assert (found.origin, found.spacing) == (origin, {"x": 0.5, "y": 0.25, "z": 3.0})
    # ImageJ counts voxels, whatever their size.
    scaled = import_images(path, tmp_path / "a.zarr", spacing=(1.0, 1.0, 6.0), units="um").microstructure.attrs
    expected = [place * n for place, n in zip((origin.get(axis, 0) for axis in "xyz"), (2, 4, 2), strict=True)]
    assert scaled.get("origin") == (expected if origin else None)


def test_tiff__origin_of_planes_of_ome(tmp_path):
    n_planes = SEVERAL[:, :, :, 0, 0].size
    plane = {
        "PositionX": [1000.0 * (number % 3) for number in range(n_planes)],
        "PositionXUnit": ["nm"] * n_planes,
        "PositionY": [2.0] * n_planes,
        "PositionZ": [10.0 + number // 3 % 4 for number in range(n_planes)],
        "PositionZUnit": ["mm"] * n_planes,
    }
    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("XYZ", (0.5, 0.25, 1000.0), strict=True)}
    path = write(tmp_path / "a.ome.tif", SEVERAL, metadata={"axes": "TZCYX", "Plane": plane} | sizes)
    # Places without a unit are in the frame of the microscope.
    assert open_source(path, Choice(channel=2, time=1)).origin == {"x": 2.0, "z": 1e4}
    assert open_source(path, Choice(channel=0, time=1)).origin == {"x": 0.0, "z": 1e4}
    metadata = {"axes": "ZYX", "Plane": {"PositionY": [2.0] * 5, "PositionYUnit": ["pixel"] * 5}}
    write(tmp_path / "b.ome.tif", VOLUME, metadata=metadata | sizes)
    assert open_source(tmp_path / "b.ome.tif").origin == {}
    write(tmp_path / "b.ome.tif", VOLUME, metadata=metadata | {"PhysicalSizeY": 3.0, "PhysicalSizeYUnit": "pixel"})
    assert open_source(tmp_path / "b.ome.tif").origin == {"y": 2.0}


def test_tiff__origin_of_slices_in_files(tmp_path):
    for number in range(3):
        metadata = {"axes": "YX", "unit": "um", "xorigin": -4}
        write(tmp_path / f"s{number}.tif", VOLUME[number], imagej=True, resolution=(2, 4), metadata=metadata)
    assert open_source(tmp_path).origin == {"x": 2.0}


@pytest.mark.parametrize(
    ("resolution", "unit", "spacing", "said"),
    [
        ((96, 96), "INCH", {}, "96 dots per inch .* voxels have 264.6 µm, say spacing="),
        ((25400, 12700), "INCH", {"x": 1.0, "y": 2.0}, ""),
        ((1e4, 5e3), "CENTIMETER", {"x": 1.0, "y": 2.0}, ""),
        ((118.11, 118.11), "CENTIMETER", {}, "300 dots per inch"),
        ((1, 1), "NONE", {}, ""),
    ],
)
def test_tiff__sizes_by_tags(tmp_path, resolution, unit, spacing, said):
    found = open_source(write(tmp_path / "a.tif", VOLUME, resolution=resolution, resolutionunit=unit))
    assert "pages without a name are taken for slices along z; say axes=" in found.assumed
    assert found.spacing == spacing
    assert found.units == ("um" if spacing else None)
    assert len(found.assumed) == 1 + bool(said)


def test_tiff__sizes_without_a_unit_and_those_that_tifffile_writes(tmp_path):
    found = open_source(write(tmp_path / "a.tif", VOLUME, resolution=(2, 4), resolutionunit="NONE"))
    assert (found.spacing, found.units) == ({"x": 0.5, "y": 0.25}, None)
    metadata = {"axes": "ZYX", "PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 2.0}
    found = open_source(write(tmp_path / "b.tif", VOLUME, metadata=metadata))
    assert (found.spacing, found.units) == ({"x": 500.0, "y": 2000.0}, "nm")
    options = {"resolution": (5e3, 1e4), "resolutionunit": "CENTIMETER", "metadata": {"axes": "ZYX", "spacing": 3.0}}
    found = open_source(write(tmp_path / "c.tif", VOLUME, imagej=True, **options))
    assert (found.spacing, found.units) == ({"x": 2.0, "y": 1.0}, "um")
    assert found.assumed == ("a distance of slices of 3 without a unit is left out; say spacing=",)


def test_tiff__what_is_not_done_to_values_is_said(tmp_path):
    said = {
        "turned or mirrored for display (orientation 3)": (VOLUME[0], {"extratags": [(274, "H", 1, 3, True)]}),
        "without ImageJ's calibration of grey levels": (
            VOLUME[0],
            {"imagej": True, "metadata": {"axes": "YX", "cf": 0}},
        ),
        "the transparency is left out; say channel=": (
            np.stack([VOLUME[0], VOLUME[1]], -1),
            {"extrasamples": ["unassalpha"], "planarconfig": "contig"},
        ),
    }
    for text, (image, options) in said.items():
        found = open_source(write(tmp_path / "a.tif", image, **options))
        assert text in found.assumed[-1]
        assert_array_equal(found.data, VOLUME[0])


def test_tiff__sizes_of_zero_are_not_known(tmp_path):
    size = {"axes": "ZYX", "PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0, "PhysicalSizeZ": 0.0}
    assert open_source(write(tmp_path / "a.tif", VOLUME, ome=True, metadata=size)).spacing == {"x": 2.0, "y": 2.0}
    metadata = {"axes": "ZYX", "unit": "um", "spacing": -3.0}
    found = open_source(write(tmp_path / "b.tif", VOLUME, imagej=True, resolution=(2, 2), metadata=metadata))
    assert found.spacing["z"] == 3.0
    assert_array_equal(found.data, VOLUME)


def test_tiff__unknown_units_and_no_size_along_z(tmp_path):
    write(tmp_path / "a.tif", VOLUME, imagej=True, resolution=(2, 2), metadata={"axes": "ZYX", "unit": "furlong"})
    with pytest.raises(ValueError, match=r"a.tif.*'furlong' is no known unit.*give spacing= and units="):
        open_source(tmp_path / "a.tif")
    assert import_images(tmp_path / "a.tif", tmp_path / "a.zarr", spacing=3, units="um").x.attrs["units"] == "um"
    size = {"axes": "ZYX", "PhysicalSizeX": 2.0, "PhysicalSizeY": 2.0}
    write(tmp_path / "b.tif", VOLUME, ome=True, metadata=size)
    with pytest.warns(AssumedWarning, match=r"spacing 2 along z assumed"):
        import_images(tmp_path / "b.tif", tmp_path / "b.zarr")
    stored = import_images(tmp_path / "b.tif", tmp_path / "c.zarr", spacing=(2, 2, 5))
    assert float(stored.z[1]) == 5


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        (34682, "[Scan]\r\nPixelWidth=2e-009\r\nPixelHeight=2e-009\r\n"),  # FEI
        (34118, "0\r\n" * 3 + "AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 2.0 nm\r\n"),  # Zeiss
    ],
)
def test_tiff__sizes_of_electron_microscopes(tmp_path, tag, text):
    source = open_source(write(tmp_path / "a.tif", VOLUME[0], extratags=[(tag, "s", 0, text, True)]))
    assert (source.spacing, source.units) == ({"x": 0.002, "y": 0.002}, "um")


def test_tiff__sizes_of_other_vendors(tmp_path, monkeypatch):
    write(tmp_path / "a.tif", VOLUME[0])
    for name, found in {
        "tvips_metadata": {"PixelSizeX": 2.0, "PixelSizeY": 2.0},
        "sis_metadata": {"pixelsizex": 2e-9, "pixelsizey": 2e-9},
        "lsm_metadata": {"VoxelSizeX": 2e-9, "VoxelSizeY": 2e-9, "VoxelSizeZ": 5e-9},
        "stk_metadata": {"XCalibration": 2.0, "YCalibration": 2.0, "CalibrationUnits": "nm"},
        "micromanager_metadata": {"Summary": {"PixelSize_um": 0.002}},
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(tifffile.TiffFile, name, found)
            source = open_source(tmp_path / "a.tif")
        assert (source.spacing, source.units) == ({"x": 0.002, "y": 0.002}, "um")


def test_tiff__unknown_codecs_and_cut_files_are_refused(tmp_path):
    path = write(tmp_path / "a.tif", VOLUME, compression="lzw")
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(34999)
    with pytest.raises(ValueError, match=r"a.tif is compressed by 34999, which is not known; save it again with LZW"):
        open_source(path)
    for compression in (None, "zlib"):
        path = write(tmp_path / "b.tif", VOLUME[0], compression=compression)
        path.write_bytes(path.read_bytes()[:-300])
        with pytest.raises(ValueError, match=r"b.tif ends before its last voxel"):
            open_source(path)
    path = write(tmp_path / "c.tif", VOLUME, compression="zlib")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        start = file.pages[0].dataoffsets[0]
    content[start : start + 4] = b"\xff" * 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"c.tif: its first strip or tile, .*ADOBE_DEFLATE, cannot be read"):
        open_source(path)


def test_tiff__ome_sets_of_several_files(tmp_path):
    """The metadata of one file may name pages in another one."""
    write(tmp_path / "a.ome.tif", VOLUME, ome=True, metadata={"axes": "ZYX"}, compression="lzw")
    write(tmp_path / "b.ome.tif", VOLUME[2:], compression="lzw", metadata=None, ome=False)
    planes = "".join(
        f'<TiffData IFD="{z - 2 if z >= 2 else z}" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}">u:{name}</UUID>'
        "</TiffData>"
        for z in range(5)
        for name in (["a.ome.tif"] if z < 2 else ["b.ome.tif"])
    )
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="u:a.ome.tif"><Image '
        'ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="47" SizeY="33" SizeZ="5" '
        f'SizeC="1" SizeT="1"><Channel ID="Channel:0:0"/>{planes}</Pixels></Image></OME>'
    )
    write(tmp_path / "a.ome.tif", VOLUME[:2], description=text, metadata=None, compression="lzw")
    equal(tmp_path / "a.ome.tif", VOLUME)
    with pytest.raises(ValueError, match=r"a.ome.tif holds pages of other files too"):
        open_source([tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"])
    (tmp_path / "b.ome.tif").unlink()
    with pytest.raises(ValueError, match=r"a\.ome\.tif"):
        open_source(tmp_path / "a.ome.tif")


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd"])
def test_tiff__pillow(tmp_path, compression):
    pages = [Image.fromarray(page) for page in VOLUME]
    try:
        pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression=compression)
    except OSError:
        if compression != "zstd":
            raise
        pytest.skip("this Pillow was built without zstd")
    equal(tmp_path / "a.tif", VOLUME)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", None, "tiff_lzw"])
def test_tiff__pillow_of_1_bit(tmp_path, compression):
    Image.fromarray(VOLUME[0] > 100).save(tmp_path / "a.tif", compression=compression)
    equal(tmp_path / "a.tif", VOLUME[0] > 100, "yx")


def test_tiff__pillow_jpeg(tmp_path):
    Image.fromarray(VOLUME[0]).save(tmp_path / "a.tif", compression="jpeg", quality=95)
    with Image.open(tmp_path / "a.tif") as image:
        equal(tmp_path / "a.tif", np.asarray(image), "yx")


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_tiff__opencv(tmp_path, dtype):
    cv2 = pytest.importorskip("cv2")
    cv2.imwritemulti(str(tmp_path / "a.tif"), list(VOLUME.astype(dtype)))
    equal(tmp_path / "a.tif", VOLUME.astype(dtype))


@pytest.mark.parametrize("compressed", [False, True])
def test_tiff__simpleitk(tmp_path, compressed):
    itk = pytest.importorskip("SimpleITK")
    itk.WriteImage(itk.GetImageFromArray(VOLUME), str(tmp_path / "a.tif"), compressed)
    assert_array_equal(read(tmp_path / "a.tif")[1], VOLUME)


def test_tiff__scikit_image_and_imageio(tmp_path):
    skimage = pytest.importorskip("skimage.io")
    imageio = pytest.importorskip("imageio.v3")
    skimage.imsave(tmp_path / "a.tif", VOLUME, check_contrast=False)
    equal(tmp_path / "a.tif", VOLUME)
    imageio.imwrite(tmp_path / "b.tif", VOLUME)
    equal(tmp_path / "b.tif", VOLUME)


@pytest.mark.skipif(shutil.which("tiffcp") is None, reason="needs the tools of libtiff")
@pytest.mark.parametrize(
    "options",
    [
        *("-c lzw", "-c lzw:2", "-c zip:2", "-c packbits", "-c zstd", "-c lzma", "-c lzw -t -w 16 -l 16", "-B", "-8"),
        *("-c none -r 3", "-c none -f lsb2msb", "-c lzw -f lsb2msb", "-p separate"),
    ],
)
def test_tiff__libtiff(tmp_path, options):
    source = write(tmp_path / "a.tif", VOLUME, metadata=None)
    subprocess.run(["tiffcp", *options.split(), source, tmp_path / "b.tif"], check=True, capture_output=True)
    equal(tmp_path / "b.tif", VOLUME)


@pytest.mark.skipif(shutil.which("tiffcp") is None, reason="needs the tools of libtiff")
@pytest.mark.parametrize("options", ["-c g3", "-c g3:1d:fill", "-c g4", "-c none -f lsb2msb"])
def test_tiff__libtiff_of_1_bit(tmp_path, options):
    Image.fromarray(VOLUME[0] > 100).save(tmp_path / "a.tif")
    subprocess.run(["tiffcp", *options.split(), tmp_path / "a.tif", tmp_path / "b.tif"], check=True)
    equal(tmp_path / "b.tif", VOLUME[0] > 100, "yx")


def imagemagick():
    """Find ImageMagick, by the names that its versions have."""
    return next((found for name in ("magick", "convert-im6.q16") if (found := shutil.which(name))), None)


@pytest.mark.skipif(imagemagick() is None, reason="needs ImageMagick")
@pytest.mark.parametrize(("depth", "dtype"), [(2, "u1"), (4, "u1"), (8, "u1"), (12, "u2"), (16, "u2")])
@pytest.mark.parametrize("compression", ["None", "LZW"])
def test_tiff__imagemagick_of_few_bits(tmp_path, depth, dtype, compression):
    Image.fromarray(VOLUME[0]).save(tmp_path / "a.png")
    made = Path(tmp_path / "a.tif")
    subprocess.run(
        [imagemagick(), tmp_path / "a.png", "-depth", str(depth), "-compress", compression, made], check=True
    )
    axes, values = read(made)
    assert (axes, values.dtype) == ("yx", dtype)
    assert abs(values - VOLUME[0] * ((2**depth - 1) / 255)).max() < 2


def test_tiff__of_pages_in_a_circle_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((3, 4, 5), "u1"), metadata=None, photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        first, last = file.pages[0].offset, file.pages[2]
        end = last.offset + 2 + 12 * len(last.tags)
    content = bytearray(path.read_bytes())
    content[end : end + 4] = struct.pack("<I", first)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tif holds pages that follow each other in a circle"):
        import_images(path, tmp_path / "a.zarr")


@pytest.mark.parametrize("n_pages", [1, 2])
def test_tiff__without_some_of_its_strips_is_refused(tmp_path, n_pages):
    path = tmp_path / "a.tif"
    values = np.arange(n_pages * 48, dtype="u1").reshape(n_pages, 8, 6)
    tifffile.imwrite(path, values, rowsperstrip=8, photometric="minisblack", metadata=None, compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as file:
        for page in file.pages:
            page.tags["ImageLength"].overwrite(9)
    with pytest.raises(ValueError, match=r"a\.tif holds only 1 of the 2 strips or tiles of a page"):
        import_images(path, tmp_path / "a.zarr", axes="zyx" if n_pages > 1 else "yx")


def with_broken_tags(path, n_pages, n_broken):
    """Repeat the directory of a file with one page, each time with tags of a data type that does not exist."""
    data = path.read_bytes()
    data += bytes(len(data) % 2)
    (start,) = struct.unpack("<I", data[4:8])
    (n_tags,) = struct.unpack("<H", data[start : start + 2])
    tags = data[start + 2 : start + 2 + 12 * n_tags]
    tags += b"".join(struct.pack("<HHII", 40000 + i, 99, 1, 0) for i in range(n_broken))
    first, size = len(data), len(tags) + 6
    data = data[:4] + struct.pack("<I", first) + data[8:]
    for page in range(n_pages):
        after = 0 if page == n_pages - 1 else first + (page + 1) * size
        data += struct.pack("<H", n_tags + n_broken) + tags + struct.pack("<I", after)
    path.write_bytes(data)


def test_tiff__of_many_broken_tags(tmp_path, caplog):
    path, log = write(tmp_path / "a.tif", VOLUME[0], metadata=None), logging.getLogger("tifffile")
    with_broken_tags(path, 2, 2000)
    axes, values = read(path)
    assert axes == "zyx"
    assert_array_equal(values, VOLUME[[0, 0]])
    # Opening the file and reading its slabs each tell the first broken tags only, and not all 4000 of them.
    assert 3 <= len(caplog.records) < 100
    caplog.clear()
    path = write(tmp_path / "b.tif", VOLUME[0], metadata=None)
    with_broken_tags(path, 30, 4000)
    with pytest.raises(ValueError, match=r"b.tif has more than 10000 faults, such as broken tags \(.*data type 99"):
        read(path)
    assert len(caplog.records) == 3
    assert not log.filters
    # Messages about files that others read meanwhile are passed on.
    with opened_tiff(tmp_path / "a.tif"), ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: [log.error("of another file") for _ in range(5)]).result()
    assert [record.getMessage() for record in caplog.records].count("of another file") == 5


def codes_of_lzw(codes, *, is_old=False):
    """Write codes of 9 bits, as LZW does before its table holds 512 of them."""
    bits = "".join(f"{code:09b}"[:: -1 if is_old else 1] for code in codes)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8][:: -1 if is_old else 1], 2) for i in range(0, len(bits), 8))


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("is_tiled", [False, True])
@pytest.mark.parametrize("code", [258, 385, 511])
def test_tiff__a_code_after_a_cleared_table_that_is_no_value_is_refused(tmp_path, code, is_tiled, is_old):
    def with_codes(name, *codes):
        layout = {"tile": (16, 16)} if is_tiled else {"rowsperstrip": 16}
        path = write(tmp_path / name, VOLUME[0, :16, :16], compression="lzw", metadata=None, **layout)
        damaged, new = bytearray(path.read_bytes()), codes_of_lzw(codes, is_old=is_old)
        with tifffile.TiffFile(path) as file:
            start, n_bytes = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
        damaged[start : start + n_bytes] = new.ljust(n_bytes, b"\0")[:n_bytes]
        path.write_bytes(bytes(damaged))
        return path

    sound = with_codes("a.tif", 256, *[7] * 250, 256, 9, 258, 9, 9, 9, 257)
    assert_array_equal(read(sound)[1].ravel(), [7] * 250 + [9] * 6)
    with pytest.raises(ValueError, match=r"b\.tif holds a strip or tile whose codes of LZW are damaged"):
        read(with_codes("b.tif", 256, *[7] * 250, 256, code, 258, 9, 9, 9, 257))


def after_clear(packed):
    """Bits at which the codes begin that follow a cleared table. The entries of the table are counted."""
    bits, place, size, is_first, found = "".join(f"{byte:08b}" for byte in packed), 0, 258, False, []
    while place < len(bits):
        width = 9 + sum(size + 1 >= full for full in (512, 1024, 2048))
        code = int(bits[place : place + width], 2)
        if code == 257:
            return found
        if is_first and code != 256:
            found.append(place)
        elif code != 256:
            size += 1
        is_first, size, place = code == 256, 258 if code == 256 else size, place + width
    return found


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_lzw__codes_of_any_bytes_are_sound_until_one_is_damaged(data):
    size, n_values = data.draw(st.integers(1, 30_000)), data.draw(st.sampled_from([1, 2, 5, 254]))
    values = np.random.default_rng(size).integers(2, 2 + n_values, size).astype("u1")
    packed = bytearray(imagecodecs.lzw_encode(values))
    assert imagecodecs.lzw_decode(bytes(packed), out=size) == values.tobytes()
    assert lzw._is_sound(np.frombuffer(packed + bytes(2), "u1"))
    # The highest of nine bits makes the code of a value one of the table. Those of 0 and 1 would mean something else.
    place = data.draw(st.sampled_from(after_clear(packed)))
    packed[place // 8] |= 128 >> place % 8
    assert not lzw._is_sound(np.frombuffer(packed + bytes(2), "u1"))
