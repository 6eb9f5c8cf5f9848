"""Files of VTK, written by VTK itself in all its forms; and files that are damaged."""

import base64
import re
import tracemalloc

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mksdask.importers import import_images
from mksdask.importers.image_files import open_source
from mksdask.importers.sources import Choice

# What is assumed of a file is tested where it is told.
pytestmark = pytest.mark.filterwarnings("ignore::mksdask.importers.AssumedWarning")
vtk = pytest.importorskip("vtk", reason="vtk is not installed (extra: dev)")
numpy_support = pytest.importorskip("vtk.util.numpy_support")

V = (np.arange(60) * 7 % 61).astype("u1").reshape(2, 5, 6)
SPACING = (0.25, 0.5, 2.0)
TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
COMPRESSORS = ("None", "ZLib", "LZ4", "LZMA")


def an_image(of_cells=False, units="um", direction=None, kind="u1", **others):
    """An image of V and of other arrays, as an object of VTK."""
    image = vtk.vtkImageData()
    image.SetDimensions(*(n + of_cells for n in V.shape[::-1]))
    image.SetSpacing(*SPACING)
    if direction is not None:
        image.SetDirectionMatrix(*np.ravel(direction))
    data = image.GetCellData() if of_cells else image.GetPointData()
    for name, values in {"scan": V.astype(kind), **others}.items():
        array = numpy_support.numpy_to_vtk(np.ascontiguousarray(values).reshape(V.size, -1), deep=True)
        array.SetName(name)
        data.AddArray(array)
    if units is not None:
        texts = vtk.vtkStringArray()
        texts.SetName("units")
        texts.InsertNextValue(units)
        image.GetFieldData().AddArray(texts)
    return image


def write_vti(path, image, *, mode="Appended", compressor="ZLib", encode=False, header=64, order="Little", block=32):
    writer = vtk.vtkXMLImageDataWriter()
    getattr(writer, f"SetDataModeTo{mode}")()
    getattr(writer, f"SetCompressorTypeTo{compressor}")()
    getattr(writer, f"SetHeaderTypeToUInt{header}")()
    getattr(writer, f"SetByteOrderTo{order}Endian")()
    writer.SetEncodeAppendedData(encode)
    writer.SetBlockSize(block)
    write(writer, path, image)


def write_legacy(path, image, *, binary=True, version=42):
    writer = vtk.vtkStructuredPointsWriter() if image.IsA("vtkImageData") else vtk.vtkRectilinearGridWriter()
    writer.SetFileVersion(version)
    writer.SetFileType(2 if binary else 1)
    write(writer, path, image)


def write(writer, path, image):
    writer.SetInputData(image)
    writer.SetFileName(str(path))
    assert writer.Write() == 1


def check(ds, expected=V, dtype=None, spacing=SPACING, units="um"):
    found = ds.microstructure
    assert_array_equal(found.values, np.transpose(expected))
    assert found.dtype == (expected.dtype if dtype is None else dtype)
    assert_allclose([float(ds[axis][1] - ds[axis][0]) for axis in "xyz"], spacing)
    assert ds.x.attrs["units"] == units


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("mode", ["Ascii", "Binary", "Appended", "Encoded"])
@pytest.mark.parametrize("kind", TYPES)
def test_vti__every_form_and_type_of_vtk(tmp_path, kind, mode, compressor):
    image = an_image(kind=kind)
    options = {"mode": "Appended", "encode": True} if mode == "Encoded" else {"mode": mode}
    header, order = (32, "Big") if kind in ("u2", "f4", "i8") else (64, "Little")
    write_vti(tmp_path / "a.vti", image, compressor=compressor, header=header, order=order, **options)
    source = open_source(tmp_path / "a.vti")
    assert source.axes == "zyx"
    assert source.spacing == dict(zip("xyz", SPACING, strict=True))
    assert source.units == "um"
    assert source.data.dtype == kind
    assert_array_equal(source.data.compute(), V.astype(kind))
    # Each plane can be read alone.
    assert_array_equal(source.data[1].compute(), V[1].astype(kind))


@pytest.mark.parametrize("of_cells", [False, True])
def test_vti__points_cells_and_arrays_are_told_apart(tmp_path, of_cells):
    image = an_image(of_cells, angles=np.zeros((60, 3), "f4"), **{"b c": V[::-1].astype("i4")})
    write_vti(tmp_path / "a.vti", image)
    with pytest.raises(ValueError, match=r"needs dataset=; there are: scan, angles \(3 components\), b c"):
        import_images(tmp_path / "a.vti", tmp_path / "a.zarr")
    check(import_images(tmp_path / "a.vti", tmp_path / "a.zarr", dataset="b c"), V[::-1].astype("i4"))
    with pytest.raises(ValueError, match=r"angles \(3 components\) holds more than one number for each voxel"):
        import_images(tmp_path / "a.vti", tmp_path / "b.zarr", dataset="angles")
    group = "CellData" if of_cells else "PointData"
    check(import_images(tmp_path / "a.vti", tmp_path / "c.zarr", dataset=f"{group}/scan"))


def test_vti__points_and_cells_of_one_name(tmp_path):
    image = an_image()
    array = numpy_support.numpy_to_vtk(np.arange(20.0), deep=True)
    array.SetName("scan")
    image.GetCellData().AddArray(array)
    write_vti(tmp_path / "a.vti", image)
    with pytest.raises(ValueError, match="there are: PointData/scan, CellData/scan"):
        open_source(tmp_path / "a.vti")
    cells = open_source(tmp_path / "a.vti", Choice(dataset="CellData/scan"))
    assert_array_equal(cells.data.compute(), np.arange(20.0).reshape(4, 5))
    assert cells.spacing == dict(zip("xy", SPACING[:2], strict=True))


@pytest.mark.parametrize("of_cells", [False, True])
@pytest.mark.parametrize("suffix", ["vti", "pvti"])
def test_vti__several_pieces(tmp_path, of_cells, suffix):
    image = an_image(of_cells)
    # A source that can be asked for parts, so that each piece holds only its own.
    source = vtk.vtkTrivialProducer()
    source.SetOutput(image)
    source.SetWholeExtent(*image.GetExtent())
    writer = vtk.vtkXMLImageDataWriter() if suffix == "vti" else vtk.vtkXMLPImageDataWriter()
    writer.SetInputConnection(source.GetOutputPort())
    writer.SetFileName(str(tmp_path / f"a.{suffix}"))
    writer.SetNumberOfPieces(3)
    if suffix == "pvti":
        writer.SetStartPiece(0)
        writer.SetEndPiece(2)
    assert writer.Write() == 1
    if suffix == "pvti":
        assert len(list(tmp_path.glob("a_*.vti"))) == 3
    check(import_images(tmp_path / f"a.{suffix}", tmp_path / "a.zarr"))


def split(of_cells, gap=0):
    """A file of two pieces by hand, of which the second begins one plane along y later if there is a gap."""
    n = 3
    parts = []
    for low, high in ((0, n - (not of_cells)), (n + gap, 5 - (not of_cells))):
        values = V[:, low : high + (not of_cells)]
        group = "CellData" if of_cells else "PointData"
        text = " ".join(map(str, values.ravel()))
        array = f'<DataArray type="UInt8" Name="scan" format="ascii">{text}</DataArray>'
        extent = f"0 {6 - (not of_cells)} {low} {high} 0 {2 - (not of_cells)}"
        parts.append(f'<Piece Extent="{extent}"><{group}>{array}</{group}></Piece>')
    whole = f"0 {6 - (not of_cells)} 0 {5 - (not of_cells)} 0 {2 - (not of_cells)}"
    return (
        f'<VTKFile type="ImageData"><ImageData WholeExtent="{whole}" Spacing="0.25 0.5 2">{"".join(parts)}'
        "</ImageData></VTKFile>"
    )


@pytest.mark.parametrize("of_cells", [False, True])
def test_vti__pieces_must_make_up_the_whole(tmp_path, of_cells):
    (tmp_path / "a.vti").write_text(split(of_cells))
    check(import_images(tmp_path / "a.vti", tmp_path / "a.zarr"), units="unit")
    (tmp_path / "b.vti").write_text(split(of_cells, gap=1))
    with pytest.raises(ValueError, match="its 2 pieces leave gaps in the image"):
        import_images(tmp_path / "b.vti", tmp_path / "b.zarr")


def test_pvti__pieces_lie_in_its_folder(tmp_path):
    (tmp_path / "below").mkdir()
    write_vti(tmp_path / "secret.vti", an_image())
    text = '<VTKFile type="PImageData"><PImageData WholeExtent="0 5 0 4 0 1" Spacing="0.25 0.5 2"><Piece Extent='
    text += '"0 5 0 4 0 1" Source="{}"/></PImageData></VTKFile>'
    (tmp_path / "below" / "a.pvti").write_text(text.format("../secret.vti"))
    with pytest.raises(ValueError, match="does not lie in the folder of the file"):
        open_source(tmp_path / "below" / "a.pvti")
    (tmp_path / "a.pvti").write_text(text.format("secret.vti"))
    check(import_images(tmp_path / "a.pvti", tmp_path / "a.zarr"), units="unit")
    (tmp_path / "b.pvti").write_text(text.format("gone.vti"))
    with pytest.raises(ValueError, match=r"its piece 'gone\.vti' is not there"):
        open_source(tmp_path / "b.pvti")


@pytest.mark.parametrize(
    "direction",
    [[[0, 1, 0], [1, 0, 0], [0, 0, 1]], [[0, 0, -1], [0, 1, 0], [1, 0, 0]], [[-1, 0, 0], [0, 0, -1], [0, -1, 0]]],
)
def test_vti__axes_are_turned_as_the_file_says(tmp_path, direction):
    image = an_image(direction=direction)
    write_vti(tmp_path / "a.vti", image)
    ds = import_images(tmp_path / "a.vti", tmp_path / "a.zarr")
    # VTK itself says where each point lies.
    points = np.array([image.GetPoint(i) for i in range(image.GetNumberOfPoints())])
    points -= points.min(axis=0)
    for point, value in zip(points, V.ravel(), strict=True):
        assert ds.microstructure.sel(dict(zip("xyz", point, strict=True)), method="nearest") == value
    assert_allclose([float(ds[axis][-1]) for axis in "xyz"], points.max(axis=0))


def test_vti__other_turns_are_refused_and_the_origin_is_kept(tmp_path):
    c, s = np.cos(0.1), np.sin(0.1)
    write_vti(tmp_path / "a.vti", an_image(direction=[[c, -s, 0], [s, c, 0], [0, 0, 1]]))
    with pytest.raises(ValueError, match=r"its axes are turned by the matrix .* only turns by 90° are read"):
        open_source(tmp_path / "a.vti")
    image = an_image()
    image.SetOrigin(1.0, 0.0, -2.5)
    write_vti(tmp_path / "a.vti", image)
    assert open_source(tmp_path / "a.vti").origin == {"x": 1.0, "y": 0.0, "z": -2.5}
    write_vti(tmp_path / "a.vti", an_image(units="furlong"))
    with pytest.raises(ValueError, match="'furlong' is no known unit of length"):
        open_source(tmp_path / "a.vti")


@pytest.mark.parametrize(
    ("origin", "first"),
    [
        ((0, 0, 0), {}),
        ((-0.5, -1, -1.5), {}),
        ((-0.5, 0, 0), {"x": 0, "y": 1, "z": 1.5}),
        ((3, 0, 0), {"x": 3.5, "y": 1, "z": 1.5}),
    ],
)
def test_vti__cells_begin_at_zero_by_their_corner_or_by_their_middle(tmp_path, origin, first):
    image = vtk.vtkImageData()
    image.SetDimensions(4, 5, 3)
    image.SetSpacing(1.0, 2.0, 3.0)
    image.SetOrigin(*origin)
    values = numpy_support.numpy_to_vtk(np.arange(24) % 3, deep=True)
    values.SetName("scan")
    image.GetCellData().AddArray(values)
    write_vti(tmp_path / "a.vti", image)
    assert open_source(tmp_path / "a.vti").origin == first


@pytest.mark.parametrize("version", [42, 51])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_legacy__every_form_and_type_of_vtk(tmp_path, kind, binary, version):
    image = an_image(kind=kind, other=V[::-1].astype(kind), vectors=np.ones((60, 3)), after=V.astype("f8") / 3)
    write_legacy(tmp_path / "a.vtk", image, binary=binary, version=version)
    for name, expected in (("scan", V), ("other", V[::-1])):
        check(import_images(tmp_path / "a.vtk", tmp_path / "a.zarr", dataset=name, mode="w"), expected.astype(kind))
    after = open_source(tmp_path / "a.vtk", Choice(dataset="after")).data.compute()
    assert_allclose(after, V / 3, rtol=1e-12 if binary else 1e-5)
    with pytest.raises(ValueError, match=r"there are: scan, other, vectors \(3 components\), after"):
        open_source(tmp_path / "a.vtk")


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("kind", ["u1", "i4"])
def test_legacy__active_arrays_have_keywords_of_their_own(tmp_path, kind, binary):
    image = an_image(kind=kind, vectors=np.ones((60, 3)), tensors=np.ones((60, 9)), normals=np.ones((60, 3), "f4"))
    data = image.GetPointData()
    data.SetActiveScalars("scan")
    data.SetActiveVectors("vectors")
    data.SetActiveTensors("tensors")
    data.SetActiveNormals("normals")
    table = vtk.vtkLookupTable()
    table.SetNumberOfTableValues(4)
    table.Build()
    data.GetScalars().SetLookupTable(table)
    # Information on an array makes VTK write a block METADATA.
    data.GetScalars().GetInformation().Set(vtk.vtkDataArray.UNITS_LABEL(), "grey")
    data.GetArray("vectors").SetComponentName(0, "along x")
    write_legacy(tmp_path / "a.vtk", image, binary=binary)
    content = (tmp_path / "a.vtk").read_bytes()
    for word in (b"COLOR_SCALARS" if kind == "u1" else b"\nSCALARS", b"VECTORS", b"TENSORS", b"NORMALS", b"METADATA"):
        assert word in content
    check(import_images(tmp_path / "a.vtk", tmp_path / "a.zarr"), V.astype(kind))


@pytest.mark.parametrize("binary", [False, True])
def test_legacy__cells_and_bits(tmp_path, binary):
    image = an_image(of_cells=True)
    bits = vtk.vtkBitArray()
    bits.SetName("bits")
    for value in V.ravel() % 2:
        bits.InsertNextValue(value)
    image.GetCellData().AddArray(bits)
    write_legacy(tmp_path / "a.vtk", image, binary=binary)
    check(import_images(tmp_path / "a.vtk", tmp_path / "a.zarr", dataset="scan"))
    with pytest.raises(ValueError, match="bits is of type 'bit'"):
        open_source(tmp_path / "a.vtk", Choice(dataset="bits"))


def a_grid(x):
    grid = vtk.vtkRectilinearGrid()
    grid.SetDimensions(*V.shape[::-1])
    for axis, along in zip("XYZ", (x, np.arange(5) * 0.5, np.arange(2) * 2.0), strict=True):
        getattr(grid, f"Set{axis}Coordinates")(numpy_support.numpy_to_vtk(np.asarray(along, "f4"), deep=True))
    array = numpy_support.numpy_to_vtk(V.ravel(), deep=True)
    array.SetName("scan")
    grid.GetPointData().AddArray(array)
    return grid


@pytest.mark.parametrize("binary", [False, True])
def test_legacy__rectilinear_grids(tmp_path, binary):
    write_legacy(tmp_path / "a.vtk", a_grid(np.arange(6) * 0.25 + 7), binary=binary)
    check(import_images(tmp_path / "a.vtk", tmp_path / "a.zarr"), units="unit")
    assert open_source(tmp_path / "a.vtk").origin == {"x": 7, "y": 0, "z": 0}
    write_legacy(tmp_path / "b.vtk", a_grid([0, 1, 2, 4, 8, 16]), binary=binary)
    with pytest.raises(ValueError, match="X_COORDINATES with steps from 1 to 8, expected one step"):
        import_images(tmp_path / "b.vtk", tmp_path / "b.zarr")


def test_vtkhdf__images_of_vtk(tmp_path):
    image = an_image(grey=V / 3, angles=np.ones((60, 3)))
    image.SetOrigin(0, 0, 5)
    write(vtk.vtkHDFWriter(), tmp_path / "a.vtkhdf", image)
    # VTK writes no texts into these files.
    check(import_images(tmp_path / "a.vtkhdf", tmp_path / "a.zarr", dataset="scan"), units="unit")
    assert open_source(tmp_path / "a.vtkhdf", Choice(dataset="scan")).origin == {"x": 0, "y": 0, "z": 5}
    with pytest.raises(ValueError, match=r"needs dataset=; there are: angles \(3 components\), grey, scan"):
        open_source(tmp_path / "a.vtkhdf")
    with pytest.raises(ValueError, match="holds no times"):
        open_source(tmp_path / "a.vtkhdf", Choice(dataset="scan", time=1))
    write(vtk.vtkHDFWriter(), tmp_path / "b.vtkhdf", vtk.vtkPolyData())
    with pytest.raises(ValueError, match="type 'PolyData', expected ImageData"):
        open_source(tmp_path / "b.vtkhdf")


@pytest.mark.parametrize("of_cells", [False, True])
@pytest.mark.parametrize(
    ("sizes", "shape", "steps"), [((5, 4, 1), (5, 4), (0.25, 0.5)), ((1, 5, 4), (5, 4), (0.5, 2.0))]
)
@pytest.mark.parametrize("suffix", ["vti", "vtk", "vtkhdf"])
def test_flat_images__have_two_axes(tmp_path, suffix, sizes, shape, steps, of_cells):
    image = vtk.vtkImageData()
    image.SetDimensions(*(n + (of_cells and n > 1) for n in sizes))
    image.SetSpacing(*SPACING)
    array = numpy_support.numpy_to_vtk(np.arange(20, dtype="u1"), deep=True)
    array.SetName("scan")
    (image.GetCellData() if of_cells else image.GetPointData()).AddArray(array)
    writer = {"vti": vtk.vtkXMLImageDataWriter, "vtk": vtk.vtkStructuredPointsWriter, "vtkhdf": vtk.vtkHDFWriter}[
        suffix
    ]
    write(writer(), tmp_path / f"a.{suffix}", image)
    ds = import_images(tmp_path / f"a.{suffix}", tmp_path / "a.zarr")
    assert_array_equal(ds.microstructure, np.arange(20).reshape(4, 5).T)
    assert_allclose([float(ds[axis][1]) for axis in "xy"], steps)
    # Only axes that are called otherwise than in the file are told.
    said = " ".join(open_source(tmp_path / f"a.{suffix}").assumed)
    assert ("the image is flat" in said) == (sizes[0] == 1)


def spoilt(change, **options):
    def make(path):
        write_vti(path.with_suffix(".vti"), an_image(), **options)
        content = path.with_suffix(".vti").read_bytes()
        path.with_suffix(".vti").write_bytes(change(content))
        return path.with_suffix(".vti")

    return make


def spoilt_legacy(change, **options):
    def make(path):
        write_legacy(path.with_suffix(".vtk"), an_image(), **options)
        path.with_suffix(".vtk").write_bytes(change(path.with_suffix(".vtk").read_bytes()))
        return path.with_suffix(".vtk")

    return make


def spoilt_hdf(change):
    def make(path):
        write(vtk.vtkHDFWriter(), path.with_suffix(".vtkhdf"), an_image())
        with h5py.File(path.with_suffix(".vtkhdf"), "a") as file:
            change(file["VTKHDF"])
        return path.with_suffix(".vtkhdf")

    return make


def huge(content):
    return content.replace(b"0 5 0 4 0 1", b"0 9999 0 9999 0 9999")


def huge_legacy(content):
    return content.replace(b"DIMENSIONS 6 5 2", b"DIMENSIONS 10000 10000 10000").replace(b" 60", b" 1000000000000")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (spoilt(lambda b: b[:-90], compressor="None"), "truncated"),
        (spoilt(lambda b: b[: b.index(b"_") + 60]), "truncated|cannot be unpacked"),
        (spoilt(lambda b: b.replace(b"\x78\x5e", b"\x78\x5f")), "block 0 of its values cannot be unpacked|damaged"),
        (spoilt(lambda b: b[:300]), "not the XML of a VTK file, or it is truncated"),
        (spoilt(lambda b: b[:-60], mode="Ascii"), "truncated"),
        (spoilt(lambda b: re.sub(rb"(\s\d+){3}(\s*</DataArray)", rb"\2", b), mode="Ascii"), "holds only 57 values"),
        (spoilt(lambda b: re.sub(rb"(\s\d+)(\s*</DataArray)", rb"\1\1\2", b), mode="Ascii"), "holds more values"),
        (spoilt(lambda b: b.replace(b" 14 ", b" 1x "), mode="Ascii"), "no number of type uint8"),
        (spoilt(lambda b: b.replace(b" 14 ", b" .. "), mode="Ascii"), "no number of type uint8"),
        (spoilt(lambda b: b.replace(b" 14 ", b" -4 "), mode="Ascii"), "no number of type uint8"),
        (spoilt(lambda b: b.replace(b" 14 ", b" 314 "), mode="Ascii"), "no number of type uint8"),
        (spoilt(huge, mode="Ascii"), "holds only 60 values, but its header announces 1000000000000"),
        *((spoilt(huge, compressor=each), "the header of the file announces 1000000000000") for each in COMPRESSORS),
        (spoilt(huge, mode="Binary"), "the header of the file announces 1000000000000"),
        (spoilt(lambda b: b.replace(b"vtkZLib", b"vtkNewer")), "compressed by vtkNewerDataCompressor, expected one of"),
        (spoilt(lambda b: b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + b), "declares entities of XML"),
        (spoilt(lambda b: b.replace(b"0.25 0.5 2", b"0.25 0 2")), "spacing along its axes is .* expected positive"),
        (spoilt_legacy(lambda b: b[:-20]), "truncated"),
        (spoilt_legacy(lambda b: b[:-20], binary=False), "truncated"),
        (spoilt_legacy(huge_legacy), "truncated"),
        (spoilt_legacy(huge_legacy, binary=False), "truncated"),
        (spoilt_legacy(lambda b: b.replace(b"POINT_DATA 60", b"POINT_DATA 61")), "its dimensions make 60 points"),
        (spoilt_legacy(lambda b: b.replace(b"SPACING", b"SPICING")), "'SPICING 0.25 0.5 2', which is not understood"),
        (spoilt_legacy(lambda b: b.replace(b"STRUCTURED_POINTS", b"POLYDATA")), "of type POLYDATA, expected STRUCT"),
        (spoilt_legacy(lambda b: b.replace(b"BINARY", b"TERNARY")), "'TERNARY' in its third line"),
        (spoilt_legacy(lambda b: b.replace(b" 14 ", b" 1x "), binary=False), "no number of type uint8"),
        (spoilt_legacy(lambda b: b.replace(b"0.25 0.5 2", b"0.25 0.5")), "expected three numbers"),
        (spoilt_legacy(lambda b: b.replace(b"0.25 0.5 2", b"0.25 0.5 x")), "expected three numbers"),
        (spoilt_legacy(lambda b: b.replace(b"S 6 5 2", b"S 6 5")), "has the dimensions '6 5', expected three positive"),
        (spoilt_legacy(lambda b: b.replace(b"S 6 5 2", b"S 6 x 2")), "holds 'x' where a number is expected"),
        (spoilt_legacy(lambda b: b.replace(b"DIMENSIONS 6 5 2\n", b"")), "holds values before its dimensions"),
        (spoilt_legacy(lambda b: b[: b.index(b"DIMENSIONS")]), "no line DIMENSIONS"),
        (
            spoilt_legacy(lambda b: b.replace(b"POINT_DATA 60\n", b"SCALARS a float\n")),
            "a before POINT_DATA or CELL_DATA",
        ),
        (
            spoilt_legacy(lambda b: b.replace(b"units 1 1", b"units 1 999999999999")),
            "ends before the values of units that its header announces; it is truncated",
        ),
        (spoilt_legacy(lambda b: b[: b.index(b"scan 1")]), "ends inside of a FIELD; it is truncated"),
        (spoilt_legacy(lambda b: b[: b.rindex(b"FIELD")] + b"VECTORS"), "the line 'VECTORS', which is not complete"),
        (
            spoilt_legacy(lambda b: b.replace(b"scan 1 60", b"scan 1 59")),
            "59 values of scan, but its header announces 60",
        ),
        (spoilt(lambda b: b.replace(b"VTKFile", b"VTKFill")), "it has no element VTKFile"),
        (spoilt(lambda b: b.replace(b"   _", b"   -"), compressor="None"), "appended data do not begin with '_'"),
        (
            spoilt(lambda b: b.replace(b"0.25 0.5 2", b"0.25 0.5 x")),
            "'0.25 0.5 x' in its header is not a list of 3 num",
        ),
        (spoilt(lambda b: b.replace(b'WholeExtent="0 5', b'WholeExtent="9 5')), "'9 5 0 4 0 1' holds no image"),
        (spoilt(lambda b: re.sub(rb"<Piece.*</Piece>", b"", b, flags=re.DOTALL)), "holds no piece of an image"),
        (spoilt(lambda b: b.replace(b"=eF4rzWUA", b"=eF4!zWUA"), encode=True), "base64 that cannot be decoded"),
        (spoilt_hdf(lambda root: root.file.move("VTKHDF", "VTK")), "has no group VTKHDF"),
        (spoilt_hdf(lambda root: root.attrs.modify("WholeExtent", [0, 5, 0, 4, 0, 2])), "its header announces"),
    ],
)
def test_vtk__damaged_files_are_refused(tmp_path, make, message):
    path = make(tmp_path / "a")
    with pytest.raises(ValueError, match=message):
        import_images(path, tmp_path / "a.zarr", units="um")
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("form", ["ascii.vti", "base64.vti", "packed.vti", "raw.vti", "ascii.vtk", "binary.vtk"])
def test_vtk__memory_does_not_grow_with_the_file(tmp_path, form, monkeypatch):
    monkeypatch.setattr("mksdask.importers.sources.SLAB_BYTES", 2**18)
    monkeypatch.setattr("mksdask.importers.formats.vtk_values.SCAN_BYTES", 2**18)
    name, suffix = form.split(".")
    image = vtk.vtkImageData()
    image.SetDimensions(128, 128, 256)
    array = numpy_support.numpy_to_vtk(np.random.default_rng(0).integers(0, 99, 2**22, dtype="u1"), deep=True)
    array.SetName("scan")
    image.GetPointData().AddArray(array)
    if suffix == "vtk":
        write_legacy(tmp_path / form, image, binary=name == "binary")
    else:
        mode = {"ascii": "Ascii", "base64": "Binary"}.get(name, "Appended")
        write_vti(tmp_path / form, image, mode=mode, compressor="ZLib" if name == "packed" else "None", block=2**15)

    def total():
        return int(open_source(tmp_path / form).data.sum(dtype="i8").compute(scheduler="single-threaded"))

    # What is imported at the first call stays in memory.
    assert total() == numpy_support.vtk_to_numpy(array).sum(dtype="i8")
    tracemalloc.start()
    total()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Text takes 4.2 MB of its 12 MB, and what else runs in the process up to 0.3 MB.
    assert peak < 4.8e6


def test_vti__inline_values_with_space_around_them(tmp_path):
    packed = base64.b64encode(np.uint32(V.nbytes).tobytes() + V.tobytes()).decode()
    (tmp_path / "a.vti").write_text(
        '<VTKFile type="ImageData" byte_order="LittleEndian"><ImageData WholeExtent="0 5 0 4 0 1" Spacing="0.25 0.5 2">'
        f'<Piece Extent="0 5 0 4 0 1"><PointData><DataArray Name="a>b" type="UInt8" format="binary">\n  {packed}\n'
        "</DataArray></PointData></Piece></ImageData></VTKFile>"
    )
    check(import_images(tmp_path / "a.vti", tmp_path / "a.zarr"), units="unit")
