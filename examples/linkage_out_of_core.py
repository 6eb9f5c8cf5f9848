# %% [markdown]
# A linkage for more samples than fit in memory, from few simulations: 20,000 microstructures of 64³ voxels with two or
# three phases, 2-point statistics and principal components on two workers of 1 GiB, the stiffness of 300 samples that
# the linkage itself asks for, and error bars for all others. 50 samples that it never saw check both.
#
#     python examples/linkage_out_of_core.py [--samples 20000] [--memory-limit 1GiB] [--quick] [--out FOLDER]
#
# Half of the samples have no third phase, so that the pool is a mixture, as pools are.

# %%
import argparse
import itertools
import time
import warnings
from pathlib import Path

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster
from matplotlib.figure import Figure

from mksdask import (
    MissingPropertyWarning,
    MKSHomogenizationModel,
    PrimitiveBasis,
    create_ensemble,
    open_ensemble,
    plan,
)
from mksdask.datasets import effective_stiffness, make_microstructure
from mksdask.tools import draw_goodness_of_fit, draw_microstructures

# GPa, and Poisson's ratios, of the three phases.
MODULI, POISSONS = (120.0, 60.0, 20.0), (0.30, 0.25, 0.35)
FRACTIONS = [(0.5, 0.5, 0.0), (0.3, 0.7, 0.0), (0.4, 0.3, 0.3), (0.2, 0.3, 0.5)]
# Of an orthotropic mean: C11, C22, C33, C12, C13, C23, C44, C55, C66.
ROWS, COLUMNS = [0, 1, 2, 0, 0, 1, 3, 4, 5], [0, 1, 2, 1, 2, 2, 3, 4, 5]
PAIRS = [(0, 0), (1, 1), (0, 1)]
COMPONENTS = 20


def grain_sizes(edge):
    return [(edge / 8,) * 3, (edge / 4, edge / 16, edge / 16), (edge / 16, edge / 16, edge / 4), (edge / 16,) * 3]


def main(samples, edge, cutoff, runs, held_out, memory_limit, out):
    out.mkdir(parents=True, exist_ok=True)
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit=memory_limit,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        print(f"dashboard: {client.dashboard_link}")
        start = time.perf_counter()

        def done(what):
            print(f"{time.perf_counter() - start:7.0f} s  {what}", flush=True)

        # %% [markdown]
        # The ensemble, written once: 16 kinds, of four grain shapes and four mixtures.

        # %%
        store = out / f"ensemble_{samples}_{edge}.zarr"
        if not store.exists():
            each = samples // 16
            kinds = [
                make_microstructure(
                    n_samples=each,
                    size=(edge,) * 3,
                    n_phases=3,
                    grain_size=grain_size,
                    volume_fraction=fractions,
                    percent_variance=0.3,
                    seed=seed,
                    chunks=max(1, min(each, 2**22 // edge**3)),
                )
                for seed, (grain_size, fractions) in enumerate(itertools.product(grain_sizes(edge), FRACTIONS))
            ]
            X = da.concatenate(kinds)
            create_ensemble(store, X, periodic_axes=[0, 1, 2])
        X = open_ensemble(store).microstructure
        done(f"{X.shape[0]} samples, {X.nbytes / 2**30:.2f} GiB of voxels")

        # %% [markdown]
        # Statistics and components, once. What follows is made of what `share` returns: it stays small.

        # %%
        model = MKSHomogenizationModel(
            PrimitiveBasis(3),
            n_components=COMPONENTS,
            property_linker="kernel",
            correlations=PAIRS,
            cutoff=cutoff,
            scratch=out,
        )
        print(plan(model.share, X, n_components=2 * COMPONENTS))
        shared = model.share(X, n_components=2 * COMPONENTS)
        done("statistics and components")

        # %% [markdown]
        # Simulations: 60 at random, then in rounds those that leave least open of all others once they are known.

        # %%
        rng = np.random.default_rng(0)
        order = rng.permutation(len(shared))
        test, pool = np.sort(order[:held_out]), np.sort(order[held_out:])

        def stiffness(rows):
            found = effective_stiffness(X[rows], elastic_modulus=MODULI, poissons_ratio=POISSONS, tolerance=1e-5)
            return np.asarray(found.data)[:, ROWS, COLUMNS]

        truth = stiffness(test)
        done(f"finite elements of {held_out} samples that are held out")
        # Samples that are not simulated yet have no property, on purpose.
        warnings.simplefilter("ignore", MissingPropertyWarning)
        y = np.full((len(shared), len(ROWS)), np.nan)
        chosen = np.sort(rng.choice(pool, runs // 5, replace=False))
        while True:
            y[chosen] = stiffness(chosen)
            model.fit(shared, y)
            n_known = int(np.isfinite(y[:, 0]).sum())
            rms = np.sqrt(np.mean((model.predict(shared[test]) - truth) ** 2))
            done(f"{n_known} simulations: error of the held out {rms:.3f} GPa rms")
            if n_known == runs:
                break
            unknown = np.setdiff1d(pool, np.flatnonzero(np.isfinite(y[:, 0])))
            chosen = np.sort(unknown[model.suggest(shared[unknown], runs // 5)])

        # %% [markdown]
        # All others with error bars, and what the 50 say of it.

        # %%
        mean, spread = model.predict(shared, return_std=True)
        done(f"{len(shared)} predicted")
        found, bars = mean[test], spread[test]
        for number, (i, j) in enumerate(zip(ROWS, COLUMNS, strict=True)):
            error = found[:, number] - truth[:, number]
            r2 = 1 - np.sum(error**2) / np.sum((truth[:, number] - truth[:, number].mean()) ** 2)
            inside = np.mean(np.abs(error) < 1.645 * bars[:, number])
            print(
                f"C{i + 1}{j + 1}: {truth[:, number].min():6.1f} to {truth[:, number].max():6.1f} GPa, R² = {r2:.4f}, "
                f"rms error {np.sqrt(np.mean(error**2)):.3f} GPa, 90% intervals hold {inside:.0%}"
            )
        stages = client.run_on_scheduler(lambda dask_scheduler: sorted(dask_scheduler.task_prefixes))
        print(f"stages that the dashboard showed: {', '.join(stages)}")

    # %%
    known = np.isfinite(y[:, 0])
    kinds = np.arange(4) * (samples // 16)
    draw_microstructures(X[kinds].to_numpy(), [str(f) for f in FRACTIONS]).savefig(out / "samples.png")
    draw_goodness_of_fit(
        [y[known][:, 0], mean[known][:, 0]], [truth[:, 0], found[:, 0]], quantity=r"$C_{11}$ / GPa"
    ).savefig(out / "goodness_of_fit.png")

    fig = Figure(figsize=(9, 3.4), layout="constrained", dpi=150)
    left, right = fig.subplots(1, 2)
    scores = model.transform(shared)
    left.plot(scores[:, 0], scores[:, 1], ".", color="0.75", markersize=2, label="all", rasterized=True)
    left.plot(scores[known, 0], scores[known, 1], "o", color="#aa3377", markersize=3, label="simulated")
    left.set(xlabel="score on component 1", ylabel="score on component 2")
    left.legend(fontsize="small")
    rank = np.argsort(mean[:, 0])
    right.fill_between(
        np.arange(len(rank)),
        (mean - 1.645 * spread)[rank, 0],
        (mean + 1.645 * spread)[rank, 0],
        color="#4477aa",
        alpha=0.4,
        linewidth=0,
        label="90% intervals",
    )
    place = np.argsort(rank)
    right.plot(place[test], truth[:, 0], "k.", markersize=4, label="held out, finite elements")
    right.set(xlabel="samples, by predicted stiffness", ylabel=r"$C_{11}$ / GPa")
    right.locator_params(axis="x", nbins=4)
    right.legend(fontsize="small")
    fig.savefig(out / "predictions.png")
    print(f"figures in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A linkage for more samples than fit in memory, from few simulations")
    parser.add_argument("--samples", type=int, default=20_000, help="a multiple of 16")
    parser.add_argument("--edge", type=int, default=64, help="voxels along the edge of a sample")
    parser.add_argument("--cutoff", type=int, default=8, help="largest lag in voxels")
    parser.add_argument("--runs", type=int, default=300, help="simulations to train on, a multiple of 5")
    parser.add_argument("--memory-limit", default="1GiB", help="of each of the two workers")
    parser.add_argument("--quick", action="store_true", help="320 samples of 16³, 60 simulations")
    parser.add_argument("--out", type=Path, default=Path("linkage-out-of-core"), help="folder for store and figures")
    arguments = parser.parse_args()
    size = (
        (320, 16, 4, 60, 20)
        if arguments.quick
        else (arguments.samples, arguments.edge, arguments.cutoff, arguments.runs, 50)
    )
    main(*size, arguments.memory_limit, arguments.out)
