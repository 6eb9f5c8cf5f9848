# %% [markdown]
# Plasticity by data: local strain of a material of two phases that yield and harden, at one load step. A small solver
# of plasticity is made of the elastic one, and the series of localization learns from its fields. Where the phases
# hardly harden and their strengths differ, strain gathers in bands: first order misses them, and higher orders stop at
# a larger error. At other loads, the series fails, because it takes the response as proportional to the load. The
# output and the figures show both.
#
#     python examples/plastic_localization.py [--quick] [--out FOLDER]

# %%
import argparse
import time
from pathlib import Path

import dask.array as da
import matplotlib.pyplot as plt
import numpy as np

from mksdask import MKSLocalizationModel, PrimitiveBasis
from mksdask.datasets import make_microstructure
from mksdask.simulation import solve_fields
from mksdask.tools.style import PRINT, TWO_COLUMNS

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="fewer and smaller samples, and orders up to 4")
parser.add_argument("--out", type=Path, default=Path("plastic-localization"), help="folder for the figures")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
edge, n_train, n_test = (20, 60, 10) if arguments.quick else (32, 200, 20)
orders = (1, 2, 3, 4) if arguments.quick else (1, 2, 3, 4, 6, 8)

# %% [markdown]
# The material: both phases have the same elasticity, and differ in their yield stress. In units of the soft phase, the
# yield strain is 1. Beyond it, the stress grows with a power m of the strain: ``σ = σ_y (ε/ε_y)^m``. The mean strain
# along x is ten times the yield strain, and the fields are in plane strain.

# %%
SHEAR, BULK = 1.0 / 3.0, 0.75  # so that the yield stress of the soft phase is 1 too
MACRO = 10.0
CASES = {  # yield stress of the hard phase over that of the soft one, and the exponent m
    "σ_y 1.5, m 0.5": (1.5, 0.5),
    "σ_y 1.5, m 0.05": (1.5, 0.05),
    "σ_y 5, m 0.5": (5.0, 0.5),
    "σ_y 5, m 0.05": (5.0, 0.05),
}


def equivalent_strain(strain: np.ndarray) -> np.ndarray:
    """The strain of von Mises, of components xx, yy, xy in plane strain."""
    xx, yy, xy = np.moveaxis(strain, -1, 0)
    mean = (xx + yy) / 3.0
    return np.sqrt(2.0 / 3.0 * ((xx - mean) ** 2 + (yy - mean) ** 2 + mean**2 + 0.5 * xy**2))


# %% [markdown]
# The solver: at a given load, the response of the deformation theory of plasticity is that of an elastic material whose
# shear modulus follows from the strain of each voxel. So the elastic solver is called with moduli of each voxel until
# the moduli belong to the strain.


# %%
def solve_plasticity(X: np.ndarray, yield_stress: float, m: float, load: float = MACRO) -> np.ndarray:
    """All strain components, (n_samples, *spatial, 3), by secant iterations over the elastic solver."""
    strength = np.array([1.0, yield_stress])[X]
    shear = np.full(X.shape, SHEAR)
    for _ in range(100):
        young = 9.0 * BULK * shear / (3.0 * BULK + shear)
        poisson = (3.0 * BULK - 2.0 * shear) / (2.0 * (3.0 * BULK + shear))
        young, poisson = (da.from_array(field, chunks=(10, -1, -1)) for field in (young, poisson))
        response = solve_fields(elastic_modulus=young, poissons_ratio=poisson, macro_strain=load, tolerance=1e-4)
        strain = response.strain.compute()
        equivalent = equivalent_strain(strain)
        # The yield strain of a phase is its strength, because 3 · SHEAR is 1.
        stress = np.where(equivalent > strength, strength * (equivalent / strength) ** m, equivalent)
        secant = stress / (3.0 * equivalent)
        change = np.abs(secant / shear - 1.0).max()
        shear = secant
        if change < 2e-3:
            return strain
    msg = f"the moduli still change by {change:.1e}"
    raise ArithmeticError(msg)


n_samples = n_train + n_test
X = make_microstructure(n_samples, (edge, edge), grain_size=4, volume_fraction=(0.5, 0.5), percent_variance=0.2, seed=1)

# %% [markdown]
# For each case: the fields, one fit to the highest order, and the error of each order on samples that it never saw: the
# mean of ``|Δε_xx|`` over the mean strain, and how much of the largest strain of each sample it finds.

# %%
errors, fields, models = {}, {}, {}
print(f"{n_train} samples of {edge}² for the fit, {n_test} others for the error")
for name, (yield_stress, m) in CASES.items():
    start = time.perf_counter()
    strain = solve_plasticity(X, yield_stress, m) / MACRO
    spread, seconds = strain[..., 0].std(), time.perf_counter() - start
    print(f"{name}: solved in {seconds:.1f} s, spread of ε_xx {100 * spread:.0f}% of its mean")
    model = MKSLocalizationModel(PrimitiveBasis(2), order=orders[-1], alpha="gcv").fit(X[:n_train], strain[:n_train])
    models[name], truth = model, strain[n_train:, ..., 0]
    found = {order: model.predict(X[n_train:], order=order)[..., 0] for order in orders}
    errors[name] = [100 * np.abs(field - truth).mean() for field in found.values()]
    peaks = [100 * (field.max(axis=(1, 2)) / truth.max(axis=(1, 2))).mean() for field in found.values()]
    fields[name] = truth[0], found[1][0], found[orders[-1]][0]
    print("  order     " + "".join(f"{order:>8}" for order in orders))
    print("  error %   " + "".join(f"{error:8.2f}" for error in errors[name]))
    print("  largest % " + "".join(f"{peak:8.0f}" for peak in peaks), flush=True)

# %% [markdown]
# The same series at other loads: what it learned at one mean strain, it says of all. Around the yield strain, the
# phases differ little, and the true field is smoother.

# %%
loads = (1.0, 2.0, 5.0, 10.0, 20.0)
other = {}
for name in list(CASES)[2:]:
    truths = [solve_plasticity(X[n_train:], *CASES[name], load)[..., 0] / load for load in loads]
    found = models[name].predict(X[n_train:])[..., 0]
    other[name] = [100 * np.abs(found - truth).mean() for truth in truths]
    print(
        f"{name}, the series that was fitted at 10\n  mean strain / yield strain"
        + "".join(f"{load:>8g}" for load in loads)
    )
    print("  error %                   " + "".join(f"{error:8.2f}" for error in other[name]), flush=True)

# %% [markdown]
# The errors, and the fields of one sample in the best and in the worst case.

# %%
plt.rcParams.update(PRINT)
figure, (axis, beside) = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 3.0), sharey=True, layout="constrained")
for name, values in errors.items():
    (line,) = axis.plot(orders, values, "o-", label=name)
    if name in other:
        beside.plot(loads, other[name], "o-", color=line.get_color(), label=name)
axis.set(yscale="log", xlabel="order of the series", ylabel="mean error of ε_xx, % of the mean strain", xticks=orders)
beside.set(
    xscale="log", xlabel="mean strain over the yield strain", xticks=loads, xticklabels=[f"{n:g}" for n in loads]
)
axis.set(title="load of the fit")
beside.set(title="other loads, fit at 10")
beside.minorticks_off()
for panel in (axis, beside):
    panel.grid(visible=True, which="both", alpha=0.3)
    panel.legend()
figure.savefig(arguments.out / "plastic_errors.png", dpi=300)

shown = [min(errors, key=lambda name: errors[name][-1]), max(errors, key=lambda name: errors[name][-1])]
figure, axes = plt.subplots(2, 4, figsize=(TWO_COLUMNS, 3.4), layout="constrained")
for row, name in zip(axes, shown, strict=True):
    truth, first, last = fields[name]
    row[0].imshow(X[n_train].T, cmap="Greys")
    row[0].set(ylabel=name)
    for panel, field in zip(row[1:], (truth, first, last), strict=True):
        drawn = panel.imshow(field.T, vmin=truth.min(), vmax=truth.max())
    figure.colorbar(drawn, ax=row, label="ε_xx over the mean strain")
titles = ("phases, hard dark", "solver", "order 1", f"order {orders[-1]}")
for panel, title in zip(axes[0], titles, strict=True):
    panel.set(title=title)
for panel in axes.flat:
    panel.set(xticks=[], yticks=[])
figure.savefig(arguments.out / "plastic_fields.png", dpi=300)
