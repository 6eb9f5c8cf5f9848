# %% [markdown]
# Stiffness of textured polycrystals: effective stiffness of copper with many different textures by finite elements, and
# a linkage that predicts all 21 components from orientation statistics in generalized spherical harmonics.
#
#     python examples/polycrystal_stiffness.py [--quick] [--out FOLDER]

# %%
import argparse
import time
from pathlib import Path

import dask.array as da
import numpy as np
from sklearn.metrics import r2_score

from mksdask import GSHBasis, MKSHomogenizationModel
from mksdask.datasets import ComponentTexture, FibreTexture, effective_stiffness, make_polycrystal
from mksdask.simulation.crystals import single_crystal_stiffness, turned_stiffness
from mksdask.stats import correlate
from mksdask.tools import draw_components_scatter, draw_correlations, draw_goodness_of_fit

COPPER = (168.4, 121.4, 75.4)  # C11, C12, C44 in GPa
COMPONENTS = ("xx", "yy", "zz", "yz", "xz", "xy")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="few samples of 8³ voxels")
parser.add_argument("--out", type=Path, default=Path("polycrystal-stiffness"), help="folder for the figures")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
n_samples, n_test, edge = (70, 10, 8) if arguments.quick else (400, 100, 16)
size, n_grains = (edge,) * 3, edge**3 // 64

# %% [markdown]
# Half of the samples have fibre textures about drawn directions, half one to three components, all sharper or weaker.
# Nothing is computed yet.

# %%
rng = np.random.default_rng(0)
kinds = ["fibre" if rng.random() < 0.5 else "components" for _ in range(n_samples)]
parts = []
for seed, kind in enumerate(kinds):
    spread = rng.uniform(0.05, 0.6)
    if kind == "fibre":
        texture = FibreTexture(rng.normal(size=3), rng.normal(size=3), spread, weight=rng.uniform(0.3, 1))
    else:
        texture = ComponentTexture(rng.uniform(0, np.pi, (rng.integers(1, 4), 3)), spread)
    parts.append(make_polycrystal(1, size, n_grains, seed=seed, texture=texture, chunks=1))
X = da.concatenate(parts).rechunk({0: 10}).persist()

# %%
start = time.perf_counter()
stiffness = effective_stiffness(X, crystal_stiffness=COPPER, tolerance=1e-6).compute()
rows, columns = np.triu_indices(6)
y = stiffness[:, rows, columns]
print(f"{n_samples} samples of {edge}³, six load cases each, solved in {time.perf_counter() - start:.1f} s")

# %% [markdown]
# Statistics. With the constant first harmonic, f[0, h; r] is the texture coefficient of harmonic h, the same for all
# lags, and one lag is enough. A tensor of rank four feels harmonics up to l = 4: ten for a cubic crystal, nine of which
# vary.

# %%
basis = GSHBasis(10, domain="cubic")
pairs = [(0, h) for h in range(1, 10)]
start = time.perf_counter()
texture = correlate(X, basis, periodic_axes=[0, 1, 2], correlations=pairs, cutoff=0).compute()
print(f"texture coefficients of {n_samples} samples in {time.perf_counter() - start:.2f} s")
train, test = slice(0, n_samples - n_test), slice(n_samples - n_test, None)
linkage = MKSHomogenizationModel(compute_correlations=False, n_components=9, degree=2)
linkage.fit(texture[train], y[train])
predicted = linkage.predict(texture[test])

# %% [markdown]
# Beside it the Voigt average, the stiffness that each grain would give if all were strained alike: a bound from above.

# %%
crystal = single_crystal_stiffness(COPPER)
packed = [turned_stiffness(crystal, sample[None]).packed for sample in X[test].compute()]
voigt = np.array([local.mean(axis=(0, 1, 2, 4)) for local in packed])
truth = y[test]
print(f"{'':<12}{'spread / GPa':>14}{'linkage, R²':>14}{'mean error / GPa':>18}{'Voigt, R²':>12}")
for a, b in [(0, 0), (1, 1), (2, 2), (0, 1), (3, 3), (5, 5), (0, 5)]:
    position = int(np.flatnonzero((rows == a) & (columns == b))[0])
    values, ours, bound = truth[:, position], predicted[:, position], voigt[:, position]
    print(
        f"{COMPONENTS[a] + ',' + COMPONENTS[b]:<12}{values.std():>14.2f}{r2_score(values, ours):>14.4f}"
        f"{np.abs(ours - values).mean():>18.3f}{r2_score(values, bound):>12.2f}"
    )
print(
    f"all 21 components: R² = {r2_score(truth, predicted, multioutput='variance_weighted'):.4f}, Voigt average "
    f"{r2_score(truth, voigt, multioutput='variance_weighted'):.2f}"
)

# %%
fitted = np.array([y[train][:, 0], linkage.predict(texture[train])[:, 0]])
draw_goodness_of_fit(
    fitted, np.array([truth[:, 0], predicted[:, 0]]), ["training", "hold-out"], quantity="$C_{11}$ / GPa"
).savefig(arguments.out / "goodness_of_fit.png")
scores = linkage.reduced_fit_data
of_train = np.array(kinds[: len(scores)])
groups = [scores[of_train == name] for name in ("fibre", "components")]
draw_components_scatter([group[:, :2] for group in groups], ["fibre", "components"]).savefig(
    arguments.out / "components.png"
)
grains = correlate(X[:1].compute(), basis, periodic_axes=[0, 1, 2], correlations=[(1, 1), (5, 5)])
draw_correlations(grains[0].real, [(1, 1), (5, 5)], n_spatial=3).savefig(arguments.out / "correlations.png")
print(f"figures in {arguments.out}")
