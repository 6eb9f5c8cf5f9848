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

from mksdask import LegendreBasis, MKSLocalizationModel, PrimitiveBasis
from mksdask.datasets import CahnHilliardSimulation
from mksdask.tools import draw_coeff, draw_concentrations, draw_concentrations_compare, draw_differences

DX, GAMMA, DT = 1.0, 2.0, 0.05  # voxel, squared interface width, short step
SHORT_STEPS = 20  # short steps in the long one
LIMIT = 1.2  # concentrations stay within ±LIMIT
N_POLYNOMIALS = 8


def initial(n_samples, size, seed, chunks):
    """Small fluctuations about zero, lazily."""
    rng = da.random.default_rng(seed)
    return rng.uniform(-0.1, 0.1, size=(n_samples, *size), chunks=(chunks, *size))


def main(out, *, quick):
    out.mkdir(parents=True, exist_ok=True)
    n_runs, n_long, size, n_hats = (8, 20, (48, 48), 13) if quick else (32, 80, (64, 64), 17)

    # %% [markdown]
    # Runs, as pairs of concentrations one long step apart. Nothing is computed yet.

    # %%
    simulation = CahnHilliardSimulation(dx=DX, gamma=GAMMA, dt=DT)
    states = [initial(n_runs, size, seed=1, chunks=max(1, n_runs // 8))]
    for _ in range(n_long):
        states.append(simulation.run(states[-1], n_steps=SHORT_STEPS).response)
    before, after = da.concatenate(states[:-1]), da.concatenate(states[1:])

    # %% [markdown]
    # The step is not linear, but functions of the concentration follow its curve, hats piece by piece or polynomials of
    # the whole range: a pointwise function of φ, then a convolution. All pairs stream through one task a chunk; what is
    # kept is one small factor a frequency.

    # %%
    models = {
        "hats": MKSLocalizationModel(PrimitiveBasis(n_hats, domain=(-LIMIT, LIMIT))),
        "Legendre": MKSLocalizationModel(LegendreBasis(N_POLYNOMIALS, domain=(-LIMIT, LIMIT))),
    }
    for name, model in models.items():
        start = time.perf_counter()
        model.fit(before, after)
        print(
            f"{n_runs} runs simulated and {model.n_samples_seen_} pairs of {size} fitted with "
            f"{len(model.basis.states)} states ({name}) in {time.perf_counter() - start:.1f} s"
        )
    hats = models["hats"].coef_
    shown = [n_hats // 4, n_hats // 2, n_hats - 1 - n_hats // 4]
    titles = [f"φ = {value:.2f}" for value in np.linspace(-LIMIT, LIMIT, n_hats)[shown]]
    draw_coeff(hats[..., shown], titles).savefig(out / "kernels.png")

    # %% [markdown]
    # Other runs, on a domain twice as large.

    # %%
    larger = tuple(2 * n for n in size)
    truth = initial(2, larger, seed=2, chunks=1).compute()
    predicted = dict.fromkeys(models, truth)
    spent = dict.fromkeys(["simulation", *models], 0.0)
    kept, steps = [], sorted({1, n_long // 4, n_long // 2, n_long})
    for model in models.values():
        model.resize_coeff(larger)
    for step in range(1, n_long + 1):
        start = time.perf_counter()
        truth = simulation.run(truth, n_steps=SHORT_STEPS).response
        spent["simulation"] += time.perf_counter() - start
        for name, model in models.items():
            start = time.perf_counter()
            predicted[name] = model.predict(np.clip(predicted[name], -LIMIT, LIMIT))
            spent[name] += time.perf_counter() - start
        if step in steps:
            moment = step * SHORT_STEPS * DT
            for name, field in predicted.items():
                error = np.sqrt(np.mean((field - truth) ** 2) / truth.var())
                same = np.mean((field > 0) == (truth > 0))
                print(
                    f"t = {moment:5.1f}, {name:8}: error {error:5.1%} of the spread; same phase in {same:.2%} of the "
                    "voxels"
                )
            kept.append((moment, truth[0], predicted["Legendre"][0]))
    print(f"{n_long} long steps of 2 × {larger}: " + ", ".join(f"{name} {t:.2f} s" for name, t in spent.items()))

    # %%
    titles = [f"t = {t:g}, {name}" for t, *_ in kept for name in ("simulation", "Legendre")]
    draw_concentrations([field for _, *pair in kept for field in pair], titles).savefig(out / "evolution.png")
    _, last_truth, last_predicted = kept[-1]
    draw_concentrations_compare((last_truth, last_predicted)).savefig(out / "comparison.png")
    draw_differences([last_truth - last_predicted], ["simulation - Legendre"]).savefig(out / "difference.png")
    print(f"figures in {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Learn a long time step of the Cahn–Hilliard equation")
    parser.add_argument("--quick", action="store_true", help="few runs, a short time")
    parser.add_argument("--out", type=Path, default=Path("cahn-hilliard"), help="folder for the figures")
    arguments = parser.parse_args()
    main(arguments.out, quick=arguments.quick)
