"""EBSD maps: four formats, frames, unindexed points, and files that are broken."""

import threading
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from mksdask import GSHBasis
from mksdask.bases.gsh import bunge_angles, symmetry_rotations
from mksdask.importers import import_ebsd
from mksdask.importers.ebsd.edax import EDAX_AXES
from mksdask.stats import correlate
from tests.conftest import real_data

h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra: io)")

DIRECTIONS = {"x": [1, 0, 0], "-x": [-1, 0, 0], "y": [0, 1, 0], "-y": [0, -1, 0]}
SHAPE = (7, 5)  # columns, rows


def euler_frame(axes):
    """Columns: the axes of the Euler angles, in coordinates of the map."""
    first, second = (np.array(DIRECTIONS[axis]) for axis in axes)
    return np.stack([first, second, np.cross(first, second)], axis=1)


def a_map(seed=0):
    """Orientations in the frame of the map, phases and unindexed points, records along x first."""
    rng = np.random.default_rng(seed)
    n = SHAPE[0] * SHAPE[1]
    rotations = Rotation.random(n, random_state=seed)
    phase = rng.integers(1, 3, n)
    is_indexed = rng.random(n) > 0.25
    return rotations, phase, is_indexed


def in_frame(rotations, axes):
    return bunge_angles(Rotation.from_matrix(euler_frame(axes).T) * rotations)


def positions(step):
    rows, columns = np.divmod(np.arange(SHAPE[0] * SHAPE[1]), SHAPE[0])
    return columns * step[0], rows * step[1]


def write_ang(path, rotations, phase, is_indexed, setting=2, step=(0.5, 0.25), eol="\n"):
    angles = in_frame(rotations, EDAX_AXES[setting])
    x, y = positions(step)
    lines = ["# TEM_PIXperUM 1.0", "# Phase 1", "# MaterialName  \tNickel", "# Symmetry              43"]
    lines += ["# Phase 2", "# MaterialName  \tTitanium", "# Symmetry              62", "# GRID: SqrGrid"]
    lines += [f"# XSTEP: {step[0]}", f"# YSTEP: {step[1]}", f"# NCOLS_ODD: {SHAPE[0]}", f"# NCOLS_EVEN: {SHAPE[0]}"]
    lines += [f"# NROWS: {SHAPE[1]}", "#"]
    for i in range(len(phase)):
        a, ci = (angles[i], 0.75) if is_indexed[i] else ([4 * np.pi] * 3, -1.0)
        lines.append(f"{a[0]:10.6f}{a[1]:10.6f}{a[2]:10.6f} {x[i]:.5f} {y[i]:.5f} 99.0 {ci} {phase[i]} 1 0.5")
    path.write_bytes((eol.join(lines) + eol).encode())


def write_edax_hdf5(path, rotations, phase, is_indexed, setting=2, step=(0.5, 0.25)):
    angles = in_frame(rotations, EDAX_AXES[setting])
    angles[~is_indexed] = 4 * np.pi
    x, y = positions(step)
    with h5py.File(path, "w") as file:
        header, data = file.create_group("Scan 1/EBSD/Header"), file.create_group("Scan 1/EBSD/Data")
        for name, value in {"nColumns": SHAPE[0], "nRows": SHAPE[1], "Step X": step[0], "Step Y": step[1]}.items():
            header[name] = np.array([value])
        header["Grid Type"] = np.array([b"SqrGrid"])
        header["Coordinate System/ID"] = np.array([setting])
        for number, name, symmetry in ((1, b"Nickel", 43), (2, b"Titanium", 62)):
            header[f"Phase/{number}/MaterialName"] = np.array([name])
            header[f"Phase/{number}/Symmetry"] = np.array([symmetry])
        for position, name in enumerate(("Phi1", "Phi", "Phi2")):
            data[name] = angles[:, position].astype("f4")
        data["X Position"], data["Y Position"] = x, y
        data["CI"], data["Phase"] = np.where(is_indexed, 0.75, -1.0), phase.astype("i1")


def oxford_angles(rotations, phase):
    """Euler angles of Oxford: axes x and -y, and hexagonal crystals with x along a*, 30° from a."""
    angles = in_frame(rotations, ("x", "-y"))
    angles[phase == 2, 2] += np.pi / 6
    return angles


def write_ctf(path, rotations, phase, is_indexed, step=(0.5, 0.25), comma=False):
    angles = np.rad2deg(oxford_angles(rotations, phase))
    x, y = positions(step)
    lines = ["Channel Text File", "Prj\ttest", "JobMode\tGrid", f"XCells\t{SHAPE[0]}", f"YCells\t{SHAPE[1]}"]
    lines += [f"XStep\t{step[0]}", f"YStep\t{step[1]}", "AcqE1\t0", "AcqE2\t0", "AcqE3\t0"]
    lines += ["Euler angles refer to Sample Coordinate system (CS0)!\tMag\t800", "Phases\t2"]
    lines += ["3.57;3.57;3.57\t90;90;90\tNickel\t11\t225", "2.95;2.95;4.68\t90;90;120\tTitanium\t9\t194"]
    lines += ["Phase\tX\tY\tBands\tError\tEuler1\tEuler2\tEuler3\tMAD\tBC\tBS"]
    for i in range(len(phase)):
        # One in two unindexed points was given an orientation by software, and keeps its error number.
        number, error = (phase[i], 0) if is_indexed[i] else (phase[i] * (i % 2), 3)
        a = angles[i]
        lines.append(f"{number}\t{x[i]:.4f}\t{y[i]:.4f}\t8\t{error}\t{a[0]:.5f}\t{a[1]:.5f}\t{a[2]:.5f}\t0.5\t100\t200")
    text = "\n".join(lines) + "\n"
    path.write_text(text.replace(".", ",") if comma else text)


def write_crc(path, rotations, phase, is_indexed, step=(0.5, 0.25)):
    kinds = [("phase", "u1"), *((f"e{i}", "<f4") for i in range(3)), ("mad", "<f4"), ("bc", "u1"), ("error", "u1")]
    table = np.zeros(len(phase), dtype=kinds)
    angles = oxford_angles(rotations, phase)
    for i in range(3):
        table[f"e{i}"] = angles[:, i]
    table["phase"] = np.where(is_indexed, phase, phase * (np.arange(len(phase)) % 2))
    table["error"] = np.where(is_indexed, 0, 3)
    table.tofile(path.with_suffix(".crc"))
    sections = ["[General]", "Version=5.0", "[Job]", f"GridDistX={step[0]}", f"GridDistY={step[1]}"]
    sections += [
        f"xCells={SHAPE[0]}",
        f"yCells={SHAPE[1]}",
        "[Acquisition Surface]",
        "Euler1=0.0",
        "[Fields]",
        "Count=6",
    ]
    sections += [f"Field{i}={number}" for i, number in enumerate((3, 4, 5, 6, 7, 11), start=1)]
    sections += ["[Phases]", "Count=2", "[Phase1]", "StructureName=Nickel", "LaueGroup=11"]
    sections += ["[Phase2]", "StructureName=Titanium", "LaueGroup=9"]
    path.with_suffix(".cpr").write_text("\n".join(sections))


WRITERS = {".ang": write_ang, ".h5": write_edax_hdf5, ".ctf": write_ctf, ".crc": write_crc}


def check_map(ds, rotations, phase, is_indexed):
    """The store holds the orientations of the map, equivalents of hexagonal crystals included, and nothing else."""
    assert dict(ds.sizes) == {"x": SHAPE[0], "y": SHAPE[1], "angle": 3}
    assert_allclose(ds.x, np.arange(SHAPE[0]) * 0.5)
    assert_allclose(ds.y, np.arange(SHAPE[1]) * 0.25)
    assert ds.x.attrs["units"] == "um"
    assert ds.phase.attrs == {
        "phases": ["not indexed", "Nickel", "Titanium"],
        "laue_groups": ["", "cubic", "hexagonal"],
    }
    angles = ds.microstructure.values.transpose(1, 0, 2).reshape(-1, 3)
    assert_array_equal(ds.phase.values.T.ravel(), np.where(is_indexed, phase, 0))
    assert_array_equal(ds.confidence_index.values.T.ravel() > 0, is_indexed)
    assert np.isnan(angles[~is_indexed]).all()
    found = Rotation.from_euler("ZXZ", angles[is_indexed].astype(float))
    assert (rotations[is_indexed].inv() * found).magnitude().max() < 1e-4
    assert angles[is_indexed].min() >= 0
    assert angles[is_indexed].max() <= 2 * np.pi + 1e-6


@pytest.mark.parametrize("suffix", WRITERS)
def test_ebsd__known_rotations_come_back_in_the_frame_of_the_map(tmp_path, suffix):
    rotations, phase, is_indexed = a_map()
    WRITERS[suffix](tmp_path / f"map{suffix}", rotations, phase, is_indexed)
    ds = import_ebsd(tmp_path / f"map{suffix}", tmp_path / "map.zarr")
    check_map(ds, rotations, phase, is_indexed)
    confidence = 0.75 if suffix in (".ang", ".h5") else 1.0
    assert_allclose(ds.confidence_index.values[ds.phase.values > 0], confidence)
    assert ds.microstructure.attrs["source"] == f"map{suffix}"
    assert "into the frame of the map" in ds.microstructure.attrs["conversion"]


@pytest.mark.parametrize("setting", EDAX_AXES)
def test_ebsd__each_coordinate_system_of_edax(tmp_path, setting):
    rotations, phase, is_indexed = a_map(setting)
    write_edax_hdf5(tmp_path / "map.h5", rotations, phase, is_indexed, setting)
    ds = import_ebsd(tmp_path / "map.h5", tmp_path / "h5.zarr")
    check_map(ds, rotations, phase, is_indexed)
    assert ds.microstructure.attrs["frame"] == f"EDAX setting {setting}, stated in the file"
    write_ang(tmp_path / "map.ang", rotations, phase, is_indexed, setting, eol="\r\n")
    ds = import_ebsd(tmp_path / "map.ang", tmp_path / "ang.zarr", setting=setting)
    check_map(ds, rotations, phase, is_indexed)
    assert ds.microstructure.attrs["frame"] == f"EDAX setting {setting}, given"


def test_ebsd__an_axis_along_the_map_s_y(tmp_path):
    # By hand: the crystal's c axis lies along y of the map, its a axis along x. In Oxford's frame c is along -y.
    rotations = Rotation.from_matrix([np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])] * 35)
    write_ctf(tmp_path / "map.ctf", rotations, np.ones(35, int), np.ones(35, bool))
    assert "\t0.00000\t90.00000\t0.00000\t" in (tmp_path / "map.ctf").read_text()
    ds = import_ebsd(tmp_path / "map.ctf", tmp_path / "map.zarr")
    R = Rotation.from_euler("ZXZ", ds.microstructure.values[2, 3].astype(float))
    assert_allclose(R.apply([0, 0, 1]), [0, 1, 0], atol=1e-6)
    assert_allclose(R.apply([1, 0, 0]), [1, 0, 0], atol=1e-6)


def test_ebsd__decimal_commas(tmp_path):
    rotations, phase, is_indexed = a_map()
    write_ctf(tmp_path / "map.ctf", rotations, phase, is_indexed, comma=True)
    check_map(import_ebsd(tmp_path / "map.ctf", tmp_path / "map.zarr"), rotations, phase, is_indexed)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("points", [1, 8, 1000])
def test_ebsd__whatever_is_read_at_a_time(tmp_path, suffix, points, monkeypatch):
    monkeypatch.setattr("mksdask.importers.orientation_maps.BAND_POINTS", points)
    monkeypatch.setattr("mksdask.importers.ebsd.text.SCAN_BYTES", 97)
    rotations, phase, is_indexed = a_map()
    WRITERS[suffix](tmp_path / f"map{suffix}", rotations, phase, is_indexed)
    check_map(import_ebsd(tmp_path / f"map{suffix}", tmp_path / "map.zarr"), rotations, phase, is_indexed)


def hexagonal(path, even, rotations, phase, is_indexed, step=(0.5, 0.25)):
    """Write a map of EDAX on a hexagonal grid, and return which of its records is nearest to each square place."""
    places = np.array(
        [
            ((column + 0.5 * (row % 2)) * step[0], row * step[1])
            for row in range(SHAPE[1])
            for column in range(even if row % 2 else SHAPE[0])
        ]
    )
    write = write_ang if path.suffix == ".ang" else write_edax_hdf5
    write(path, rotations[: len(places)], phase[: len(places)], is_indexed[: len(places)])
    if path.suffix == ".ang":
        text = path.read_text().replace("SqrGrid", "HexGrid#").replace(f"EVEN: {SHAPE[0]}", f"EVEN: {even}")
        lines = iter(places)
        changed = []
        for line in text.splitlines():
            words = line.split()
            if line[0] != "#":
                words[3:5] = (f"{place:.5f}" for place in next(lines))
            changed.append(" ".join(words))
        path.write_text("\n".join(changed) + "\n")
    else:
        with h5py.File(path, "a") as file:
            file["Scan 1/EBSD/Header/Grid Type"][0] = b"HexGrid"
            for axis, name in enumerate(("X Position", "Y Position")):
                del file[f"Scan 1/EBSD/Data/{name}"]
                file[f"Scan 1/EBSD/Data/{name}"] = places[:, axis]
    square = np.stack(positions(step), axis=-1)
    # Rows of a hexagonal grid are √3/2 of a step apart, whatever step along y the map of this test has.
    distances = np.linalg.norm((square[:, None] - places) * [1 / step[0], np.sqrt(0.75) / step[1]], axis=-1)
    # Of two that are equally near, the one to the right is taken.
    is_near = distances < distances.min(axis=1, keepdims=True) + 1e-9
    return np.where(is_near, places[:, 0], -1).argmax(axis=1)


@pytest.mark.parametrize("suffix", [".ang", ".h5"])
@pytest.mark.parametrize("even", [SHAPE[0], SHAPE[0] - 1])
@pytest.mark.parametrize("points", [1, 8, 1000])
def test_ebsd__hexagonal_grids_by_request(tmp_path, suffix, even, points, monkeypatch):
    monkeypatch.setattr("mksdask.importers.orientation_maps.BAND_POINTS", points)
    monkeypatch.setattr("mksdask.importers.ebsd.text.SCAN_BYTES", 100 * points)
    n = SHAPE[0] * SHAPE[1] - (SHAPE[0] - even) * (SHAPE[1] // 2)
    rotations, phase, is_indexed = (part[:n] for part in a_map())
    path = tmp_path / f"map{suffix}"
    nearest = hexagonal(path, even, rotations, phase, is_indexed)
    with pytest.raises(ValueError, match=r"the points lie on a hexagonal grid; .* pass hexagonal='nearest'"):
        import_ebsd(path, tmp_path / "map.zarr")
    ds = import_ebsd(path, tmp_path / "map.zarr", hexagonal="nearest")
    check_map(ds, rotations[nearest], phase[nearest], is_indexed[nearest])
    assert ds.microstructure.attrs["grid"].startswith("hexagonal; each second row was moved by half a step along x")
    windows = import_ebsd(path, tmp_path / "windows.zarr", hexagonal="nearest", window=(2, 1))
    assert_array_equal(windows.phase[3 * 3 + 2], ds.phase[4:6, 3:4])


def test_ebsd__hexagonal_is_for_hexagonal_grids(tmp_path):
    write_ang(tmp_path / "map.ang", *a_map())
    with pytest.raises(ValueError, match=r"hexagonal='nearest' is for hexagonal grids, and the grid of .* is square"):
        import_ebsd(tmp_path / "map.ang", tmp_path / "map.zarr", hexagonal="nearest")
    text = (tmp_path / "map.ang").read_text().replace("SqrGrid", "HexGrid").replace("EVEN: 7", "EVEN: 3")
    (tmp_path / "map.ang").write_text(text)
    with pytest.raises(ValueError, match="rows of its hexagonal grid have 7 and 3 points"):
        import_ebsd(tmp_path / "map.ang", tmp_path / "map.zarr", hexagonal="nearest")


@pytest.mark.parametrize("suffix", WRITERS)
def test_ebsd__windows_are_an_ensemble(tmp_path, suffix):
    rotations, phase, is_indexed = a_map()
    WRITERS[suffix](tmp_path / f"map{suffix}", rotations, phase, is_indexed)
    whole = import_ebsd(tmp_path / f"map{suffix}", tmp_path / "map.zarr")
    ds = import_ebsd(tmp_path / f"map{suffix}", tmp_path / "windows.zarr", window=(3, 2))
    assert dict(ds.sizes) == {"sample": 4, "x": 3, "y": 2, "angle": 3}
    assert ds.microstructure.attrs["windows"] == [2, 2]
    step = float(whole.x[1] - whole.x[0]), float(whole.y[1] - whole.y[0])
    assert_allclose([ds.corner_x, ds.corner_y], [[0, 3 * step[0]] * 2, [0, 0, 2 * step[1], 2 * step[1]]])
    for name in ("microstructure", "phase", "confidence_index"):
        for sample in range(4):
            x, y = 3 * (sample % 2), 2 * (sample // 2)
            assert_array_equal(ds[name].values[sample], whole[name].values[x : x + 3, y : y + 2])
    statistics = correlate(ds.microstructure, GSHBasis(5, domain="cubic"), confidence_index=ds.confidence_index)
    assert statistics.shape[0] == 4
    with pytest.raises(FileExistsError):
        import_ebsd(tmp_path / f"map{suffix}", tmp_path / "windows.zarr", window=2)
    with pytest.raises(ValueError, match="window must be no larger"):
        import_ebsd(tmp_path / f"map{suffix}", tmp_path / "windows.zarr", window=6, mode="w")


@pytest.mark.slow
def test_ebsd__memory_does_not_grow_with_the_map(tmp_path, monkeypatch):
    monkeypatch.setattr("mksdask.importers.orientation_maps.BAND_POINTS", 2**14)
    peaks = []
    for rows in (2**8, 2**14):
        monkeypatch.setattr("tests.test_importers.SHAPE", (2**8, rows))
        table = np.zeros(2**8 * rows, dtype="u1, 3<f4, <f4, u1, u1")
        table["f0"] = 1
        table.tofile(tmp_path / "map.crc")
        write_crc(tmp_path / "other.crc", Rotation.random(1), np.ones(1, int), np.ones(1, bool))
        (tmp_path / "other.cpr").rename(tmp_path / "map.cpr")
        del table
        tracemalloc.start()
        import_ebsd(tmp_path / "map.crc", tmp_path / "map.zarr", mode="w")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 80 MB of records pass through; what differs is how many bands are at work at once.
    assert max(peaks) < 12e6


def broken(suffix, change):
    """A map whose file was spoilt by `change`, (bytes) → bytes."""

    def write(folder):
        WRITERS[suffix](folder / f"map{suffix}", *a_map())
        path = folder / f"map{suffix}"
        path.write_bytes(change(path.read_bytes()))
        return path

    return write


def broken_cpr(old, new):
    def write(folder):
        write_crc(folder / "map.crc", *a_map())
        path = folder / "map.cpr"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        return path

    return write


def broken_hdf5(change):
    def write(folder):
        write_edax_hdf5(folder / "map.h5", *a_map())
        with h5py.File(folder / "map.h5", "a") as file:
            change(file["Scan 1/EBSD"])
        return folder / "map.h5"

    return write


def elsewhere(name):
    """Replace a dataset by one with the same values, which are in another file."""

    def change(data):
        values = data[name][()]
        secret = data.file.filename + ".secret"
        values.tofile(secret)
        del data[name]
        data.create_dataset(name, values.shape, values.dtype, external=[(secret, 0, values.nbytes)])

    return change


def last_line(text):
    return text.rstrip(b"\n").rfind(b"\n") + 1


def shortened(data):
    values = data["Data/CI"][:-1]
    del data["Data/CI"]
    data["Data/CI"] = values


def replaced(name, value):
    def change(data):
        del data[name]
        data[name] = np.array([value])

    return change


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (broken(".crc", lambda b: b[:-7]), r"map\.crc: record 34 is cut or missing: expected 35 records of 19 bytes"),
        (broken(".crc", lambda b: b + b"x"), "expected 35 records of 19 bytes"),
        (broken(".crc", lambda b: b"\x07" + b[1:19] + b"\x07" + b[20:]), "is of phase 7, expected one of the header's"),
        (broken_cpr("xCells=7", "xCells=seven"), r"map\.cpr: xcells of the header is 'seven', expected a number"),
        (broken_cpr("GridDistX=0.5", ""), "the header has no griddistx"),
        (broken_cpr("xCells=7", "xCells"), "the header has no xcells"),
        (broken_cpr("LaueGroup=9", "LaueGroup=12"), "'Titanium' has Laue group 12"),
        (broken_cpr("Field1=3", "Field1=8"), "hold no Euler angles"),
        (broken_cpr("[Fields]", "[Nothing]"), r"no section \[Fields\]"),
        (broken_cpr("Euler1=0.0", "Euler1=90.0"), "acquisition surface is turned"),
        (broken_cpr("xCells=7", "xCells\n  7"), r"map\.cpr: this is not a \.cpr file"),
        (broken_cpr("Euler1=0.0", "Euler1=[]"), r"map\.cpr: euler1 of the header is '\[\]', expected a number"),
        (broken_cpr("[General]", "General"), r"map\.cpr: this is not a \.cpr file"),
        (
            broken(".ctf", lambda b: b.replace(b"JobMode\tGrid", b"JobMode\tLine")),
            "on a grid 'Line', expected a square",
        ),
        (
            broken(".ctf", lambda b: b.replace(b"XCells", b"ZCells\t2\nZStep\t0\nXCells")),
            r"describes 2 layers with steps 0\.0, expected positive",
        ),
        (
            broken(".ctf", lambda b: b.replace(b"AcqE1\t0", b"AcqE1\tCS0")),
            r"map\.ctf: AcqE1 of the header is 'CS0', expected a number",
        ),
        (
            broken(".ctf", lambda b: b.replace(b"\t0.0000\t", b"\t0.x\t", 1)),
            r"map\.ctf: record 0, line 16, is .*0\.x.*expected 11 numbers",
        ),
        (broken(".ctf", lambda b: b[: last_line(b)]), "holds 34 lines of records, expected 35"),
        (broken(".ctf", lambda b: b + b[last_line(b) :]), "holds 36 lines of records, expected 35"),
        (broken(".ctf", lambda b: b + b"\n\n"), None),
        (broken(".ctf", lambda b: b[:-30]), r"record 34, line 50, is .*expected 11 numbers: Phase, X"),
        (broken(".ctf", lambda b: b.replace(b"\t8\t", b"\tx\t", 1)), None),
        (broken(".ctf", lambda b: b.replace(b"Euler2", b"Angle2")), "no line of column names with Euler2"),
        (broken(".ctf", lambda b: b.replace(b"\t11\t225", b"")), "phase 1 of the header is"),
        (
            broken(".ang", lambda b: b.replace(b" 0.75 ", b" high ", 1)),
            r"record \d+, line \d+, is .*'.*high.*expected 10",
        ),
        (broken(".ang", lambda b: b.replace(b"SqrGrid", b"HexGrid")), "square grid"),
        (broken(".ang", lambda b: b.replace(b"# Phase", b"# Fase")), "names no phase"),
        (broken(".ctf", lambda b: b[: b.rstrip().rfind(b"\t0.5\t")]), "record 34, line 50, is"),
        (broken(".ang", lambda b: b.replace(b"XSTEP: 0.5", b"XSTEP: 0.7")), "lies at x = 1, expected 1.4 on a grid"),
        (broken(".ang", lambda b: b[: last_line(b)]), "holds 34 lines of records, expected 35"),
        (
            broken(".ang", lambda b: b.replace(b"# NROWS: 5", b"# NROWS: " + 20 * b"9")),
            "bytes of records, expected 69999",
        ),
        (broken(".ang", lambda b: b.replace(b"# NROWS: 5", b"#")), "the header has no NROWS"),
        (broken(".h5", lambda b: b[:100]), "not an HDF5 file"),
        (
            broken(".h5", lambda b: b.replace(b"SNOD", b"snod")),
            r"map\.h5: it cannot be read \(RuntimeError: .*signature",
        ),
        (broken_hdf5(shortened), "holds 34 records of CI, expected 35"),
        (broken_hdf5(lambda data: data.__delitem__("Data/Phi")), "has no Phi"),
        (broken_hdf5(elsewhere("Data/Phi1")), "Phi1 is stored in another file, .*secret"),
        (broken_hdf5(elsewhere("Header/nRows")), "nRows is stored in another file, .*secret"),
        (broken_hdf5(replaced("Header/nRows", 0)), "expected positive numbers"),
        (broken_hdf5(replaced("Header/Grid Type", b"HexGrid")), "square grid"),
        (broken_hdf5(replaced("Header/Grid Type", b"Radial")), "on a grid 'radial', expected a square one"),
    ],
)
def test_ebsd__broken_files_say_what_was_expected_and_leave_nothing(tmp_path, write, message):
    path = write(tmp_path)
    if message is None:  # a column that is not used may hold anything, and empty lines may end a file
        assert import_ebsd(path, tmp_path / "map.zarr").sizes["x"] == 7
        return
    with pytest.raises(ValueError, match=message) as error:
        import_ebsd(path, tmp_path / "map.zarr")
    assert "map." in str(error.value)
    assert not [entry for entry in tmp_path.iterdir() if "zarr" in entry.name]


def test_ebsd__an_error_that_is_kept_does_not_keep_other_threads_from_opening_files(tmp_path):
    path = broken_hdf5(elsewhere("Header/nRows"))(tmp_path)
    with pytest.raises(ValueError, match="stored in another file") as kept:
        import_ebsd(path, tmp_path / "map.zarr")
    thread = threading.Thread(target=h5py.is_hdf5, args=(str(path),), daemon=True)
    thread.start()
    thread.join(30)
    waits = thread.is_alive()
    del kept
    thread.join()
    assert not waits


def test_ebsd__a_map_cut_from_a_larger_one(tmp_path):
    rotations, phase, is_indexed = a_map()
    write_ctf(tmp_path / "map.ctf", rotations, phase, is_indexed)
    lines = (tmp_path / "map.ctf").read_text().splitlines()
    for i in range(len(lines) - 35, len(lines)):
        words = lines[i].split("\t")
        lines[i] = "\t".join([words[0], str(float(words[1]) + 2.0), str(float(words[2]) + 7.0), *words[3:]])
    (tmp_path / "map.ctf").write_text("\n".join(lines))
    check_map(import_ebsd(tmp_path / "map.ctf", tmp_path / "map.zarr"), rotations, phase, is_indexed)


def test_ebsd__records_of_oxford_with_their_places(tmp_path):
    rotations, phase, is_indexed = a_map()
    write_crc(tmp_path / "map.crc", rotations, phase, is_indexed)
    text = (tmp_path / "map.cpr").read_text()
    (tmp_path / "map.cpr").write_text(text.replace("Count=6", "Count=8\nField7=1\nField8=2"))
    places = np.stack(positions((0.5, 0.25)), axis=-1) + np.array([2.0, 7.0])
    for shift in (0.0, 0.3):
        places[30, 0] += shift
        records = np.fromfile(tmp_path / "map.crc", "u1").reshape(35, -1)[:, :19]
        np.hstack([records, places.astype("<f4").view("u1")]).tofile(tmp_path / "map.crc")
        if not shift:
            check_map(import_ebsd(tmp_path / "map.crc", tmp_path / "map.zarr"), rotations, phase, is_indexed)
    with pytest.raises(ValueError, match=r"record 30 .*lies at x = 3\.3, expected 3 on a grid"):
        import_ebsd(tmp_path / "map.crc", tmp_path / "map.zarr", mode="w")


def test_ebsd__monoclinic_crystals_have_their_axis_along_z(tmp_path):
    # By hand: the vendor's crystal has its 2-fold axis along y; a turn about it must not matter.
    rotations, _, _ = a_map()
    turned = rotations * Rotation.from_euler("Y", np.pi)
    found = []
    for name, these in (("a", rotations), ("b", turned)):
        write_ctf(tmp_path / f"{name}.ctf", these, np.ones(35, int), np.ones(35, bool))
        text = (tmp_path / f"{name}.ctf").read_text().replace("Nickel\t11", "Feldspar\t2")
        (tmp_path / f"{name}.ctf").write_text(text)
        ds = import_ebsd(tmp_path / f"{name}.ctf", tmp_path / f"{name}.zarr")
        assert "2-fold axis b along y to b along z" in ds.microstructure.attrs["conversion"]
        found.append(GSHBasis(12, domain=ds.phase.attrs["laue_groups"][1]).discretize(ds.microstructure.values[None]))
    assert_allclose(found[0], found[1], atol=1e-4)
    assert np.abs(found[0][..., 1:]).max() > 1


def test_ebsd__degrees_in_a_file_of_radians(tmp_path):
    rotations, phase, _ = a_map()
    write_ang(tmp_path / "map.ang", rotations, phase, np.ones(35, bool))
    lines = (tmp_path / "map.ang").read_text().splitlines()
    lines[20] = "   200.0000" + lines[20][10:]
    (tmp_path / "map.ang").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"record 6 has the Euler angles \[200.*expected radians"):
        import_ebsd(tmp_path / "map.ang", tmp_path / "map.zarr")


@pytest.mark.parametrize("points", [1, 1000])
def test_ebsd__a_single_phase_of_edax_has_number_0(tmp_path, points, monkeypatch):
    # Whole rows are not indexed, so that a band may hold nothing else.
    monkeypatch.setattr("mksdask.importers.orientation_maps.BAND_POINTS", points)
    rotations, _, _ = a_map()
    is_indexed = np.arange(35) // 7 % 2 == 0
    write_ang(tmp_path / "map.ang", rotations, np.zeros(35, int), is_indexed)
    text = (tmp_path / "map.ang").read_text()
    second = text[text.index("# Phase 2") : text.index("# GRID")]
    (tmp_path / "map.ang").write_text(text.replace(second, ""))
    ds = import_ebsd(tmp_path / "map.ang", tmp_path / "map.zarr")
    assert ds.phase.attrs["phases"] == ["not indexed", "Nickel"]
    assert_array_equal(ds.phase.values.T.ravel(), is_indexed)
    assert np.isnan(ds.microstructure.values[:, 1]).all()


def test_ebsd__raises_on_arguments_of_other_formats(tmp_path):
    for suffix, writer in WRITERS.items():
        writer(tmp_path / f"map{suffix}", *a_map())
    url = tmp_path / "map.zarr"
    with pytest.raises(ValueError, match="setting=1 is for EDAX"):
        import_ebsd(tmp_path / "map.ctf", url, setting=1)
    with pytest.raises(ValueError, match="setting must be one of"):
        import_ebsd(tmp_path / "map.ang", url, setting=5)
    with pytest.raises(ValueError, match="scan='a' names a scan"):
        import_ebsd(tmp_path / "map.ang", url, scan="a")
    with pytest.raises(ValueError, match=r"scan must be one of the scans in the file, \['Scan 1'\]"):
        import_ebsd(tmp_path / "map.h5", url, scan="Scan 2")
    with pytest.raises(ValueError, match="window must be one number of points, or two for x and y"):
        import_ebsd(tmp_path / "map.ang", url, window=(2, 2, 2))
    with pytest.raises(FileNotFoundError, match="is no file"):
        import_ebsd(tmp_path / "nothing.ang", url)
    (tmp_path / "map.crc").unlink()
    with pytest.raises(FileNotFoundError, match=r"a \.cpr and a \.crc"):
        import_ebsd(tmp_path / "map.cpr", url)
    (tmp_path / "map.xyz").write_text("")
    with pytest.raises(ValueError, match="is no EBSD map that is known"):
        import_ebsd(tmp_path / "map.xyz", url)


def test_ebsd__real_map_of_edax(tmp_path):
    path = real_data("ebsd/EdaxAngOnly.h5")
    ds = import_ebsd(path, tmp_path / "map.zarr")
    assert dict(ds.sizes) == {"x": 186, "y": 151, "angle": 3}
    assert_allclose(np.diff(ds.x), 1.5)
    assert_allclose(np.diff(ds.y), 1.5)
    assert ds.phase.attrs["phases"][1] == "Nickel"
    assert ds.microstructure.attrs["frame"] == "EDAX setting 2, stated in the file"
    with h5py.File(path) as file:
        data = file["Scan_1/EBSD/Data"]
        confidence, fit = data["CI"][:], data["Fit"][:]
        angles = np.stack([data[name][:] for name in ("Phi1", "Phi", "Phi2")], axis=-1)
    is_indexed = fit < 180
    assert_array_equal(ds.phase.values.T.ravel() == 1, is_indexed)
    assert_allclose(ds.confidence_index.values.T.ravel(), np.where(is_indexed, confidence, 0))
    # A1 is up and A2 left on the map: the plane's normal, crystal z, by hand.
    R = Rotation.from_euler("ZXZ", angles[is_indexed].astype(float)).as_matrix()
    ours = Rotation.from_euler(
        "ZXZ", ds.microstructure.values.transpose(1, 0, 2).reshape(-1, 3)[is_indexed].astype(float)
    )
    assert_allclose(ours.as_matrix(), np.stack([-R[:, 1], -R[:, 0], -R[:, 2]], axis=1), atol=1e-5)


def test_ebsd__real_map_of_oxford(tmp_path):
    path = real_data("ebsd/testDataEBSD.cpr")
    ds = import_ebsd(path, tmp_path / "map.zarr")
    assert dict(ds.sizes) == {"x": 359, "y": 243, "angle": 3}
    assert_allclose(np.diff(ds.x), 0.12)
    assert ds.phase.attrs == {"phases": ["not indexed", "Ni-superalloy"], "laue_groups": ["", "cubic"]}
    # The header says Coverage=94.1, in per cent.
    assert abs(100 * float((ds.phase > 0).mean()) - 94.1) < 0.1
    # Neighbours inside a grain have nearly the same orientation, which no fake one among them would.
    basis = GSHBasis(10, domain="cubic")
    mask = ds.confidence_index.values[None]
    f = correlate(ds.microstructure.values[None], basis, confidence_index=mask, cutoff=1, correlations=[(1, 1)])
    assert f[0, 2, 1, 0].real / f[0, 1, 1, 0].real > 0.9
    assert len(symmetry_rotations("cubic")) == 24
