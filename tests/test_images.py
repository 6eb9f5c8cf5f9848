"""Images of other formats into stores: equal voxels, spacing and phase fractions."""

import base64
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import dask
import h5py
import numpy as np
import psutil
import pytest
import tifffile
import xarray as xr
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy.io import netcdf_file

from mksdask import open_volume
from mksdask.importers import import_images, sources
from mksdask.importers.segmentation import by_otsu
from tests.conftest import real_data

# Axes x, y, z of unlike lengths, values that tell their place.
VOLUME = np.arange(5 * 6 * 7, dtype=np.uint8).reshape(5, 6, 7)
FILE = VOLUME.transpose(2, 1, 0)  # z, y, x, as image files have it


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch):
    monkeypatch.setattr(sources, "SLAB_BYTES", 100)


def write_tiff(path):
    tifffile.imwrite(path, FILE, compression="zlib", photometric="minisblack")


def write_plain_tiff(path):
    tifffile.imwrite(path, FILE, photometric="minisblack")


def write_imagej(path):
    tifffile.imwrite(
        path, FILE, imagej=True, resolution=(4.0, 2.0), metadata={"spacing": 1.5, "unit": "um", "axes": "ZYX"}
    )


def write_ome(path):
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 1.5}
    metadata |= {f"PhysicalSize{axis}Unit": "µm" for axis in "XYZ"}
    tifffile.imwrite(path, FILE, ome=True, metadata=metadata)


def write_pages(path):
    path.mkdir()
    for number, page in enumerate(FILE):
        Image.fromarray(page).save(path / f"slice{number + 5}.png")  # 5 to 11: by number, not by letter


def write_tiff_pages(path):
    path.mkdir()
    for number, page in enumerate(FILE):
        tifffile.imwrite(path / f"{number:03}.tif", page)


def write_npy(path):
    np.save(path, VOLUME)


def write_npz(path):
    np.savez_compressed(path, scan=VOLUME)


def write_hdf5(path):
    with h5py.File(path, "w") as file:
        file["group/scan"] = VOLUME
        file["list"] = np.arange(5)


def write_dream3d(path):
    with h5py.File(path, "w") as file:
        file["DataContainers/Image/CellData/FeatureIds"] = FILE[..., None]
        file["DataContainers/Image/_SIMPL_GEOMETRY/SPACING"] = np.array([0.25, 0.5, 1.5], np.float32)
        file["DataContainers/Image/_SIMPL_GEOMETRY/DIMENSIONS"] = np.array([5, 6, 7])


def labelled():
    coords = {axis: np.arange(n) * step for axis, n, step in zip("xyz", VOLUME.shape, (0.25, 0.5, 1.5), strict=True)}
    array = xr.DataArray(VOLUME.astype(np.int32), dims=("x", "y", "z"), coords=coords, name="scan")
    for axis in "xyz":
        array[axis].attrs["units"] = "um"
    return array.transpose("z", "x", "y")


def write_netcdf3(path):
    array = labelled()
    with netcdf_file(path, "w") as file:
        for dim in array.dims:
            file.createDimension(dim, array.sizes[dim])
            variable = file.createVariable(dim, "f8", (dim,))
            variable[:] = array[dim].to_numpy()
            variable.units = "um"
        file.createVariable("scan", "i4", array.dims)[:] = array.to_numpy()


def write_netcdf4(path):
    array = labelled()
    with h5py.File(path, "w") as file:
        file["scan"] = array.to_numpy()
        for number, dim in enumerate(array.dims):
            file[dim] = array[dim].to_numpy()
            file[dim].attrs["units"] = "um"
            file[dim].make_scale(dim)
            file["scan"].dims[number].attach_scale(file[dim])


def write_zarr(path):
    zarr.create_array(str(path), data=VOLUME, chunks=(2, 3, 4))


def write_xarray(path):
    labelled().to_dataset().to_zarr(path, consolidated=False)


def write_ome_zarr(path):
    group = zarr.open_group(str(path), mode="w")
    group.create_array("0", data=FILE[None], chunks=(1, 2, 3, 4))
    group.create_array("1", data=FILE[None, ::2, ::2, ::2])
    axes = [{"name": "c", "type": "channel"}] + [
        {"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"
    ]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1.5, 0.5, 0.25]}]}
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": [level, {"path": "1"}]}]}


VTI = """<?xml version="1.0"?>
<VTKFile type="ImageData" version="1.0" byte_order="LittleEndian" header_type="UInt64"{compressor}>
<ImageData WholeExtent="0 5 0 6 0 7" Origin="0 0 0" Spacing="0.25 0.5 1.5"><Piece Extent="0 5 0 6 0 7">
<CellData><DataArray type="UInt8" Name="scan" format="{form}"{offset}>{inline}</DataArray></CellData>
</Piece></ImageData>{appended}</VTKFile>
"""


def write_vti_raw(path):
    raw = struct.pack("<Q", FILE.size) + FILE.tobytes()
    text = VTI.format(compressor="", form="appended", offset=' offset="0"', inline="", appended="@")
    before, after = text.encode().split(b"@")
    path.write_bytes(before + b'<AppendedData encoding="raw">\n_' + raw + b"</AppendedData>" + after)


def write_vti_ascii(path):
    path.write_text(
        VTI.format(compressor="", form="ascii", offset="", inline=" ".join(map(str, FILE.ravel())), appended="")
    )


def write_vti_base64(path):
    inline = base64.b64encode(struct.pack("<Q", FILE.size) + FILE.tobytes()).decode()
    path.write_text(VTI.format(compressor="", form="binary", offset="", inline=inline, appended=""))


def write_vti_zlib(path):
    blocks = [zlib.compress(FILE.tobytes()[start : start + 100]) for start in range(0, FILE.size, 100)]
    head = struct.pack(f"<{3 + len(blocks)}Q", len(blocks), 100, FILE.size % 100, *map(len, blocks))
    inline = (base64.b64encode(head) + base64.b64encode(b"".join(blocks))).decode()
    compressor = ' compressor="vtkZLibDataCompressor"'
    path.write_text(VTI.format(compressor=compressor, form="binary", offset="", inline=inline, appended=""))


def write_legacy_vtk(path, *, binary=True):
    head = "# vtk DataFile Version 3.0\nscan\n" + ("BINARY" if binary else "ASCII")
    head += "\nDATASET STRUCTURED_POINTS\nDIMENSIONS 5 6 7\nORIGIN 0 0 0\nSPACING 0.25 0.5 1.5\nPOINT_DATA 210\n"
    head += "SCALARS scan short 1\nLOOKUP_TABLE default\n"
    body = FILE.astype(">i2").tobytes() if binary else " ".join(map(str, FILE.ravel())).encode()
    path.write_bytes(head.encode() + body + b"\n")


def write_legacy_ascii(path):
    write_legacy_vtk(path, binary=False)


@pytest.mark.parametrize(
    ("name", "write", "has_spacing"),
    [
        ("a.tif", write_tiff, False),
        ("a.tiff", write_plain_tiff, False),
        ("imagej.tif", write_imagej, True),
        ("a.ome.tif", write_ome, True),
        ("pages", write_pages, False),
        ("tiffs", write_tiff_pages, False),
        ("a.npy", write_npy, False),
        ("a.npz", write_npz, False),
        ("a.h5", write_hdf5, False),
        ("a.dream3d", write_dream3d, True),
        ("a.nc", write_netcdf3, True),
        ("b.nc", write_netcdf4, True),
        ("a.zarr", write_zarr, False),
        ("xarray.zarr", write_xarray, True),
        ("ome.zarr", write_ome_zarr, True),
        ("raw.vti", write_vti_raw, True),
        ("ascii.vti", write_vti_ascii, True),
        ("base64.vti", write_vti_base64, True),
        ("zlib.vti", write_vti_zlib, True),
        ("a.vtk", write_legacy_vtk, True),
        ("ascii.vtk", write_legacy_ascii, True),
    ],
)
def test_import__each_format_comes_back(tmp_path, name, write, has_spacing):
    write(tmp_path / name)
    # These files do not say which axis is which.
    axes = "xyz" if name in ("a.npy", "a.npz", "a.h5", "a.zarr") else "zyx" if name in ("a.tif", "a.tiff") else None
    stored = import_images(tmp_path / name, tmp_path / "store.zarr", axes=axes)
    assert_array_equal(stored.microstructure, VOLUME)
    steps = [float(stored[axis][1] - stored[axis][0]) for axis in "xyz"]
    assert_allclose(steps, [0.25, 0.5, 1.5] if has_spacing else 1.0)
    units = stored.x.attrs["units"]
    assert units == (
        "um" if has_spacing and not name.endswith(("vti", "vtk", "dream3d")) else "unit" if has_spacing else "voxel"
    )
    given = import_images(tmp_path / name, tmp_path / "given.zarr", spacing=(1, 2, 3), units="nm", axes=axes)
    assert_allclose([float(given[axis][1]) - float(given[axis][0]) for axis in "xyz"], [1, 2, 3])
    assert given.x.attrs["units"] == "nm"


def test_import__patterns_and_lists_of_files(tmp_path):
    write_pages(tmp_path / "pages")
    stored = import_images(tmp_path / "pages" / "slice*.png", tmp_path / "a.zarr")
    assert_array_equal(stored.microstructure, VOLUME)
    files = [tmp_path / "pages" / f"slice{number}.png" for number in (7, 5)]
    assert_array_equal(import_images(files, tmp_path / "b.zarr").microstructure, VOLUME[..., [2, 0]])
    one = import_images(files[0], tmp_path / "c.zarr").microstructure
    assert_array_equal(one, VOLUME[..., 2])
    Image.fromarray(FILE[0][:, :3]).save(tmp_path / "pages" / "slice99.png")
    with pytest.raises(ValueError, match="all must be alike"):
        import_images(tmp_path / "pages", tmp_path / "d.zarr")
    assert not (tmp_path / "d.zarr").exists()


def test_import__phases_by_values_thresholds_and_otsu(tmp_path):
    rng = np.random.default_rng(0)
    phase = rng.integers(0, 3, size=(12, 10, 8))
    grey = (np.array([40, 120, 200])[phase] + rng.normal(scale=8, size=phase.shape)).astype(np.uint8)
    np.save(tmp_path / "grey.npy", grey)
    np.save(tmp_path / "labels.npy", np.array([7, 0, 255], np.uint8)[phase])
    named = import_images(
        tmp_path / "labels.npy", tmp_path / "a.zarr", axes="xyz", phases={0: "pore", 7: "clay", 255: "grain"}
    )
    assert named.microstructure.attrs["phases"] == ["pore", "clay", "grain"]
    assert_array_equal(named.microstructure, np.array([1, 0, 2])[phase])
    merged = import_images(
        tmp_path / "labels.npy", tmp_path / "b.zarr", axes="xyz", phases={0: 0, 7: 1, 255: 1}, names=["pore", "solid"]
    )
    assert_array_equal(merged.microstructure, phase != 1)
    cut = import_images(
        tmp_path / "grey.npy", tmp_path / "c.zarr", axes="xyz", thresholds=[80, 160], names=["a", "b", "c"]
    )
    assert_array_equal(cut.microstructure, phase)
    for number, dtype in enumerate((np.uint8, np.uint16, np.int32, np.float32)):
        np.save(tmp_path / "typed.npy", (grey.astype(dtype) * 3 if dtype != np.uint8 else grey))
        found = import_images(tmp_path / "typed.npy", tmp_path / f"otsu{number}.zarr", axes="xyz", otsu=3)
        assert_array_equal(found.microstructure, phase)
    with pytest.raises(ValueError, match=r"phases must list every value.*255"):
        import_images(tmp_path / "labels.npy", tmp_path / "d.zarr", axes="xyz", phases={0: "pore", 7: "clay"})
    assert not (tmp_path / "d.zarr").exists()


def test_otsu__is_the_best_of_all_thresholds():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(60, 12, 500), rng.normal(110, 25, 900), rng.normal(190, 8, 200)])
    values = np.clip(values, 0, 255).astype(np.uint8)

    def between(cuts):
        groups = np.split(np.sort(values).astype(float), np.searchsorted(np.sort(values), cuts))
        return sum(len(group) * (group.mean() - values.mean()) ** 2 for group in groups if len(group))

    (two,) = by_otsu(dask.array.from_array(values, chunks=100), 2).thresholds
    assert between([two]) >= max(between([cut]) for cut in range(1, 256)) * (1 - 1e-12)
    three = by_otsu(dask.array.from_array(values, chunks=100), 3).thresholds
    best = max(between([a, b]) for a in range(1, 256, 1) for b in range(a + 1, 256, 3))
    assert between(three) >= best * (1 - 1e-12)


def test_import__crops_and_windows(tmp_path):
    write_tiff(tmp_path / "a.tif")
    crop = {"x": (1, None), "z": (2, 6)}
    stored = import_images(tmp_path / "a.tif", tmp_path / "a.zarr", axes="zyx", crop=crop)
    assert_array_equal(stored.microstructure, VOLUME[1:, :, 2:6])
    cut = import_images(tmp_path / "a.tif", tmp_path / "b.zarr", axes="zyx", window=(2, 3, 3), spacing=0.5, units="um")
    expected = [VOLUME[x : x + 2, y : y + 3, z : z + 3] for z in (0, 3) for x in (0, 2) for y in (0, 3)]
    assert_array_equal(cut.microstructure, expected)
    assert cut.microstructure.dims == ("sample", "x", "y", "z")
    assert cut.microstructure.attrs.get("periodic_axes", []) == []
    assert cut.corner_z.values.tolist() == [0.0] * 4 + [1.5] * 4
    assert cut.corner_x.values.tolist() == [0.0, 0.0, 1.0, 1.0] * 2
    assert cut.corner_x.attrs["units"] == "um"
    options = {"axes": "zyx", "window": 3, "crop": crop, "spacing": 2.0}
    places = import_images(tmp_path / "a.tif", tmp_path / "e.zarr", **options).coords
    assert {dim: places[f"corner_{dim}"].values.tolist() for dim in "xyz"} == {"x": [2, 2], "y": [0, 6], "z": [4, 4]}
    np.save(tmp_path / "samples.npy", np.stack([VOLUME, VOLUME[::-1]]))
    ensemble = import_images(tmp_path / "samples.npy", tmp_path / "c.zarr", axes="sxyz", periodic_axes=[0])
    assert_array_equal(ensemble.microstructure, [VOLUME, VOLUME[::-1]])
    np.save(tmp_path / "image.npy", VOLUME[0])
    flat = import_images(tmp_path / "image.npy", tmp_path / "d.zarr", axes="yx", window=3)
    assert_array_equal(flat.microstructure[0], VOLUME[0].T[:3, :3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phases": {0: "a"}, "otsu": 2}, "exclude each other"),
        ({"phases": {}}, "phases must map values"),
        ({"phases": {0: "a", 1: 1}}, "phases must map values"),
        ({"phases": {0: 0, 1: 2}}, "without gaps"),
        ({"thresholds": [3, 2]}, "thresholds must be finite numbers that rise"),
        ({"otsu": 1}, "otsu must be a number of phases from 2 to 6, got 1"),
        ({"thresholds": 3, "names": ["a"]}, "names must name 2 phases"),
        ({"names": ["a"]}, "names=.* are for thresholds"),
        ({"crop": {"x": (3, 2)}}, "crop of x must lie within 0 and 5"),
        ({"crop": {"t": (0, 2)}}, "does not have"),
        ({"window": 10}, "window must be one size"),
        ({"window": (2, 2)}, "window must be one size"),
        ({"spacing": (1, 2)}, "spacing must be a number, or one for each of the axes x, y, z"),
        ({"axes": "zy"}, "axes='zy' must name the 3 axes"),
        ({"axes": "zzx"}, "axes='zzx' must name"),
        ({"axes": "szy"}, "axes='szy' must name x for an image with one axis"),
    ],
)
def test_import__bad_arguments(tmp_path, options, message):
    write_npy(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=message):
        import_images(tmp_path / "a.npy", tmp_path / "a.zarr", **options)
    assert not (tmp_path / "a.zarr").exists()


def external(file, secret):
    file.create_dataset("image", VOLUME.shape, "u1", external=[(secret, 0, VOLUME.size)])


def virtual(file, secret):
    layout = h5py.VirtualLayout(VOLUME.shape, "u1")
    layout[...] = h5py.VirtualSource(secret, "image", VOLUME.shape)
    file.create_virtual_dataset("image", layout)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phases": [1, 2]}, "phases must be a dict that maps values"),
        ({"crop": 3}, "crop must map axes to their first and last voxels"),
        ({"crop": {"x": 3}}, "crop of x must be the first voxel and the one after the last, got 3"),
    ],
)
def test_import__bad_types(tmp_path, options, message):
    write_npy(tmp_path / "a.npy")
    with pytest.raises(TypeError, match=message):
        import_images(tmp_path / "a.npy", tmp_path / "a.zarr", **options)


def test_segmentation__needs_finite_values_and_enough_of_them(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0.0, 1.0, np.nan], [0.0, 1.0, 1.0]]))
    with pytest.raises(ValueError, match="holds NaN or infinite values, but otsu needs finite grey levels"):
        import_images(tmp_path / "a.npy", tmp_path / "a.zarr", axes="yx", otsu=2)
    with pytest.raises(ValueError, match="holds NaN, which lies on neither side of thresholds"):
        import_images(tmp_path / "a.npy", tmp_path / "a.zarr", axes="yx", thresholds=[0.5])
    np.save(tmp_path / "b.npy", np.array([[0, 9], [9, 9]], "u1"))
    with pytest.raises(ValueError, match="otsu=3 needs at least as many grey levels, but the image has only 2"):
        import_images(tmp_path / "b.npy", tmp_path / "a.zarr", axes="yx", otsu=3)
    np.save(tmp_path / "c.npy", np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match=r"window=2 cuts one image, but .* holds samples that are stored whole"):
        import_images(tmp_path / "c.npy", tmp_path / "a.zarr", axes="syx", window=2)


def beside(file, name):
    return Path(file.filename).with_name(name)


def cut_short(file):
    beside(file, "a.raw").write_bytes(bytes(60))
    file.create_dataset("a", (6, 10), "u1", external=[("a.raw", 8, 60)])


def in_two_files(file):
    for name in ("a.raw", "b.raw"):
        beside(file, name).write_bytes(bytes(30))
    file.create_dataset("a", (6, 10), "u1", external=[("a.raw", 0, 30), ("b.raw", 0, 30)])


def of_virtual(file):
    with h5py.File(beside(file, "c.h5"), "w") as last:
        last["image"] = VOLUME
    with h5py.File(beside(file, "b.h5"), "w") as other:
        virtual(other, "c.h5")
    layout = h5py.VirtualLayout(VOLUME.shape, "u1")
    layout[...] = h5py.VirtualSource("b.h5", "image", VOLUME.shape)
    file.create_virtual_dataset("a", layout)


def linked_spacing(file, secret):
    file["Volume/CellData/image"] = FILE
    file["Volume/_SIMPL_GEOMETRY"] = h5py.ExternalLink(secret, "Volume/_SIMPL_GEOMETRY")


def external_scale(file, secret):
    file["image"] = VOLUME
    file.create_dataset("x", (5,), "f8", external=[(secret, 0, 40)]).make_scale("x")
    file["image"].dims[0].attach_scale(file["x"])


def linked(file, secret):
    file["image"] = h5py.ExternalLink(secret, "image")


def linked_softly(file, secret):
    file["there"] = h5py.ExternalLink(secret, "/")
    file["image"] = h5py.SoftLink("/there/image")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            external,
            "image links to .*secret.h5, outside the folder of the file, .* pass follow_links=True, or --follow",
        ),
        (virtual, "image links to .*secret.h5, outside the folder of the file"),
        (linked, "image links to .*secret.h5, outside the folder of the file"),
        (linked_softly, "there links to .*secret.h5, outside the folder of the file"),
        (linked_spacing, "SPACING is linked from another file, .*secret.h5"),
        (external_scale, "x is stored in another file"),
    ],
)
def test_import__hdf5_that_reads_other_files(tmp_path, write, message):
    (tmp_path / "private").mkdir()
    secret = tmp_path / "private" / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["image"], file["Volume/_SIMPL_GEOMETRY/SPACING"] = VOLUME, [1.0, 1.0, 1.0]
        file["Volume/_SIMPL_GEOMETRY/DIMENSIONS"] = VOLUME.shape
    (tmp_path / "mine").mkdir()
    with h5py.File(tmp_path / "mine" / "a.h5", "w") as file:
        write(file, str(secret))
    dataset = None if write in (linked_spacing, external_scale) else "image"
    with pytest.raises(ValueError, match=f"a.h5: .*{message}"):
        import_images(tmp_path / "mine" / "a.h5", tmp_path / "out.zarr", dataset=dataset)


@pytest.mark.parametrize("write", [external, virtual, linked, linked_softly])
def test_import__hdf5_that_reads_files_of_its_folder_or_of_others_by_request(tmp_path, monkeypatch, write):
    for number, folder in enumerate(("here", "elsewhere")):
        (tmp_path / folder).mkdir()
        if write is external:
            (tmp_path / folder / "more.h5").write_bytes(VOLUME.tobytes())
        else:
            with h5py.File(tmp_path / folder / "more.h5", "w") as file:
                file["image"] = VOLUME
        name = tmp_path / "here" / f"{number}.h5"
        with h5py.File(name, "w") as file:
            write(file, "../elsewhere/more.h5" if number else "more.h5")
        stored = import_images(name, tmp_path / f"{number}.zarr", dataset="image", axes="xyz", follow_links=number > 0)
        assert_array_equal(stored.microstructure, VOLUME)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: file.create_dataset("a", (9, 9), "u1"), "holds no values of a, only its shape"),
        (lambda file: file.create_dataset("a", (10**6,) * 3, "u1", chunks=(100,) * 3), "lacks 10{12} of 10{12} chunks"),
        (lambda file: file.update(a=h5py.SoftLink("/b"), b=h5py.SoftLink("/a")) or file, "over more than 50 others"),
        (
            lambda file: file.update(a=h5py.SoftLink("/b")) or file.create_group("b"),
            "leads to b of .* no array of numbers",
        ),
        (cut_short, "a needs 60 bytes of .* from byte 8 on, but the file is shorter"),
        (in_two_files, "a is stored in 2 other files"),
        (of_virtual, "which shows other data itself; import that file"),
    ],
)
def test_import__hdf5_without_values(tmp_path, write, message):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write(file)
    with pytest.raises(ValueError, match=message):
        import_images(tmp_path / "a.h5", tmp_path / "out.zarr", dataset="a", axes="zyx")


@pytest.mark.parametrize("kind", ["npy", "npz", "h5", "nc", "zarr"])
@pytest.mark.parametrize("shape", [(12, 14, 3), (5, 12, 14, 4)])
def test_import__arrays_that_may_be_colours(tmp_path, kind, shape):
    array, path = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), tmp_path / f"scan.{kind}"
    if kind == "npy":
        np.save(path, array)
    elif kind == "npz":
        np.savez(path, scan=array)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["scan"] = array
    elif kind == "nc":
        xr.DataArray(array, dims=("s", "row", "column", "band")[-len(shape) :]).to_netcdf(path, engine="h5netcdf")
    else:
        zarr.create_array(path, data=array)
    with pytest.raises(ValueError, match=r"uint8 values of shape .* may be the colours of an image.*pass axes='s?xyz'"):
        import_images(path, tmp_path / "out.zarr")
    stored = import_images(path, tmp_path / "out.zarr", axes="sxyz"[-len(shape) :])
    assert stored.microstructure.shape == shape
    # Axes that the file names say what they are.
    xr.DataArray(array[0] if len(shape) > 3 else array, dims=("x", "y", "z")).to_netcdf(
        tmp_path / "named.nc", engine="h5netcdf"
    )
    assert import_images(tmp_path / "named.nc", tmp_path / "named.zarr").sizes["z"] == shape[-1]


def test_import__npz_larger_than_memory(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", np.zeros((100, 100, 100), dtype="u1"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**6))
    with pytest.raises(
        ValueError, match=r"a.npz: arr_0 is unpacked as a whole, from \d+ to 1000128 bytes, .*\.npy file"
    ):
        import_images(tmp_path / "a.npz", tmp_path / "out.zarr", crop={"x": (0, 4)})


def test_import__bad_files(tmp_path):
    url = tmp_path / "store.zarr"
    with pytest.raises(FileNotFoundError, match="names no image"):
        import_images(tmp_path / "*.tif", url)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        import_images(tmp_path / "a.tif", url)
    (tmp_path / "a.doc").write_text("")
    with pytest.raises(ValueError, match="format that is not known"):
        import_images(tmp_path / "a.doc", url)
    tifffile.imwrite(
        tmp_path / "rgb.tif", np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8), photometric="rgb"
    )
    with pytest.raises(ValueError, match="colours"):
        import_images(tmp_path / "rgb.tif", url)
    np.savez(tmp_path / "two.npz", a=VOLUME, b=VOLUME)
    with pytest.raises(ValueError, match="needs dataset=; there are: a, b"):
        import_images(tmp_path / "two.npz", url)
    assert_array_equal(import_images(tmp_path / "two.npz", url, dataset="b", axes="xyz").microstructure, VOLUME)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="nothing is unpickled"):
        import_images(tmp_path / "objects.npy", tmp_path / "o.zarr")
    write_vti_raw(tmp_path / "cut.vti")
    content = (tmp_path / "cut.vti").read_bytes()
    (tmp_path / "cut.vti").write_bytes(content[: content.index(b"\n_") + 100])
    with pytest.raises(ValueError, match="ends before"):
        import_images(tmp_path / "cut.vti", tmp_path / "v.zarr")
    (tmp_path / "head.vti").write_bytes(content[:100])
    with pytest.raises(ValueError, match="not the XML of a VTK file"):
        import_images(tmp_path / "head.vti", tmp_path / "v.zarr")
    (tmp_path / "mesh.vti").write_text(
        VTI.replace("ImageData", "UnstructuredGrid").format(
            compressor="", form="ascii", offset="", inline="", appended=""
        )
    )
    with pytest.raises(ValueError, match="expected ImageData"):
        import_images(tmp_path / "mesh.vti", tmp_path / "v.zarr")


def test_import__a_tomogram(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SLAB_BYTES", 2**23)
    path = real_data("berea_400.tif")
    stored = import_images(
        path,
        tmp_path / "b.zarr",
        axes="zyx",
        phases={0: "pore", 255: "grain"},
        spacing=3,
        units="um",
        crop={"z": (0, 80)},
    )
    expected = tifffile.imread(path, key=range(80)).transpose(2, 1, 0)
    assert_array_equal(stored.microstructure, expected == 255)
    assert open_volume(tmp_path / "b.zarr").microstructure.attrs["phases"] == ["pore", "grain"]
    three = import_images(real_data("electrode_256_3phase.tif"), tmp_path / "e.zarr", axes="zyx", otsu=3)
    electrode = tifffile.imread(real_data("electrode_256_3phase.tif")).transpose(2, 1, 0)
    assert_array_equal(three.microstructure, electrode // 85)


@pytest.mark.parametrize("name", ["a.tif", "a.h5", "a.nc", "a.npz", "a.npy", "a.png", "a.vtk", "a.vti", "a.zarr"])
def test_import__files_that_are_not_what_they_are_called(tmp_path, name):
    (tmp_path / name).write_bytes(b"CDG" + bytes(20))
    with pytest.raises(ValueError, match=str(tmp_path / name)):
        import_images(tmp_path / name, tmp_path / "store.zarr")
    assert not (tmp_path / "store.zarr").exists()


@pytest.mark.parametrize("shape", [(), (0, 3, 3)])
def test_import__arrays_without_voxels(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(ValueError, match="holds no image"):
        import_images(tmp_path / "a.npy", tmp_path / "store.zarr")


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32"])
def test_otsu__sees_rare_phases_in_any_dtype(dtype):
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.integers(0, 3000, 22_200), np.full(14, 30_000)]).astype(dtype)
    (found,) = by_otsu(dask.array.from_array(values, chunks=5000), 2).thresholds
    levels = np.unique(values)[1:]

    def between(cut):
        low, high = values[values < cut].astype(float), values[values >= cut].astype(float)
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    best = max(map(between, levels))
    assert between(found) == pytest.approx(best, rel=1e-9)


@pytest.mark.slow
def test_import__any_dtype_equals_numpy(tmp_path):
    rng = np.random.default_rng(0)
    for number, dtype in enumerate(
        ("uint8", "int8", "uint16", "int16", "int32", "int64", "float32", "float64", "bool")
    ):
        kind = np.dtype(dtype).kind
        # More voxels than are mapped at once.
        values = rng.choice(
            [0, 1] if kind == "b" else [-3, 0, 0.7, 100] if kind == "f" else [0, 3, 100], size=(70, 70, 80)
        )
        image = values.astype(dtype) - (50 if kind == "i" else 0)
        np.save(tmp_path / f"{number}.npy", image)
        levels = np.unique(image)
        mapping = {level.item(): int(phase) for phase, level in enumerate(levels)}
        stored = import_images(tmp_path / f"{number}.npy", tmp_path / f"p{number}.zarr", axes="xyz", phases=mapping)
        assert_array_equal(stored.microstructure, np.searchsorted(levels, image))
        cuts = [level.item() for level in levels[1:]]
        stored = import_images(tmp_path / f"{number}.npy", tmp_path / f"t{number}.zarr", axes="xyz", thresholds=cuts)
        assert_array_equal(stored.microstructure, sum((image >= cut).astype(int) for cut in levels[1:]))


def test_import__labels_beyond_the_precision_of_floats(tmp_path):
    labels = np.array([[2**53, 2**53 + 1]] * 3)
    np.save(tmp_path / "l.npy", labels)
    stored = import_images(tmp_path / "l.npy", tmp_path / "l.zarr", axes="xy", phases={2**53: 0, 2**53 + 1: 1})
    assert_array_equal(stored.microstructure, labels - 2**53)


@pytest.mark.parametrize("axes", ["zyx", "yxz", "xyz"])
def test_import__windows_come_in_one_order_however_they_are_banded(tmp_path, monkeypatch, axes):
    image = np.random.default_rng(0).integers(0, 3, size=(9, 13, 11), dtype=np.uint8)
    np.save(tmp_path / "i.npy", image)
    options = {"axes": axes, "window": {"zyx": (2, 3, 4), "yxz": (4, 2, 3), "xyz": (3, 2, 4)}[axes]}
    whole = import_images(tmp_path / "i.npy", tmp_path / "whole.zarr", **options).microstructure
    volume = image.transpose([axes.index(axis) for axis in "xyz"])
    sizes, slow = options["window"], axes[0]
    # By slabs of the file; in each the windows as the axes of the store have them.
    order = sorted(
        np.ndindex(*(n // size for n, size in zip(volume.shape, sizes, strict=True))),
        key=lambda place: (place["xyz".index(slow)], place),
    )
    expected = [
        volume[tuple(slice(i * size, (i + 1) * size) for i, size in zip(place, sizes, strict=True))] for place in order
    ]
    assert_array_equal(whole, expected)
    monkeypatch.setattr("mksdask.importers.windows.BAND_BYTES", 1)
    banded = import_images(tmp_path / "i.npy", tmp_path / "banded.zarr", **options).microstructure
    assert_array_equal(banded, expected)
    corners = np.stack([whole[f"corner_{axis}"] for axis in "xyz"], axis=-1)
    assert_array_equal(corners, np.multiply(order, sizes))
