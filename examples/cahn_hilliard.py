# %% [markdown]
# Spinodal decomposition by localization: one long time step of the Cahn–Hilliard equation is learned from many runs,
# then taken again and again, and compared with the simulation on runs and a domain it never saw.
#
#     python examples/cahn_hilliard.py [--quick] [--out FOLDER]

# %%
import argparse
import time
from pathlib import Path

import dask.array as da
import numpy as np

from mksdask import MKSLocalizationModel, PrimitiveBasis
from mksdask.datasets import CahnHilliardSimulation
from mksdask.tools import draw_coeff, draw_concentrations, draw_concentrations_compare, draw_differences

DX, GAMMA, DT = 1.0, 2.0, 0.05  # voxel, squared interface width, short step
SHORT_STEPS = 20  # short steps in the long one
LIMIT = 1.2  # concentrations stay within ±LIMIT


def initial(n_samples, size, seed, chunks):
    """Small fluctuations about zero, lazily."""
    rng = da.random.default_rng(seed)
    return rng.uniform(-0.1, 0.1, size=(n_samples, *size), chunks=(chunks, *size))


def main(out, *, quick):
    out.mkdir(parents=True, exist_ok=True)
    n_runs, n_long, size, n_states = (8, 20, (48, 48), 13) if quick else (32, 80, (64, 64), 17)

    # %% [markdown]
    # Runs, as pairs of concentrations one long step apart. Nothing is computed yet.

    # %%
    simulation = CahnHilliardSimulation(dx=DX, gamma=GAMMA, dt=DT)
    states = [initial(n_runs, size, seed=1, chunks=max(1, n_runs // 8))]
    for _ in range(n_long):
        states.append(simulation.run(states[-1], n_steps=SHORT_STEPS).response)
    before, after = da.concatenate(states[:-1]), da.concatenate(states[1:])

    # %% [markdown]
    # The step is not linear, but hats on the concentration follow its curve: a pointwise function of φ, then a
    # convolution. All pairs stream through one task a chunk; what is kept is one small factor a frequency.

    # %%
    start = time.perf_counter()
    basis = PrimitiveBasis(n_states=n_states, domain=(-LIMIT, LIMIT))
    model = MKSLocalizationModel(basis).fit(before, after)
    print(
        f"{n_runs} runs simulated and {model.n_samples_seen_} pairs of {size} fitted with {n_states} states in "
        f"{time.perf_counter() - start:.1f} s"
    )
    shown = [n_states // 4, n_states // 2, n_states - 1 - n_states // 4]
    titles = [f"φ = {value:.2f}" for value in np.linspace(-LIMIT, LIMIT, n_states)[shown]]
    draw_coeff(model.coef_[..., shown], titles).savefig(out / "kernels.png")

    # %% [markdown]
    # Other runs, on a domain twice as large.

    # %%
    larger = tuple(2 * n for n in size)
    model.resize_coeff(larger)
    truth = predicted = initial(2, larger, seed=2, chunks=1).compute()
    spent = {"simulation": 0.0, "MKS": 0.0}
    kept, steps = [], sorted({1, n_long // 4, n_long // 2, n_long})
    for step in range(1, n_long + 1):
        start = time.perf_counter()
        truth = simulation.run(truth, n_steps=SHORT_STEPS).response
        middle = time.perf_counter()
        predicted = model.predict(np.clip(predicted, -LIMIT, LIMIT))
        spent["simulation"] += middle - start
        spent["MKS"] += time.perf_counter() - middle
        if step in steps:
            error = np.sqrt(np.mean((predicted - truth) ** 2) / truth.var())
            same = np.mean((predicted > 0) == (truth > 0))
            moment = step * SHORT_STEPS * DT
            print(f"t = {moment:5.1f}: error {error:.1%} of the spread; same phase in {same:.2%} of the voxels")
            kept.append((moment, truth[0], predicted[0]))
    print(f"{n_long} long steps of 2 × {larger}: simulation {spent['simulation']:.2f} s, kernels {spent['MKS']:.2f} s")

    # %%
    titles = [f"t = {t:g}, {name}" for t, *_ in kept for name in ("simulation", "MKS")]
    draw_concentrations([field for _, *pair in kept for field in pair], titles).savefig(out / "evolution.png")
    _, last_truth, last_predicted = kept[-1]
    draw_concentrations_compare((last_truth, last_predicted)).savefig(out / "comparison.png")
    draw_differences([last_truth - last_predicted], ["simulation - MKS"]).savefig(out / "difference.png")
    print(f"figures in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn a long time step of the Cahn–Hilliard equation")
    parser.add_argument("--quick", action="store_true", help="few runs, a short time")
    parser.add_argument("--out", type=Path, default=Path("cahn-hilliard"), help="folder for the figures")
    arguments = parser.parse_args()
    main(arguments.out, quick=arguments.quick)
