# %% [markdown]
# Stiffness of real rock: a tomogram is cut into sub-volumes, C11 of each is found by finite elements, and a linkage
# from 2-point statistics predicts C11 in a part of the rock that training never saw.
#
#     python examples/real_sandstone.py berea.tif [--quick] [--out FOLDER]
#
# Sub-volumes of rock are not periodic; the solver continues them periodically, as is usual, and the statistics do not.

# %%
import argparse
import time
from pathlib import Path

import numpy as np
import tifffile
from distributed import Client, LocalCluster
from sklearn.compose import TransformedTargetRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mksdask import MKSHomogenizationModel, PrimitiveBasis, create_ensemble, open_ensemble
from mksdask.datasets import mean_stress
from mksdask.regression import LeadingScaler
from mksdask.stats import correlate
from mksdask.tools import draw_correlations, draw_goodness_of_fit, draw_microstructures

EDGE = 40  # voxels of a sub-volume
MODULI = (50.0, 1.0)  # GPa: grain, and a filler in the pores 50 times softer
POISSONS = (0.2, 0.3)
PAIRS = [(0, 0), (1, 1)]
CUTOFF = 8  # best of 4, 8 and 16 by cross-validation on the training part


def cut(volume, first, last, count, rng):
    """Choose `count` of the sub-volumes between two planes normal to x."""
    shape = (last - first) // EDGE, volume.shape[1] // EDGE, volume.shape[2] // EDGE
    cells = np.array(list(np.ndindex(shape)))
    chosen = cells[np.sort(rng.permutation(len(cells))[:count])] * EDGE + [first, 0, 0]
    return np.stack([volume[x : x + EDGE, y : y + EDGE, z : z + EDGE] for x, y, z in chosen])


def main(path, out, *, quick):
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    # TIFF pages are (z, y, x); the package's order is (x, y, z).
    volume = tifffile.imread(path).transpose(2, 1, 0)
    pores = (volume == 0).astype("uint8")
    print(f"{path.name}: {pores.shape} voxels, porosity {pores.mean():.2%}")

    # %% [markdown]
    # Training and test sub-volumes come from the two ends of the rock, with a gap between. The gap must exceed the
    # length over which the rock is correlated, or the test would not be one.

    # %%
    n_train, n_test = (16, 6) if quick else (180, 70)
    test_first = int(0.7 * volume.shape[0]) // EDGE * EDGE
    gap = EDGE
    rng = np.random.default_rng(0)
    train = cut(pores, 0, test_first - gap, n_train, rng)
    test = cut(pores, test_first, volume.shape[0], n_test, rng)
    X = np.concatenate([train, test])
    S2 = correlate(train, PrimitiveBasis(2), correlations=[(1, 1)], cutoff=EDGE // 2).mean(axis=0)[..., 0]
    line = S2[EDGE // 2 :, EDGE // 2, EDGE // 2]
    covariance = (line - line[0] ** 2) / (line[0] - line[0] ** 2)
    length = int(np.argmax(np.abs(covariance) < 0.05))
    print(f"correlation falls below 5 % at {length} voxels; training and test are {gap} voxels apart")
    assert length < gap, "the gap between training and test must exceed the correlation length"

    # %%
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        print(f"dashboard: {client.dashboard_link}")
        create_ensemble(out / "windows.zarr", X, phases=("grain", "pore"), chunks=5, mode="w")
        windows = open_ensemble(out / "windows.zarr").microstructure
        stress = mean_stress(
            windows, elastic_modulus=MODULI, poissons_ratio=POISSONS, macro_strain=0.001, tolerance=1e-6
        )
        stiffness = stress[:, 0] / 0.001
        create_ensemble(out / "rock.zarr", windows, stiffness, phases=("grain", "pore"), chunks=5, mode="w")
        print(f"{len(X)} sub-volumes solved after {time.perf_counter() - start:.0f} s")

        # %% [markdown]
        # The statistics are computed once; the search for the linkage then reuses them.

        # %%
        rock = open_ensemble(out / "rock.zarr")
        statistics = correlate(rock.microstructure, PrimitiveBasis(2), correlations=PAIRS, cutoff=CUTOFF).compute()
        C11 = rock.response.values
    ridge = make_pipeline(LeadingScaler(), KernelRidge(kernel="poly", degree=3, gamma=0.1, coef0=1.0))
    linkage = MKSHomogenizationModel(
        compute_correlations=False,
        property_linker=TransformedTargetRegressor(ridge, transformer=StandardScaler(with_std=False)),
    )
    grid = {
        "n_components": [3, 5] if quick else [10, 20, 40, 100],
        "property_linker__regressor__kernelridge__alpha": 10.0 ** np.arange(-5, 0),
    }
    search = GridSearchCV(linkage, grid, cv=3 if quick else 5)
    search.fit(statistics.values[:n_train], C11[:n_train])
    predicted = search.predict(statistics.values[n_train:])

    # %%
    truth = C11[n_train:]
    error = predicted - truth
    r2 = 1 - np.sum(error**2) / np.sum((truth - truth.mean()) ** 2)
    porosity = X.reshape(len(X), -1).mean(axis=1)
    curve = np.poly1d(np.polyfit(porosity[:n_train], C11[:n_train], 2))
    by_porosity = curve(porosity[n_train:]) - truth
    r2_porosity = 1 - np.sum(by_porosity**2) / np.sum((truth - truth.mean()) ** 2)
    print(f"linkage: {search.best_params_}, cross-validated R² on the training part {search.best_score_:.3f}")
    print(
        f"hold-out of {n_test} sub-volumes: R² = {r2:.3f}, mean error {np.abs(error).mean():.2f} GPa "
        f"beside a spread of {truth.std():.2f} GPa"
    )
    print(f"from the porosity alone: R² = {r2_porosity:.3f}, mean error {np.abs(by_porosity).mean():.2f} GPa")

    # %%
    draw_microstructures(rock.microstructure[[0, n_train]], ["training", "hold-out"]).savefig(out / "sub_volumes.png")
    draw_correlations(statistics[0]).savefig(out / "correlations.png")
    fitted = np.array([C11[:n_train], search.predict(statistics.values[:n_train])])
    draw_goodness_of_fit(
        fitted, np.array([truth, predicted]), ["training", "hold-out"], quantity="$C_{11}$ / GPa"
    ).savefig(out / "goodness_of_fit.png")
    print(f"ensemble and figures in {out}, all in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Stiffness of real rock from its 2-point statistics")
    parser.add_argument("path", type=Path, help="segmented tomogram, a TIFF of which 0 is pore")
    parser.add_argument("--quick", action="store_true", help="22 sub-volumes")
    parser.add_argument(
        "--out", type=Path, default=Path("real-sandstone"), help="folder for the ensemble and the figures"
    )
    arguments = parser.parse_args()
    main(arguments.path, arguments.out, quick=arguments.quick)
