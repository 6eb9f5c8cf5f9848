# %% [markdown]
# A process–structure linkage, the other kind of the paper behind PyMKS: how a spinodal structure looks after a time,
# from how it looked at the start. Both are described by the principal components of their 2-point statistics; the
# linkage maps the scores of the initial structure, and time, to the scores of the evolved one.
#
#     python examples/process_structure.py [--quick] [--out FOLDER]

# %%
import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from mksdask import MKSStructureAnalysis, PrimitiveBasis
from mksdask.datasets import CahnHilliardSimulation
from mksdask.tools import draw_concentrations, draw_evolution, draw_goodness_of_fit

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="few runs on a small box")
parser.add_argument("--out", type=Path, default=Path("process-structure"), help="folder for the figures")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
n_runs, edge = (40, 32) if arguments.quick else (240, 64)
start = time.perf_counter()

# %% [markdown]
# Runs that differ in mean concentration, in the strength of the initial fluctuations, and in their wavelength.

# %%
rng = np.random.default_rng(0)
mean = rng.uniform(-0.05, 0.05, n_runs)
strength = rng.uniform(0.05, 0.4, n_runs)
smoothing = rng.uniform(0.5, 2.5, n_runs)
frequencies = 2 * np.pi * np.stack(np.meshgrid(np.fft.fftfreq(edge), np.fft.rfftfreq(edge), indexing="ij"))
filters = np.exp(-0.5 * (frequencies**2).sum(axis=0) * smoothing[:, None, None] ** 2)
noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(n_runs, edge, edge))) * filters, s=(edge, edge))
noise -= noise.mean(axis=(1, 2), keepdims=True)
noise *= (strength / noise.std(axis=(1, 2)))[:, None, None]
initial = mean[:, None, None] + noise

# %%
DT = 0.1
times = np.array([2.0, 5.0, 10.0, 20.0, 40.0, 80.0])
simulation = CahnHilliardSimulation(dx=1.0, gamma=1.0, dt=DT)
evolved, state, now = [], initial, 0.0
for moment in times:
    state = simulation.run(state, n_steps=round((moment - now) / DT)).response
    evolved.append(state)
    now = moment
evolved = np.stack(evolved, axis=1)  # (run, time, x, y)
print(f"{n_runs} runs of {edge}² to t = {times[-1]:g} after {time.perf_counter() - start:.1f} s")
draw_concentrations(
    [initial[0], evolved[0, 1], evolved[0, 3], evolved[0, 5], initial[1], evolved[1, 1], evolved[1, 3], evolved[1, 5]],
    [f"run {run}, t = {t:g}" for run in (0, 1) for t in (0, *times[[1, 3, 5]])],
).savefig(arguments.out / "runs.png")

# %% [markdown]
# A quarter of the runs is held out, with all their times. Components are found on the others alone.

# %%
n_train = 3 * n_runs // 4
is_train = np.arange(n_runs) < n_train
options = {
    "basis": PrimitiveBasis(2, domain=(-2.5, 2.5)),
    "periodic_axes": [0, 1],
    "correlations": [(1, 1)],
    "cutoff": edge // 4,
    "dtype": "float64",
}
before = MKSStructureAnalysis(n_components=8, **options).fit(initial[is_train])
after = MKSStructureAnalysis(n_components=3, **options).fit(evolved[is_train].reshape(-1, edge, edge))
scores_before = before.transform(initial)
scores_after = after.transform(evolved.reshape(-1, edge, edge)).reshape(n_runs, len(times), 3)
share = after.dimension_reducer_.explained_variance_ratio_
print(f"three components hold {share.sum():.2%} of the variance of the evolved statistics")

# %%
inputs = np.concatenate(
    [
        np.repeat(scores_before[:, None], len(times), axis=1),
        np.broadcast_to(np.log(times)[None, :, None], (n_runs, len(times), 1)),
    ],
    axis=2,
)
linkage = make_pipeline(StandardScaler(), PolynomialFeatures(), StandardScaler(), Ridge())
search = GridSearchCV(
    linkage,
    {"polynomialfeatures__degree": [1, 2, 3], "ridge__alpha": 10.0 ** np.arange(-3, 3)},
    cv=GroupKFold(5),  # a run is never in both parts
    scoring="r2",
)
rows = inputs[is_train].reshape(-1, inputs.shape[-1])
groups = np.repeat(np.arange(n_train), len(times))
search.fit(rows, scores_after[is_train].reshape(-1, 3), groups=groups)
print(f"linkage: {search.best_params_}")

# %%
predicted = search.predict(inputs[~is_train].reshape(-1, inputs.shape[-1])).reshape(-1, len(times), 3)
truth = scores_after[~is_train]
residual = ((predicted - truth) ** 2).sum(axis=(0, 1))
spread = ((truth - truth.mean(axis=(0, 1))) ** 2).sum(axis=(0, 1))
for component in range(3):
    print(
        f"  PC {component + 1} ({share[component]:.1%} of the variance): held-out R² = "
        f"{1 - residual[component] / spread[component]:.3f}"
    )
total = 1 - residual.sum() / spread.sum()
by_time = 1 - ((predicted - truth) ** 2).sum(axis=(0, 2)) / ((truth - truth.mean(axis=0)) ** 2).sum(axis=(0, 2))
print(f"hold-out of {n_runs - n_train} runs: R² = {total:.3f} of all scores and times")
listed = ", ".join(f"{moment:g}: {r2:.2f}" for moment, r2 in zip(times, by_time, strict=True))
print(f"  spread among runs explained at t = {listed}")

# %%
held_out = [np.column_stack([times, path]) for path in (truth[0], predicted[0], truth[1], predicted[1])]
names = ["run 1, simulated", "run 1, linkage", "run 2, simulated", "run 2, linkage"]
draw_evolution(held_out, names, time_label="time", legend_outside=True).savefig(arguments.out / "evolution.png")
fitted = search.predict(rows)
draw_goodness_of_fit(
    np.array([scores_after[is_train].reshape(-1, 3)[:, 1], fitted[:, 1]]),
    np.array([truth[..., 1].ravel(), predicted[..., 1].ravel()]),
    quantity="PC 2",
).savefig(arguments.out / "goodness_of_fit.png")
print(f"figures in {arguments.out}, all in {time.perf_counter() - start:.1f} s")
