"""Colours of orientations: symmetry, the corners of the key, the colours of orix, and pictures of EBSD stores."""

import base64
import io
import json

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy.spatial.transform import Rotation

from mksdask import open_volume
from mksdask.bases.gsh import LAUE_GROUPS, bunge_angles, symmetry_rotations
from mksdask.cli import main
from mksdask.display.orientations import phase_ipf_colours
from mksdask.importers import import_ebsd
from mksdask.tools import draw_microstructures, ipf_colours, show_volume
from tests.conftest import real_data
from tests.test_importers import a_map, write_ang, write_ctf

RANDOM = Rotation.random(400, random_state=0)


@pytest.mark.parametrize("group", LAUE_GROUPS)
def test_colours__are_the_same_for_equivalent_orientations(group):
    colours = ipf_colours(bunge_angles(RANDOM), group)
    for turn in symmetry_rotations(group):
        assert_allclose(ipf_colours(bunge_angles(RANDOM * turn), group), colours, atol=1e-9)
    # The Laue group has an inversion.
    assert_allclose(ipf_colours(bunge_angles(RANDOM), group, (0, 0, -1)), colours, atol=1e-9)
    assert_allclose(colours.max(axis=-1), 1)
    assert colours.min() >= 0
    with pytest.raises(ValueError, match="laue_group must be one of"):
        ipf_colours(np.zeros(3), "round")


@pytest.mark.parametrize(
    ("group", "axis", "colour"),
    [
        ("cubic", [0, 0, 1], [1, 0, 0]),
        ("cubic", [1, 0, 1], [0, 1, 0]),
        ("cubic", [1, -1, 1], [0, 0, 1]),
        ("hexagonal", [0, 0, 1], [1, 0, 0]),
        ("hexagonal", [1, 0, 0], [0, 1, 0]),
        ("hexagonal", [np.sqrt(3), 1, 0], [0, 0, 1]),
        ("tetragonal", [0, 1, 0], [0, 1, 0]),
        ("tetragonal", [1, 1, 0], [0, 0, 1]),
        ("orthorhombic", [0, 1, 0], [0, 0, 1]),
    ],
)
def test_colours__of_the_corners(group, axis, colour):
    # A rotation that brings the axis of the crystal to z of the sample, by hand: any turn about z after it.
    unit = np.array(axis) / np.linalg.norm(axis)
    for turn in (0.0, 1.1):
        rotation = Rotation.from_euler("z", turn) * Rotation.align_vectors([[0, 0, 1]], [unit])[0]
        assert_allclose(ipf_colours(bunge_angles(rotation), group), colour, atol=1e-6)


@pytest.mark.parametrize("group", [group for group in LAUE_GROUPS if group != "cubic-low"])
@pytest.mark.parametrize("direction", [(0, 0, 1), (1, 0, 0), (1, 2, 3)])
def test_colours__are_near_to_those_of_orix(group, direction):
    plot = pytest.importorskip("orix.plot", reason="orix is not installed (extra: orix)")
    quaternion = pytest.importorskip("orix.quaternion")
    vector = pytest.importorskip("orix.vector")
    names = ("Ci", "C2h", "D2h", "C4h", "D4h", "S6", "D3d", "C6h", "D6h", "Th", "Oh")
    symmetry = getattr(quaternion.symmetry, dict(zip(LAUE_GROUPS, names, strict=True))[group])
    angles = bunge_angles(RANDOM)
    key = plot.IPFColorKeyTSL(symmetry, direction=vector.Vector3d(direction))
    theirs = key.orientation2color(quaternion.Orientation.from_euler(angles, symmetry=symmetry))
    # Of two random keys, the mean difference is 0.4.
    assert np.abs(theirs - ipf_colours(angles, group, direction)).mean() < (0.12 if group == "monoclinic" else 0.07)


def test_colours__of_several_phases():
    angles, phase = bunge_angles(RANDOM), np.arange(400) % 3
    angles[phase == 0] = np.nan
    colours = phase_ipf_colours(angles, phase, ["", "cubic", "hexagonal"])
    assert_array_equal(colours[phase == 0], 0)
    assert_array_equal(colours[phase == 2], ipf_colours(angles[phase == 2], "hexagonal"))
    with pytest.raises(ValueError, match="give the phase of each point"):
        phase_ipf_colours(angles, None, ["", "cubic", "hexagonal"])


def pixels(html):
    source = html.split('src="data:image/png;base64,')[1].split('"')[0]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))


def test_pictures__of_a_store_are_orientation_maps(tmp_path):
    write_ctf(tmp_path / "map.ctf", *a_map())
    ds = import_ebsd(tmp_path / "map.ctf", tmp_path / "map.zarr")
    colours = phase_ipf_colours(ds.microstructure.values, ds.phase.values, ["", "cubic", "hexagonal"])
    shown = pixels(ds.mks._repr_html_())
    assert_array_equal(shown, (colours.swapaxes(0, 1) * 255).astype("u1"))
    image = ds.mks.plot().axes[0].images[0]
    assert_allclose(image.get_array(), colours.swapaxes(0, 1))
    facts = ds.mks.describe(fractions=True)
    assert facts["phases"] == ["not indexed", "Nickel", "Titanium"]
    assert facts["fractions"]["Nickel"] == float((ds.phase == 1).mean())
    # The orientations alone do not tell their phases.
    assert "<img" not in ds.microstructure.mks._repr_html_()
    with pytest.raises(ValueError, match="give the phase of each point"):
        draw_microstructures(ds.microstructure.expand_dims("sample"))
    windows = import_ebsd(tmp_path / "map.ctf", tmp_path / "w.zarr", window=2)
    assert windows.mks._repr_html_().count("<img") == 4
    assert len(windows.mks.plot().axes) == 4


def test_pictures__of_arrays():
    angles = bunge_angles(Rotation.random(3 * 24, random_state=1)).reshape(3, 2, 3, 4, 3)
    figure = draw_microstructures(angles, laue_groups="hexagonal")
    assert len(figure.axes) == 9
    assert_allclose(figure.axes[0].images[0].get_array(), ipf_colours(angles, "hexagonal")[0, :, :, 2].swapaxes(0, 1))
    assert "hexagonal: red c" in figure.get_supxlabel()
    assert len(draw_microstructures(angles[:, 0, 0], laue_groups="cubic").axes) == 3
    labelled = xr.DataArray(angles[0], dims=("x", "y", "z", "angle"), attrs={"laue_groups": ["", "hexagonal"]})
    plot = show_volume(labelled)
    assert plot.objects[0].voxels.shape == (4, 3, 2)
    assert plot.objects[0].voxels.min() > 0
    red = int(plot.objects[0].voxels[0, 0, 0]) - 1
    assert abs((plot.objects[0].color_map[red] >> 16) / 255 - ipf_colours(angles[0, 0, 0, 0], "hexagonal")[0]) < 0.11


@pytest.mark.slow
def test_command__imports_maps_and_refuses_options_of_images(tmp_path):
    path = real_data("ebsd/EdaxAngOnly.h5")
    run = CliRunner().invoke
    result = run(main, ["import", str(path), str(tmp_path / "map.zarr"), "--json", "--window", "50"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert (found["kind"], found["samples"], found["size"]) == ("ensemble", 9, [50, 50])
    assert found["phases"] == ["not indexed", "Nickel"]
    assert found["frame"] == "EDAX setting 2, stated in the file"
    told = run(main, ["info", str(tmp_path / "map.zarr"), "--figure", str(tmp_path / "map.png"), "--json"])
    assert json.loads(told.stdout)["figure"] == str(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    refused = run(main, ["plan", "stats", str(tmp_path / "map.zarr")])
    assert "the store holds orientations" in refused.output
    assert "GSHBasis" in refused.output
    for options, message in (
        (["--phases", "0:pore"], "--phases does not apply to EdaxAngOnly.h5, which is an EBSD map"),
        (["--scan", "other"], "scan must be one of the scans in the file"),
        (["--setting", "9"], "9 is not in the range"),
    ):
        result = run(main, ["import", str(path), str(tmp_path / "b.zarr"), *options])
        assert result.exit_code != 0
        assert message in result.output
    np.save(tmp_path / "image.npy", np.zeros((4, 4)))
    result = run(main, ["import", str(tmp_path / "image.npy"), str(tmp_path / "b.zarr"), "--setting", "2"])
    assert "--setting does not apply to image.npy, which is no EBSD map" in result.output
    write_ang(tmp_path / "map.ang", *a_map(), setting=3)
    result = run(main, ["import", str(tmp_path / "map.ang"), str(tmp_path / "c.zarr"), "--setting", "3", "--overwrite"])
    assert result.exit_code == 0, result.output
    assert open_volume(tmp_path / "c.zarr").microstructure.attrs["frame"] == "EDAX setting 3, given"
    hexagonal = ["import", str(tmp_path / "map.ang"), str(tmp_path / "d.zarr"), "--hexagonal", "nearest"]
    assert "--hexagonal nearest is for hexagonal grids" in " ".join(run(main, hexagonal).output.split())
    (tmp_path / "map.ang").write_text((tmp_path / "map.ang").read_text().replace("SqrGrid", "HexGrid"))
    result = run(main, hexagonal)
    assert "lies at x = 0, expected 0.25" in " ".join(result.output.split())
