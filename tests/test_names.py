"""Names of computations depend on data, parameters and fitted numbers alone, so that every process gives the same."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from mksdask import GSHBasis
from mksdask.compute.graph import token_of

SCRIPT = """
    import json, sys
    from pathlib import Path
    import dask.array as da, numpy as np
    from sklearn.linear_model import Ridge
    from mksdask import (
        FourierBasis, GSHBasis, LegendreBasis, MKSHomogenizationModel, MKSLocalizationModel, MKSStructureAnalysis,
        PrimitiveBasis, create_ensemble, create_volume, load_model, open_ensemble, open_volume,
        sample_windows, save_model, plan,
    )
    from mksdask.compute.graph import token_of
    from mksdask.datasets import (
        MicrostructureGenerator, effective_stiffness, make_delta_microstructures,
        make_elastic_FE_strain_random, make_microstructure, make_polycrystal, mean_stress, solve_fields,
    )
    from mksdask.descriptors import ShapeDescriptors
    from mksdask.reduction import PCA, IncrementalPCA
    from mksdask.regression import KernelRegressor
    from mksdask.simulation import effective_expansion
    from mksdask.stats import (
        TwoPointStatistics, chord_lengths, correlate, correlate3, correlate_clusters, correlate_surfaces,
        correlate_volume, correlate_volume3, correlate_volume_clusters, correlate_volume_surfaces,
        distance_map, label_clusters, lineal_path, local_thickness, pair_correlation, radial_average, reconstruct,
    )
    from mksdask.texture import (
        misorientation_density, odf, pole_figure, texture_coefficients, volume_misorientation_density,
        volume_texture_coefficients,
    )
    from mksdask.storage.blocks import Blocks
    from mksdask.storage.results import Result

    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    X = make_microstructure(24, (8, 9), grain_size=(3, 2), seed=1)
    if not number:
        create_ensemble(folder / "e.zarr", X, X.mean(axis=(1, 2)), chunks=6)
        create_volume(folder / "v.zarr", np.concatenate([X] * 2).reshape(24, 16, 9), chunks=(8, 8, 9))
    ensemble, volume = open_ensemble(folder / "e.zarr"), open_volume(folder / "v.zarr").microstructure
    lazy, y, states = ensemble.microstructure, ensemble.response, PrimitiveBasis(2)
    names = {}


    def keep(stage, *found):
        for i, part in enumerate(found):
            data = getattr(part, "data", part)
            names[f"{stage} {i}"] = str(data.name)


    angles = da.from_array(np.random.default_rng(0).uniform(0, 1, (24, 8, 9, 3)), chunks=(6, 8, 9, 3))
    keep("primitive", states.discretize(lazy))
    keep("legendre", LegendreBasis(3, domain=(0, 1)).discretize(lazy))
    keep("fourier", FourierBasis(3, domain=(0, 2)).discretize(lazy))
    keep("gsh", GSHBasis(6, domain="cubic").discretize(angles))
    keep("correlate", correlate(lazy, states, cutoff=2), correlate(lazy, states, confidence_index=lazy.astype(float)))
    for cutoff in (3, None):
        at = folder / f"scratch-{cutoff}-{number}"
        found = correlate_volume(volume, states, cutoff=cutoff, scratch=at)
        names[f"correlate volume {cutoff}"] = json.loads((at / "zarr.json").read_text())["attributes"]["fingerprint"]
    f = correlate(lazy, states, cutoff=2)
    rows = f.data.reshape((24, -1))
    for reducer in (PCA(3), IncrementalPCA(3)):
        fitted = reducer.fit(rows)
        keep(f"{type(reducer).__name__} transform", fitted.transform(rows))
        names[f"{type(reducer).__name__} fit"] = token_of(fitted.components_, fitted.mean_)
    analysis = MKSStructureAnalysis(states, n_components=3).fit(lazy)
    keep("structure analysis", analysis.transform(lazy))
    model = MKSHomogenizationModel(states, n_components=3).fit(lazy, y)
    save_model(model, folder / f"m{number}.zarr")
    for title, each in {"fitted": model, "loaded": load_model(folder / f"m{number}.zarr")}.items():
        keep(f"homogenization {title}", each.predict(lazy))
    keep("homogenization std", *model.predict(lazy, return_std=True))
    kernel = MKSHomogenizationModel(states, n_components=3, property_linker=KernelRegressor()).fit(lazy, y)
    keep("kernel regressor", kernel.predict(lazy))
    ridge = MKSHomogenizationModel(states, n_components=3, property_linker=Ridge()).fit(lazy, y)
    keep("linker of scikit-learn", ridge.predict(lazy))
    for basis in (
        states,
        LegendreBasis(2, domain=(0, 1)),
        FourierBasis(3, domain=(0, 2)),
        GSHBasis(6, domain="cubic"),
    ):
        kind, given = type(basis).__name__, lazy
        if kind == "GSHBasis":
            given = angles
        local = MKSLocalizationModel(basis, alpha=1e-4).fit(given, lazy.data.astype(float) ** 2)
        save_model(local, folder / f"{kind}-{number}.zarr")
        loaded = load_model(folder / f"{kind}-{number}.zarr")
        for title, each in {"fitted": local, "loaded": loaded}.items():
            plan(each.predict, given)
            keep(f"localization {kind} {title}", each.predict(given))
        if kind == "PrimitiveBasis":
            loaded.resize_coeff((10, 11))
            large = da.from_array(make_microstructure(8, (10, 11), seed=3), chunks=(2, 10, 11))
            keep("localization resized", loaded.predict(large))
    fields = solve_fields(lazy, elastic_modulus=(1, 2), poissons_ratio=(0.3, 0.3))
    keep("solve fields", fields.strain, fields.stress)
    keep("mean stress", mean_stress(lazy, elastic_modulus=(1, 2), poissons_ratio=(0.3, 0.3)))
    keep("effective stiffness", effective_stiffness(lazy, elastic_modulus=(1, 2), poissons_ratio=(0.3, 0.3)))
    keep("stiffness of voxels", effective_stiffness(elastic_modulus=1.0 + lazy, poissons_ratio=0.3))
    expansion = effective_expansion(lazy, eigenstrain=(1, 2), elastic_modulus=(1, 2), poissons_ratio=(0.3, 0.3))
    keep("effective expansion", expansion)
    keep("generator", MicrostructureGenerator(12, (8, 9), chunks=4).generate())
    keep("microstructures", make_microstructure(12, (8, 9), chunks=4))
    keep("polycrystal", make_polycrystal(6, (5, 6), 4, chunks=2))
    keep("grains", *make_polycrystal(6, (5, 6), 4, chunks=2, return_grains=True))
    keep("deltas", make_delta_microstructures(2, (5, 5), chunks=1))
    keep("descriptors", ShapeDescriptors().fit(lazy).transform(lazy))
    # A store that was read in between keeps its names.
    np.asarray(volume[:4])
    keep("windows", sample_windows(volume, size=4), sample_windows(volume, size=4, n=6, seed=2))
    keep("reconstruct", reconstruct(f[0], n_samples=4, chunks=2).microstructure)
    keep("radial", radial_average(f), pair_correlation(f[..., :1]))
    keep("clusters", label_clusters(volume, 1), correlate_volume_clusters(volume, 1, cutoff=2))
    keep("clusters of samples", correlate_clusters(lazy, 1))
    keep("distances", distance_map(volume, 1, largest=2), local_thickness(volume, 1, [1, 2]))
    keep("surfaces", correlate_surfaces(lazy, 1), correlate_volume_surfaces(volume, 1, cutoff=2))
    keep("three points", correlate3(lazy, states, [(1, 0)]))
    keep("three points of a volume", correlate_volume3(volume, states, [(1, 0, 0)], cutoff=2))
    harmonics = GSHBasis(None, domain="cubic", max_degree=4)
    texture = texture_coefficients(angles, harmonics, halfwidth=0.2)
    keep("texture", texture, odf(texture, harmonics, step=0.5), pole_figure(texture, harmonics, (1, 1, 1), step=0.5))
    create_volume(folder / f"a{number}.zarr", angles[0].compute(), chunks=4) if not number else None
    map_of_angles = open_volume(folder / "a0.zarr").microstructure
    keep("misorientations", misorientation_density(angles).density)
    keep("misorientations of a volume", volume_misorientation_density(map_of_angles).density)
    keep("texture of a volume", volume_texture_coefficients(map_of_angles, harmonics))
    names["chords"] = token_of(chord_lengths(volume, 1).to_dict(), lineal_path(volume, 1).to_dict())
    print(json.dumps(names))
"""

IMPORTS = """
    import sys
    from dask import array as da
    from mksdask import LegendreBasis
    from mksdask.compute.graph import token_of
    from mksdask.stats import correlate

    if sys.argv[1] == "1":
        import dask_ml.model_selection
    X = da.ones((4, 6), chunks=(2, 6))
    basis = LegendreBasis(2, domain=(0, 1))
    names = [token_of(basis), correlate(X, basis, size=(6,)).name, basis.discretize(X).name]
    basis.of_a_user_ = list(range(2000))
    print(*names, token_of(basis))
"""


@pytest.mark.slow
def test_names__do_not_depend_on_what_is_imported():
    found = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(IMPORTS), number], capture_output=True, text=True, check=True
        ).stdout
        for number in "01"
    ]
    assert found[0] == found[1]


def test_names__depend_on_every_fitted_number():
    first, second = (Ridge().fit(rng.normal(size=(9, 5000)), np.arange(9.0)) for rng in 2 * (np.random.default_rng(0),))
    second.coef_ = first.coef_.copy()
    second.intercept_ = first.intercept_
    assert token_of(first) == token_of(second)
    second.coef_[2500] += 1e-9
    assert token_of(first) != token_of(second)


def test_names__do_not_depend_on_what_was_used_before():
    basis, other = GSHBasis(6, domain="cubic"), GSHBasis(6, domain="cubic")
    basis.discretize(np.zeros((1, 2, 3)))
    assert token_of(basis) == token_of(other)
    itself = Ridge()
    itself.held_ = itself
    assert token_of(itself)


@pytest.mark.slow
def test_names__are_the_same_in_two_processes(tmp_path):
    script, found = tmp_path / "run.py", []
    script.write_text(textwrap.dedent(SCRIPT))
    for number in range(2):
        # The first process compiles all kernels, and the second one reads them from disk.
        environment = os.environ | {"PYTHONHASHSEED": str(number + 1), "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
        run = subprocess.run(
            [sys.executable, script, tmp_path, str(number)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert run.returncode == 0, run.stderr
        found.append(json.loads(run.stdout.splitlines()[-1]))
    first, second = found
    assert {name: (first[name], second[name]) for name in first if first[name] != second[name]} == {}
    assert len(first) == len(second) > 40
