# %% [markdown]
# Effective stiffness by homogenization: section 5.1 of the paper behind PyMKS (Brough, Wheeler, Kalidindi, 2017),
# on true finite-element results. 1200 two-phase microstructures of six grain shapes, and a linkage from their 2-point
# statistics to C_xxxx.
#
#     python examples/effective_stiffness.py [--quick] [--out FOLDER]

# %%
import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, train_test_split

from mksdask import MKSHomogenizationModel, PrimitiveBasis
from mksdask.datasets.responses import make_elastic_stiffness
from mksdask.stats import correlate
from mksdask.tools import (
    draw_component_variance,
    draw_components_scatter,
    draw_correlations,
    draw_goodness_of_fit,
    draw_gridscores,
    draw_gridscores_matrix,
    draw_learning_curves,
    draw_microstructures,
)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="120 samples and a small search")
parser.add_argument("--out", type=Path, default=Path("effective-stiffness"), help="folder for the figures")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
start = time.perf_counter()

# %% [markdown]
# Microstructures and their stiffness. Plane strain, periodic, one Q1 element a voxel.

# %%
sample_size = 20 if arguments.quick else 200
grain_size = [(15, 2), (2, 15), (7, 7), (8, 3), (3, 9), (2, 2)]
X, y = make_elastic_stiffness(
    n_samples=[sample_size] * 6,
    size=(21, 21),
    grain_size=grain_size,
    elastic_modulus=(310, 200),
    poissons_ratio=(0.28, 0.3),
    macro_strain=0.001,
    seed=0,
)
print(
    f"{len(X)} samples solved after {time.perf_counter() - start:.1f} s, C_xxxx from {y.min():.1f} to {y.max():.1f} GPa"
)
draw_microstructures(X[::sample_size], [str(g) for g in grain_size]).savefig(arguments.out / "microstructures.png")

# %% [markdown]
# Their 2-point statistics.

# %%
p_basis = PrimitiveBasis(n_states=2, domain=[0, 1])
correlations = [(0, 0), (1, 1)]
X_corr = correlate(X[:1], p_basis, periodic_axes=[0, 1], correlations=correlations)
draw_correlations(X_corr[0], correlations).savefig(arguments.out / "correlations.png")

# %% [markdown]
# Search for the degree of the polynomial and the number of components. `share` computes statistics once for all
# candidates and folds, and the principal components of a fold serve every candidate.

# %%
model = MKSHomogenizationModel(p_basis, periodic_axes=[0, 1], correlations=correlations, dtype="float64")
shared = model.share(X)
train, test = train_test_split(np.arange(len(X)), test_size=0.2, random_state=3)
y_train, y_test = y[train], y[test]
params_to_tune = {"degree": np.arange(1, 4), "n_components": np.arange(2, 12)}
if arguments.quick:
    params_to_tune = {"degree": np.arange(1, 3), "n_components": np.array([2, 5])}
gs = GridSearchCV(model, params_to_tune).fit(shared[train], y_train)
draw_gridscores_matrix(gs, ["n_components", "degree"], score_label="R²").savefig(arguments.out / "search_matrix.png")
draw_gridscores(gs.cv_results_, "n_components", by="degree", score_label="R²").savefig(arguments.out / "search.png")
model = gs.best_estimator_
print(f"search done after {time.perf_counter() - start:.1f} s: {gs.best_params_}, R² = {gs.best_score_:.5f}")
print(f"polynomial: test R² = {model.score(X[test], y_test):.5f}")

# %%
draw_component_variance(model.dimension_reducer_.explained_variance_ratio_).savefig(arguments.out / "variance.png")
draw_goodness_of_fit(
    [y_train, model.predict(shared[train])], [y_test, model.predict(X[test])], quantity=r"$C_{xxxx}$ / GPa"
).savefig(arguments.out / "goodness_of_fit.png")
draw_components_scatter(
    [model.reduced_fit_data[:, :3], model.reduced_predict_data[:, :3]], ["training", "test"], legend_outside=True
).savefig(arguments.out / "scores.png")

# %% [markdown]
# A kernel linkage on more components chooses its own parameters, and says how sure it is: the interval of 90% is
# expected to hold that share of the samples that it has not seen.

# %%
n_components = 20 if arguments.quick else 60
kernel = clone(model).set_params(property_linker="kernel", degree=None, n_components=n_components)
kernel.fit(shared[train], y_train)
mean, spread = kernel.predict(X[test], return_std=True)
covered = np.mean(np.abs(mean - y_test) < 1.645 * spread)
print(f"kernel: test R² = {kernel.score(X[test], y_test):.5f}, 90% intervals hold {covered:.0%} of {len(test)} samples")

# %% [markdown]
# How many simulations does each linkage need?

# %%
linkages = {f"polynomial of degree {d}": clone(model).set_params(degree=d) for d in (1, 2, 3)}
sizes = [0.3, 0.6, 1.0] if arguments.quick else [0.1, 0.2, 0.4, 0.7, 1.0]
curves = draw_learning_curves(
    linkages | {"kernel": kernel}, shared[train], y_train, train_sizes=sizes, loss=True, score_label="1 - R²"
)
curves.savefig(arguments.out / "learning_curves.png")
print(f"figures in {arguments.out}, all in {time.perf_counter() - start:.1f} s")
