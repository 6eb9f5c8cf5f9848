"""Damaged blocks of results are computed again, and nothing else is touched."""

import json
import re

import dask.array as da
import numpy as np
import pytest
from click.testing import CliRunner

from mksdask import (
    MKSHomogenizationModel,
    MKSLocalizationModel,
    MKSStructureAnalysis,
    PrimitiveBasis,
    create_ensemble,
    create_volume,
    open_ensemble,
    repair,
    save_model,
    verify,
)
from mksdask.cli import main
from mksdask.cli.repairs import recipe_in
from mksdask.datasets import make_microstructure, mean_stress
from mksdask.stats import correlate
from mksdask.storage import materialize
from mksdask.storage.atomic import Location, attributes_of, seal

X = make_microstructure(n_samples=24, size=(9, 8), grain_size=(3, 2), seed=1)
BASIS = PrimitiveBasis(2)


def objects(url, name=""):
    return sorted(path for path in (url / name).rglob("*") if path.is_file() and path.name != "zarr.json")


def flip(path, position=20):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


DAMAGE = {
    "flipped byte": flip,
    "flipped checksum": lambda path: flip(path, -1),
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.fixture
def lazy(tmp_path):
    create_ensemble(tmp_path / "e.zarr", X, X.mean(axis=(1, 2)), chunks=4)
    return open_ensemble(tmp_path / "e.zarr").microstructure


@pytest.fixture
def url(tmp_path, lazy):
    materialize(correlate(lazy, BASIS), tmp_path / "f.zarr", progress=False)
    return tmp_path / "f.zarr"


@pytest.mark.parametrize("kind", DAMAGE)
def test_repair__writes_the_same_bytes_and_touches_nothing_else(url, lazy, kind):
    found = objects(url)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in [*found, *url.rglob("zarr.json")]}
    damaged = [objects(url, "two_point_statistics")[3], objects(url, "lag_x")[0]]
    for path in damaged:
        DAMAGE[kind](path)
    assert len(repair(url, correlate(lazy, BASIS))) == 2
    assert verify(url).is_sound
    for path, (content, time) in before.items():
        assert path.read_bytes() == content
        assert path in damaged or path.stat().st_mtime_ns == time
    assert objects(url) == found
    assert repair(url, correlate(lazy, BASIS)) == ()


def test_repair__of_responses_and_scores(tmp_path, lazy):
    analysis = MKSStructureAnalysis(BASIS, n_components=2).fit(lazy)
    made = {
        "scores": analysis.transform(lazy),
        "responses": mean_stress(lazy, elastic_modulus=(1, 2), poissons_ratio=(0.3, 0.3)),
        "shards": da.ones((8, 4), chunks=(4, 4)) * 2,
    }
    for name, values in made.items():
        materialize(values, tmp_path / name, progress=False)
        path = max(objects(tmp_path / name), key=lambda path: path.stat().st_size)
        content = path.read_bytes()
        flip(path)
        assert len(repair(tmp_path / name, values)) == 1
        assert path.read_bytes() == content


def test_repair__refuses_what_is_not_the_same(tmp_path, url, lazy, monkeypatch):
    path = objects(url, "two_point_statistics")[3]
    flip(path)
    damaged = path.read_bytes()
    with pytest.raises(ValueError, match="holds a result of other inputs or parameters: computation"):
        repair(url, correlate(lazy, BASIS, periodic_axes=[0]))
    with monkeypatch.context() as patch:
        # Other numbers under the same name, as those of another version of a library.
        patch.setattr("mksdask.stats.kernel.CorrelationKernel.__call__", lambda *given: np.zeros((4, 9, 8, 2), "f4"))
        with pytest.raises(
            ValueError, match=r"two_point_statistics/c/3.* that is computed now is not the one that was"
        ):
            repair(url, correlate(lazy, BASIS))
    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("mksdask.storage.repairs.libraries", lambda: {"numpy": "0.1", "pyfftw": "0.15"})
        with pytest.raises(ValueError, match="cannot be proven to be the one that was stored, which was computed with"):
            repair(url, correlate(lazy, BASIS))
    assert not path.exists()
    path.write_bytes(damaged)
    create_ensemble(tmp_path / "e.zarr", X, X.mean(axis=(1, 2)), chunks=4, mode="w")
    with pytest.raises(ValueError, match=r"e.zarr was changed or replaced since then"):
        repair(url, correlate(open_ensemble(tmp_path / "e.zarr").microstructure, BASIS))
    assert path.read_bytes() == damaged
    with pytest.raises(ValueError, match="is marked as 'ensemble', and only results can be computed again; restore"):
        repair(tmp_path / "e.zarr", lazy)
    metadata = url / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"writes": 2', '"writes": 3'))
    with pytest.raises(ValueError, match=r"is damaged: zarr\.json"):
        repair(url, correlate(lazy, BASIS))


def run(*line):
    return CliRunner().invoke(main, [*map(str, line), "--workers", "1"])


def test_recipe__that_no_command_recorded(tmp_path, url, lazy):
    place = Location.of(url)
    attributes = attributes_of(place)
    store = str(tmp_path / "e.zarr")
    recipe = {"operation": "stats", "store": store, "states": 2, "pairs": None, "cutoff": None, "periodic": None}
    for wrong, told in (
        ({}, "does not say how it was computed, as results of"),
        ({"recipe": recipe}, "holds memory_limit=None, which no command of mksdask has recorded"),
        ({"recipe": recipe | {"operation": "os.system"}}, "no command of mksdask has recorded"),
        ({"recipe": recipe | {"memory_limit": 2**31, "cutoff": "__import__('os')"}}, "cutoff=\"__import__('os')\""),
        (
            {"recipe": recipe | {"memory_limit": 2**31, "store": "/etc/hosts"}},
            "the store /etc/hosts, which was changed",
        ),
    ):
        seal(place, attributes | {"provenance": attributes["provenance"] | wrong})
        with pytest.raises(ValueError, match=re.escape(told)):
            recipe_in(url)


@pytest.mark.parametrize(
    "line",
    [
        ("stats", "e.zarr", "out.zarr", "--cutoff", "2", "--states", "2"),
        ("stats", "v.zarr", "out.zarr", "--cutoff", "3", "--states", "2"),
        ("predict", "h.zarr", "e.zarr", "out.zarr", "--std"),
        ("localize", "l.zarr", "e.zarr", "out.zarr"),
    ],
    ids=["statistics", "volume", "predict", "localize"],
)
def test_command__repairs_a_result_on_a_cluster(tmp_path, lazy, run, line):
    if "v.zarr" in line:
        create_volume(tmp_path / "v.zarr", X.reshape(24, 9, 8))
    elif "h.zarr" in line:
        model = MKSHomogenizationModel(BASIS, n_components=2).fit(lazy, open_ensemble(tmp_path / "e.zarr").response)
        save_model(model, tmp_path / "h.zarr")
    elif "l.zarr" in line:
        save_model(MKSLocalizationModel(BASIS).fit(lazy, lazy.astype(float) ** 2), tmp_path / "l.zarr")
    run(*line)
    before = {path: path.read_bytes() for path in objects(tmp_path / "out.zarr")}
    flip(max(before, key=lambda path: path.stat().st_size))
    assert len(run("repair", "out.zarr")["repaired"]) == 1
    assert {path: path.read_bytes() for path in objects(tmp_path / "out.zarr")} == before
    assert run("repair", "out.zarr")["repaired"] == []


@pytest.mark.slow
def test_command__repairs_what_commands_wrote(tmp_path, lazy):
    volume = make_microstructure(n_samples=1, size=(20, 18, 16), grain_size=(3, 2, 2), seed=1)[0]
    create_volume(tmp_path / "v.zarr", volume)
    ensemble = open_ensemble(tmp_path / "e.zarr")
    save_model(MKSHomogenizationModel(BASIS, n_components=2).fit(lazy, ensemble.response), tmp_path / "h.zarr")
    save_model(MKSLocalizationModel(BASIS).fit(lazy, lazy.astype(float) ** 2), tmp_path / "l.zarr")
    at = {name: tmp_path / f"{name}.zarr" for name in "evhl"}
    for number, line in enumerate(
        (
            ("stats", at["e"], "OUT", "--cutoff", "2", "--states", "2"),
            ("stats", at["v"], "OUT", "--cutoff", "3", "--pairs", "0-0,0-1", "--states", "2"),
            ("stats", at["v"], "OUT"),
            ("predict", at["h"], at["e"], "OUT", "--std"),
            ("localize", at["l"], at["e"], "OUT"),
        )
    ):
        out = tmp_path / f"out{number}.zarr"
        result = run(*(out if part == "OUT" else part for part in line))
        assert result.exit_code == 0, result.output
        before = {path: path.read_bytes() for path in objects(out)}
        paths = sorted(before, key=lambda path: path.stat().st_size)
        flip(paths[-1])
        paths[0].unlink()
        result = run("repair", out, "--json")
        assert result.exit_code == 0, result.output
        assert len(json.loads(result.stdout)["repaired"]) == 2
        assert {path: path.read_bytes() for path in objects(out)} == before
        assert str(at["v" if at["v"] in line else "e"]) in attributes_of(Location.of(out))["provenance"]["inputs"]
    create_volume(tmp_path / "v.zarr", volume, mode="w")
    flip(objects(tmp_path / "out1.zarr", "correlations")[0])
    result = run("repair", tmp_path / "out1.zarr")
    assert "v.zarr, which was changed, replaced or removed since then" in result.output
    assert sorted(tmp_path.glob("*.sums*")) == []
