"""EBSD maps of orix, AZtec, Esprit and later versions of OIM Analysis, with three axes too; and what tells kinds."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.transform import Rotation

from mksdask.bases.gsh import bunge_angles
from mksdask.importers import import_ebsd
from mksdask.importers.ebsd.files import is_ebsd
from tests.conftest import real_data
from tests.test_importers import (
    SHAPE,
    WRITERS,
    a_map,
    check_map,
    in_frame,
    positions,
    write_ang,
    write_ctf,
    write_edax_hdf5,
)

h5py = pytest.importorskip("h5py")

# With these seeds no angle of Oxford is larger than 2π.
SEEDS = (12, 16, 17)


def a_crystal_map(*, first=0, unit="um"):
    """A map as an object of orix, whose Euler angles refer to the axes of the map."""
    crystal_map = pytest.importorskip("orix.crystal_map", reason="orix is not installed (extra: orix)")
    quaternion = pytest.importorskip("orix.quaternion")
    rotations, phase, is_indexed = a_map()
    x, y = positions((0.5, 0.25))
    phases = crystal_map.PhaseList(names=["Nickel", "Titanium"], space_groups=[225, 194], ids=[first, first + 1])
    return crystal_map.CrystalMap(
        rotations=quaternion.Rotation.from_euler(bunge_angles(rotations)),
        phase_id=np.where(is_indexed, phase - 1 + first, -1),
        x=x,
        y=y,
        phase_list=phases,
        prop={"ci": np.full(35, 0.75)},
        scan_unit=unit,
    )


@pytest.mark.parametrize("first", [0, 1])
def test_orix__objects_and_their_files(tmp_path, first):
    io = pytest.importorskip("orix.io", reason="orix is not installed (extra: orix)")
    found = a_crystal_map(first=first)
    io.save(str(tmp_path / "map.h5"), found)
    for source in (found, tmp_path / "map.h5"):
        ds = import_ebsd(source, tmp_path / "map.zarr", mode="w")
        check_map(ds, *a_map())
        assert_allclose(ds.confidence_index.values[ds.phase.values > 0], 0.75)
        assert "assumed" in ds.microstructure.attrs["frame"]
        assert "not turned" in ds.microstructure.attrs["conversion"]
        windows = import_ebsd(source, tmp_path / "w.zarr", window=2, mode="w")
        assert windows.sizes["sample"] == 6
    assert is_ebsd(tmp_path / "map.h5")


def test_orix__what_is_no_map_is_refused(tmp_path):
    crystal_map = a_crystal_map()
    with pytest.raises(ValueError, match=r"setting must be one of .*, got 9"):
        import_ebsd(crystal_map, tmp_path / "map.zarr", setting=9)
    crystal_map._x = crystal_map._x + 0.1 * (np.arange(35) == 3)
    with pytest.raises(ValueError, match=r"the points do not lie on a grid with the step 0\.5 along x"):
        import_ebsd(crystal_map, tmp_path / "map.zarr")
    crystal_map._x = 0.5 * (np.arange(35) % 5)
    with pytest.raises(ValueError, match=r"several points lie at one place of the grid of 5 × 5 points"):
        import_ebsd(crystal_map, tmp_path / "map.zarr")


def test_orix__writes_ang_files(tmp_path):
    io = pytest.importorskip("orix.io", reason="orix is not installed (extra: orix)")
    io.save(str(tmp_path / "map.ang"), a_crystal_map(), confidence_index_prop="ci")
    ds = import_ebsd(tmp_path / "map.ang", tmp_path / "map.zarr", setting=4)
    turned = Rotation.from_euler("X", 180, degrees=True)
    rotations, phase, is_indexed = a_map()
    check_map(ds, turned * rotations, phase, is_indexed)
    # orix keeps the angles of the file, so that it must be told the same setting.
    again = import_ebsd(io.load(str(tmp_path / "map.ang")), tmp_path / "again.zarr", setting=4)
    assert_allclose(again.microstructure, ds.microstructure, atol=1e-5)
    assert_array_equal(again.phase, ds.phase)


def test_orix__parts_of_maps_and_units(tmp_path):
    whole = a_crystal_map(unit="nm")
    ds = import_ebsd(whole[1:4, 2:], tmp_path / "map.zarr")
    all_of_it = import_ebsd(whole, tmp_path / "whole.zarr")
    assert ds.x.attrs["units"] == "nm"
    assert_array_equal(ds.microstructure, all_of_it.microstructure[2:, 1:4])
    masked = import_ebsd(whole[whole.x < 2.4], tmp_path / "masked.zarr")
    assert_array_equal(masked.phase, all_of_it.phase[:5])
    with pytest.raises(ValueError, match="scan='a' names a scan"):
        import_ebsd(whole, tmp_path / "b.zarr", scan="a")


def write_h5oina(path, rotations, phase, is_indexed, *, turn=np.pi, step=(0.5, 0.25)):
    """As the specification of the format says, for a scan that is turned by 0 or π about the normal."""
    map_axes = ("x", "-y") if turn != 0 else ("-x", "y")
    angles = in_frame(rotations, map_axes)
    angles[phase == 2, 2] += np.pi / 6
    x, y = positions(step)
    with h5py.File(path, "w") as file:
        file["Format Version"], file["Index"] = b"5.0", np.array([b"1"])
        header, data = file.create_group("1/EBSD/Header"), file.create_group("1/EBSD/Data")
        for name, value in {"X Cells": SHAPE[0], "Y Cells": SHAPE[1], "X Step": step[0], "Y Step": step[1]}.items():
            header[name] = np.array([value])
        if turn is not None:
            header["Scanning Rotation Angle"] = np.array([turn], "f4")
        header["Specimen Orientation Euler"] = np.array([[0.1, 0.2, 0.3]])
        for number, name, group in ((1, b"Nickel", 11), (2, b"Titanium", 9)):
            header[f"Phases/{number}/Phase Name"] = np.array([name])
            header[f"Phases/{number}/Laue Group"] = np.array([group])
        data["Euler"], data["X"], data["Y"] = angles.astype("f4"), x.astype("f4"), y.astype("f4")
        # Every second point that is not indexed was filled in by software.
        odd = np.arange(len(phase)) % 2
        data["Phase"] = np.where(is_indexed, phase, phase * odd).astype("u1")[:, None]
        data["Error"] = np.where(is_indexed, 1, np.where(odd, 7, 2)).astype("u1")


@pytest.mark.parametrize("turn", [0.0, np.pi, np.nan, None])
def test_h5oina__each_turn_of_the_scan(tmp_path, turn):
    write_h5oina(tmp_path / "map.h5oina", *a_map(), turn=turn)
    ds = import_ebsd(tmp_path / "map.h5oina", tmp_path / "map.zarr")
    check_map(ds, *a_map())
    stated = turn is not None and not np.isnan(turn)
    assert ("stated" if stated else "assumed") in ds.microstructure.attrs["frame"]
    assert is_ebsd(tmp_path / "map.h5oina")


def test_h5oina__equals_the_ctf_of_the_same_map(tmp_path):
    write_h5oina(tmp_path / "map.h5oina", *a_map())
    write_ctf(tmp_path / "map.ctf", *a_map())
    one, other = (import_ebsd(tmp_path / f"map.{end}", tmp_path / f"{end}.zarr") for end in ("h5oina", "ctf"))
    assert_allclose(one.microstructure, other.microstructure, atol=1e-5)
    assert_array_equal(one.phase, other.phase)
    write_h5oina(tmp_path / "turned.h5oina", *a_map(), turn=0.3)
    with pytest.raises(ValueError, match=r"turned by 0\.3 radians about the normal"):
        import_ebsd(tmp_path / "turned.h5oina", tmp_path / "turned.zarr")


def write_bruker(path, rotations, phase, is_indexed, *, order=None, system=5, step=(0.5, 0.25)):
    angles = in_frame(rotations, ("-x", "y"))
    angles[phase == 2, 2] += np.pi / 6
    order = np.arange(len(phase)) if order is None else order
    rows, columns = np.divmod(order, SHAPE[0])
    with h5py.File(path, "w") as file:
        file["Manufacturer"] = b"Bruker Nano"
        header, data = file.create_group("Scan 0/EBSD/Header"), file.create_group("Scan 0/EBSD/Data")
        # The map was measured in a part of a larger one.
        for name, value in {"NCOLS": 20, "NROWS": 10, "XSTEP": step[0], "YSTEP": step[1]}.items():
            header[name] = value
        header["Grid Type"] = b"isometric"
        header["Coordinate Systems/ID"] = system
        for number, name, group in ((1, b"Nickel", 225), (2, b"Titanium", 194)):
            header[f"Phases/{number}/Name"], header[f"Phases/{number}/IT"] = name, group
        for position, name in enumerate(("phi1", "PHI", "phi2")):
            data[name] = np.rad2deg(angles[order, position]).astype("f4")
        data["Phase"] = np.where(is_indexed, phase, 0)[order].astype("i4")
        file["Scan 0/EBSD/SEM/IX"], file["Scan 0/EBSD/SEM/IY"] = columns + 3, rows + 4


@pytest.mark.parametrize("is_shuffled", [False, True])
@pytest.mark.parametrize("points", [8, 1000])
def test_bruker__records_in_any_order(tmp_path, is_shuffled, points, monkeypatch):
    monkeypatch.setattr("mksdask.importers.orientation_maps.BAND_POINTS", points)
    order = np.random.default_rng(1).permutation(35) if is_shuffled else None
    write_bruker(tmp_path / "map.h5", *a_map(), order=order)
    ds = import_ebsd(tmp_path / "map.h5", tmp_path / "map.zarr")
    check_map(ds, *a_map())
    assert ds.microstructure.attrs["frame"] == "Bruker coordinate system 5, stated in the file"


def test_bruker__what_is_not_known_is_refused(tmp_path):
    write_bruker(tmp_path / "map.h5", *a_map(), system=2)
    with pytest.raises(ValueError, match="coordinate system has the number 2, expected one of"):
        import_ebsd(tmp_path / "map.h5", tmp_path / "map.zarr")
    write_bruker(tmp_path / "map.h5", *a_map())
    with h5py.File(tmp_path / "map.h5", "a") as file:
        file["Scan 0/EBSD/SEM/IX"][0] = 19
    with pytest.raises(ValueError, match="the points fill no rectangle"):
        import_ebsd(tmp_path / "map.h5", tmp_path / "map.zarr")
    with h5py.File(tmp_path / "map.h5", "a") as file:
        del file["Scan 0/EBSD/SEM/IX"], file["Scan 0/EBSD/SEM/IY"]
        file["Scan 0/EBSD/SEM/IX"] = file["Scan 0/EBSD/SEM/IY"] = [1]
    with pytest.raises(ValueError, match="columns of 1 and the rows of 1 records, but there are 35 records"):
        import_ebsd(tmp_path / "map.h5", tmp_path / "map.zarr")
    write_bruker(tmp_path / "map.h5", *a_map())
    with h5py.File(tmp_path / "map.h5", "a") as file:
        del file["Scan 0/EBSD/Data/PHI"]
    with pytest.raises(ValueError, match="Scan 0/EBSD/Data has no PHI; it holds"):
        import_ebsd(tmp_path / "map.h5", tmp_path / "map.zarr")
    with h5py.File(tmp_path / "map.h5", "a") as file:
        del file["Scan 0/EBSD/Header/Grid Type"]
        file["Scan 0/EBSD/Header/Grid Type"] = "hexagonal"
    with pytest.raises(ValueError, match="on a grid 'hexagonal', expected a square one"):
        import_ebsd(tmp_path / "map.h5", tmp_path / "map.zarr")


def test_edax__nested_files_and_a_grid_beside_the_header(tmp_path):
    write_edax_hdf5(tmp_path / "map.h5", *a_map())
    with h5py.File(tmp_path / "map.h5") as old, h5py.File(tmp_path / "map.oh5", "w") as new:
        for name in ("Map 1", "Map 2"):
            old.copy("Scan 1", new.require_group("Project/Sample/Area 1"), name)
            scan = new[f"Project/Sample/Area 1/{name}"]
            for before, after in (
                ("nColumns", "Number Of Columns"),
                ("nRows", "Number Of Rows"),
                ("Step X", "Step X"),
                ("Step Y", "Step Y"),
                ("Grid Type", "Grid Type"),
            ):
                scan[f"Sample/{after}"] = scan[f"EBSD/Header/{before}"][()]
                del scan[f"EBSD/Header/{before}"]
    with pytest.raises(ValueError, match=r"scan must be one of .*'Project/Sample/Area 1/Map 1'"):
        import_ebsd(tmp_path / "map.oh5", tmp_path / "map.zarr")
    for scan in ("Map 2", "Project/Sample/Area 1/Map 1"):
        check_map(import_ebsd(tmp_path / "map.oh5", tmp_path / "map.zarr", scan=scan, mode="w"), *a_map())


@pytest.mark.parametrize(("name", "groups"), [("LGsymID", (43, 62)), ("SpaceGroupNumber", (225, 194))])
def test_edax__later_names_of_symmetries(tmp_path, name, groups):
    write_edax_hdf5(tmp_path / "map.oh5", *a_map())
    with h5py.File(tmp_path / "map.oh5", "a") as file:
        for number, group in enumerate(groups, start=1):
            phase = file[f"Scan 1/EBSD/Header/Phase/{number}"]
            del phase["Symmetry"]
            phase[name] = np.array([group])
    check_map(import_ebsd(tmp_path / "map.oh5", tmp_path / "map.zarr"), *a_map())


@pytest.mark.parametrize("numbers", [(0, 0), (0, 1)])
@pytest.mark.parametrize("points", [1, 1000])
def test_edax__what_0_means_in_a_map_of_one_phase(tmp_path, numbers, points, monkeypatch):
    # All points of one row have the number 0, so that a band may hold nothing else.
    monkeypatch.setattr("mksdask.importers.orientation_maps.BAND_POINTS", points)
    rotations, _, _ = a_map()
    phase = np.where(np.arange(35) < 7, *numbers)
    write_edax_hdf5(tmp_path / "map.oh5", rotations, phase, np.ones(35, bool))
    with h5py.File(tmp_path / "map.oh5", "a") as file:
        del file["Scan 1/EBSD/Header/Phase/2"]
    ds = import_ebsd(tmp_path / "map.oh5", tmp_path / "map.zarr")
    assert_array_equal(ds.phase.values.T.ravel(), phase if numbers == (0, 1) else 1)


def test_edax__maps_of_apex_are_refused(tmp_path):
    with h5py.File(tmp_path / "map.edaxh5", "w") as file:
        file["Project/Sample/Area 1/OIM Map 1/EBSD/ANG/DATA/DATA"] = np.zeros(3)
    with pytest.raises(ValueError, match="a map of EDAX APEX"):
        import_ebsd(tmp_path / "map.edaxh5", tmp_path / "map.zarr")


def test_ang__grids_with_a_sign_and_further_columns(tmp_path):
    write_ang(tmp_path / "map.ang", *a_map())
    text = (tmp_path / "map.ang").read_text().replace("SqrGrid", "SqrGrid#")
    lines = [line if line.startswith("#") else f"{line} 1.0 2.0 3.0" for line in text.splitlines()]
    (tmp_path / "map.ang").write_text("\n".join(lines))
    check_map(import_ebsd(tmp_path / "map.ang", tmp_path / "map.zarr"), *a_map())
    # Columns after that of the phase may be left out.
    lines = [line if line.startswith("#") else " ".join(line.split()[:8]) for line in lines]
    (tmp_path / "map.ang").write_text("\n".join(lines))
    check_map(import_ebsd(tmp_path / "map.ang", tmp_path / "map.zarr", mode="w"), *a_map())


def test_ctf__trailing_columns_may_be_left_out(tmp_path):
    write_ctf(tmp_path / "map.ctf", *a_map())
    lines = (tmp_path / "map.ctf").read_text().splitlines()
    start = len(lines) - 35
    lines[start:] = ["\t".join(line.split("\t")[:8]) for line in lines[start:]]
    (tmp_path / "map.txt").write_text("\n".join(lines))
    check_map(import_ebsd(tmp_path / "map.txt", tmp_path / "map.zarr"), *a_map())
    lines[-1] = "\t".join(lines[-1].split("\t")[:7])
    (tmp_path / "map.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"record 34, line 50, is .* expected 8 numbers"):
        import_ebsd(tmp_path / "map.txt", tmp_path / "map.zarr", mode="w")
    lines[start:] = ["\t".join(line.split("\t")[:6]) for line in lines[start:]]
    (tmp_path / "map.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"record 0, line 16, is .* expected at least 8 numbers"):
        import_ebsd(tmp_path / "map.txt", tmp_path / "map.zarr", mode="w")


def write_ctf_3d(path, n_layers, *, swapped=False):
    """Layers that are maps with other seeds."""
    texts = []
    for seed in SEEDS[:n_layers]:
        write_ctf(path, *a_map(seed))
        texts.append(path.read_text().splitlines())
    head, records = texts[0][:-35], [lines[-35:] for lines in texts]
    at = next(i for i, line in enumerate(head) if line.startswith("XStep"))
    head[at:at] = [f"ZCells\t{n_layers}", "ZStep\t1.5"]
    head[-1] = head[-1].replace("X\tY\t", "X\tY\tZ\t")
    for layer in reversed(range(n_layers)) if swapped else range(n_layers):
        for line in records[layer]:
            words = line.split("\t")
            head.append("\t".join([*words[:3], str(layer * 1.5), *words[3:]]))
    path.write_text("\n".join(head))


@pytest.mark.parametrize("points", [1, 80, 10000])
def test_ctf__maps_with_three_axes(tmp_path, points, monkeypatch):
    monkeypatch.setattr("mksdask.importers.orientation_maps.BAND_POINTS", points)
    write_ctf_3d(tmp_path / "map.ctf", 3)
    ds = import_ebsd(tmp_path / "map.ctf", tmp_path / "map.zarr")
    assert dict(ds.sizes) == {"x": 7, "y": 5, "z": 3, "angle": 3}
    assert_allclose(ds.z, [0, 1.5, 3.0])
    for layer in range(3):
        check_map(ds.isel(z=layer, drop=True), *a_map(SEEDS[layer]))
    with pytest.raises(ValueError, match="window=2 cuts maps with two axes"):
        import_ebsd(tmp_path / "map.ctf", tmp_path / "w.zarr", window=2)
    write_ctf_3d(tmp_path / "map.ctf", 3, swapped=True)
    with pytest.raises(ValueError, match=r"lies at z = .* expected layers 1\.5 apart"):
        import_ebsd(tmp_path / "map.ctf", tmp_path / "map.zarr", mode="w")


def test_kinds__are_told_by_what_files_hold(tmp_path):
    for suffix, writer in WRITERS.items():
        writer(tmp_path / f"map{suffix}", *a_map())
        assert is_ebsd(tmp_path / f"map{suffix}")
    (tmp_path / "map.ang").rename(tmp_path / "scan.txt")
    assert is_ebsd(str(tmp_path / "scan.txt"))
    check_map(import_ebsd(tmp_path / "scan.txt", tmp_path / "map.zarr"), *a_map())
    with h5py.File(tmp_path / "image.h5", "w") as file:
        file["EBSD/Data/image"] = np.zeros((3, 4))
    (tmp_path / "text.txt").write_text("# something else\n1 2 3\n")
    for name in ("image.h5", "text.txt", "nothing.h5", "."):
        assert not is_ebsd(tmp_path / name)
    assert not is_ebsd([tmp_path / "map.ctf"])


def test_kinds__real_maps(tmp_path):
    assert is_ebsd(real_data("ebsd/EdaxAngOnly.h5"))
    assert is_ebsd(real_data("ebsd/testDataEBSD.cpr"))
