"""What stores record of how they were made, and steps that are complete and are called again."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_array_equal

from mksdask import append_ensemble, create_ensemble, create_volume, open_ensemble, open_volume
from mksdask.cli import main
from mksdask.importers import import_images
from mksdask.storage import materialize
from mksdask.storage.atomic import Location, attributes_of
from mksdask.storage.opening import open_array
from mksdask.storage.sources import chain_of

X = np.random.default_rng(0).integers(0, 2, (12, 6, 7)).astype(np.uint8)


def made(url):
    return attributes_of(Location.of(url))["provenance"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(line):
        return CliRunner().invoke(main, line.split())

    return call


@pytest.mark.slow
def test_commands__complete_steps_are_done_and_their_chain_leads_to_the_scan(run, tmp_path):
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).integers(0, 2, (48, 32, 32)).astype(np.uint8))
    np.savetxt(tmp_path / "y.csv", np.arange(24.0), header="y", comments="")
    on = "--resume --workers 1"
    steps = (
        "import scan.npy s.zarr --axes xyz --phases 0:pore,1:grain --window 16x16x8",
        "stats s.zarr f.zarr --cutoff 3",
        "fit s.zarr m.zarr --response y.csv --components 2",
        "predict m.zarr s.zarr p.zarr",
        "predict m.zarr s.zarr p.csv",
    )
    found = {}
    for _ in range(2):
        for step in steps:
            result = run(f"{step} {on} --json")
            assert result.exit_code == 0, result.output
            told = json.loads(result.stdout.splitlines()[-1])
            told.pop("seconds")
            assert found.setdefault(step, told) == told
    described = json.loads(run("info p.zarr --json").stdout)["made"]
    assert [line.split(":")[0].split("/")[-1] for line in described] == [
        *("p.zarr", "m.zarr", "s.zarr", "scan.npy", "y.csv", "s.zarr", "scan.npy")
    ]
    typed = set(re.findall(r"--\S+ \S+", described[2]))
    assert typed >= {"--axes xyz", "--phases 0:pore,1:grain", "--window 16x16x8", "--as slices"}
    assert "--components 2" in described[1]
    # Another step with the same output is refused, and a changed scan is seen in the chain.
    for line in ("fit s.zarr m.zarr --response y.csv --components 3", "import scan.npy s.zarr --axes xyz --window 16"):
        assert run(f"{line} {on}").exit_code != 0
    np.save(tmp_path / "scan.npy", np.zeros((48, 32, 32), np.uint8))
    assert run("info p.zarr").stdout.count("scan.npy (changed or removed since)") == 2


@pytest.mark.parametrize("kind", ["ensemble", "volume", "import"])
def test_create__with_resume_takes_a_complete_store_as_done(tmp_path, kind):
    url = tmp_path / "s.zarr"
    np.save(tmp_path / "x.npy", X)
    calls = {
        "ensemble": lambda values: create_ensemble(url, values, chunks=4, resume=True),
        "volume": lambda values: create_volume(url, values, chunks=4, resume=True),
        "import": lambda values: import_images(
            tmp_path / "x.npy", url, axes="xyz", thresholds=float(values[0, 0, 0]), resume=True
        ),
    }
    calls[kind](X)
    stamp = attributes_of(Location.of(url))["stamp"]
    calls[kind](X)
    assert attributes_of(Location.of(url))["stamp"] == stamp
    with pytest.raises(FileExistsError, match=r"s.zarr exists; choose another url"):
        calls[kind](X + 1)


def test_store__that_was_appended_to_is_not_what_create_makes(tmp_path):
    url = tmp_path / "e.zarr"
    create_ensemble(url, X, chunks=4, resume=True)
    append_ensemble(url, X[:2])
    assert [each["samples"] for each in made(url)["appended"]] == [2]
    with pytest.raises(FileExistsError, match=r"e.zarr exists"):
        create_ensemble(url, X, chunks=4, resume=True)


def test_result__names_its_inputs_and_equal_chains_are_equal_to_the_last_bit(tmp_path):
    create_ensemble(tmp_path / "e.zarr", X, chunks=4)
    for name in ("a", "b"):
        lazy = open_ensemble(tmp_path / "e.zarr").microstructure.astype(float).mean("x")
        materialize(lazy, tmp_path / f"{name}.zarr", progress=False)
    first, second = made(tmp_path / "a.zarr"), made(tmp_path / "b.zarr")
    stamp = attributes_of(Location.of(tmp_path / "e.zarr"))["stamp"]
    assert first["inputs"] == {str(tmp_path / "e.zarr"): stamp}
    assert first["computation"] == second["computation"]
    assert {"numpy", "dask", "zarr", "scipy"} <= set(first["libraries"])
    a, b = (open_array(Location.of(tmp_path / f"{name}.zarr"), "microstructure")[...] for name in "ab")
    assert a.tobytes() == b.tobytes()
    lines = list(chain_of(tmp_path / "a.zarr"))
    assert len(lines) == 2
    assert lines[1].startswith(f"  {tmp_path}/e.zarr: ensemble")
    create_ensemble(tmp_path / "e.zarr", X + 1, chunks=4, mode="w")
    assert list(chain_of(tmp_path / "a.zarr"))[1].startswith(f"  {tmp_path}/e.zarr (changed or removed since)")
    assert_array_equal(open_ensemble(tmp_path / "e.zarr").microstructure, X + 1)


def test_import__records_its_files(tmp_path):
    np.save(tmp_path / "x.npy", X)
    import_images(tmp_path / "x.npy", tmp_path / "v.zarr", axes="xyz", thresholds=1)
    found = made(tmp_path / "v.zarr")
    assert list(found["inputs"]) == [str(tmp_path / "x.npy")]
    assert found["call"] == "import_images"
    assert open_volume(tmp_path / "v.zarr").microstructure.sizes["x"] == 12
