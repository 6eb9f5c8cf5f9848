"""The stages of the matrix of faults, their inputs, and what happens to these inputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import mksdask.importers.sources as files
from mksdask import (
    MKSHomogenizationModel,
    MKSLocalizationModel,
    MKSStructureAnalysis,
    PrimitiveBasis,
    append_ensemble,
    create_ensemble,
    create_volume,
    load_model,
    open_ensemble,
    open_volume,
    save_model,
)
from mksdask.datasets import effective_stiffness, solve_fields
from mksdask.descriptors import ShapeDescriptors
from mksdask.importers import import_images
from mksdask.stats import correlate, correlate_volume
from mksdask.stats.windows import sample_windows
from mksdask.storage import materialize

BASIS = PrimitiveBasis(2)
SHAPE, CHUNK, EDGE = (24, 12, 12), 2, 24
PHASES = {"elastic_modulus": [100.0, 200.0], "poissons_ratio": [0.3, 0.3]}


def ensemble(at: str) -> Any:
    return open_ensemble(f"{at}/e.zarr").microstructure


def volume(at: str) -> Any:
    return open_volume(f"{at}/v.zarr").microstructure


def kept(at: str, lazy: Any) -> Any:
    return materialize(lazy, f"{at}/out.zarr", progress=False)


def create(at: str) -> Any:
    create_ensemble(f"{at}/out.zarr", ensemble(at), chunks=CHUNK, resume=True)
    return open_ensemble(f"{at}/out.zarr").microstructure


def append(at: str) -> Any:
    url = f"{at}/grown.zarr"
    if open_ensemble(url).sizes["sample"] == CHUNK:
        append_ensemble(url, ensemble(at))
    return open_ensemble(url).microstructure


def volume_copy(at: str) -> Any:
    create_volume(f"{at}/out.zarr", volume(at), chunks=EDGE // 3, resume=True)
    return open_volume(f"{at}/out.zarr").microstructure


def imported(at: str) -> Any:
    files.SLAB_BYTES = 4 * EDGE**2
    import_images(f"{at}/scan.npy", f"{at}/out.zarr", axes="xyz", resume=True)
    return open_volume(f"{at}/out.zarr").microstructure


def analysis(at: str) -> Any:
    model = MKSStructureAnalysis(BASIS, n_components=2, scratch=f"{at}/scratch")
    return model.fit(ensemble(at), resume=True).reduced_fit_data


def linkage(at: str) -> Any:
    model = MKSHomogenizationModel(BASIS, n_components=2, scratch=f"{at}/scratch")
    found = open_ensemble(f"{at}/e.zarr")
    return model.fit(found.microstructure, found.response, resume=True).predict(np.asarray(found.microstructure[:4]))


def localization(at: str) -> Any:
    X = ensemble(at)
    return MKSLocalizationModel(BASIS).fit(X, X.astype(float)).coef_


STAGES: dict[str, Callable[[str], Any]] = {
    "create": create,
    "append": append,
    "create volume": volume_copy,
    "import": imported,
    "correlate": lambda at: kept(at, correlate(ensemble(at), BASIS)),
    "tile sums": lambda at: correlate_volume(volume(at), BASIS, cutoff=4, scratch=f"{at}/out.zarr"),
    "all lags": lambda at: correlate_volume(volume(at), BASIS, cutoff=None, scratch=f"{at}/out.zarr"),
    "windows": lambda at: kept(at, sample_windows(volume(at), size=6, n=24, chunks=2, seed=1)),
    "descriptors": lambda at: kept(at, ShapeDescriptors().fit_transform(ensemble(at))),
    "analysis": analysis,
    "linkage": linkage,
    "predict": lambda at: kept(at, load_model(f"{at}/m.zarr").predict(ensemble(at))),
    "calibrate": localization,
    "localize": lambda at: kept(at, load_model(f"{at}/l.zarr").predict(ensemble(at))),
    "fields": lambda at: kept(at, solve_fields(ensemble(at), **PHASES).strain),
    "stiffness": lambda at: kept(at, effective_stiffness(ensemble(at), **PHASES)),
}


def prepare(base: Path) -> None:
    """Make the inputs of all stages."""
    rng = np.random.default_rng(0)
    X, V = rng.integers(0, 2, SHAPE).astype(np.uint8), rng.integers(0, 2, (EDGE,) * 3).astype(np.uint8)
    create_ensemble(base / "e.zarr", X, X.mean(axis=(1, 2)), chunks=CHUNK)
    create_ensemble(base / "grown.zarr", X[:CHUNK], chunks=CHUNK)
    create_volume(base / "v.zarr", V, chunks=EDGE // 3)
    np.save(base / "scan.npy", V)
    save_model(MKSHomogenizationModel(BASIS, n_components=2).fit(X, X.mean(axis=(1, 2))), base / "m.zarr")
    save_model(MKSLocalizationModel(BASIS).fit(X, X.astype(float)), base / "l.zarr")


def inputs_of(stage: str) -> str:
    """The input of a stage that is damaged or changed."""
    return {"import": "scan.npy", **dict.fromkeys(("create volume", "tile sums", "all lags", "windows"), "v.zarr")}.get(
        stage, "e.zarr"
    )


def damage(path: Path, how: str) -> None:
    """Damage a file in the middle of an input: a chunk of a store, or the file itself."""
    chunks = sorted(each for each in path.rglob("microstructure/c/*") if each.is_file() or each.is_symlink())
    chunks = chunks or sorted(each for each in path.rglob("microstructure/c/**/*") if each.is_file())
    target = chunks[len(chunks) // 2] if chunks else path
    data = bytearray(target.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 4
    target.write_bytes({"flipped": bytes(data), "cut": bytes(data[: len(data) // 2]), "emptied": b""}.get(how, b""))
    if how == "deleted":
        target.unlink()


def change(at: Path | str, stage: str) -> None:
    """Replace the input by another one of the same shape. The place may be that of a bucket."""
    rng = np.random.default_rng(1)
    X, V = rng.integers(0, 2, SHAPE).astype(np.uint8), rng.integers(0, 2, (EDGE,) * 3).astype(np.uint8)
    name = inputs_of(stage)
    if name == "e.zarr":
        create_ensemble(f"{at}/{name}", X, X.mean(axis=(1, 2)), chunks=CHUNK, mode="w")
    elif name == "v.zarr":
        create_volume(f"{at}/{name}", V, chunks=EDGE // 3, mode="w")
    else:
        np.save(Path(at) / name, V)
