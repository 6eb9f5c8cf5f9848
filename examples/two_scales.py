# %% [markdown]
# Two scales: the result of the fine scale becomes the material of the coarse scale. A linkage predicts the stiffness of
# windows of a large volume from their 2-point statistics. Each window is then one voxel of a coarse cell, and finite
# elements on the coarse cell give its effective stiffness and its fields. Both are compared with finite elements on all
# voxels of the volume, and with mixture rules in place of the linkage.
#
#     python examples/two_scales.py [--quick] [--out FOLDER]

# %%
import argparse
import time
from pathlib import Path

import dask
import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter

from mksdask import MKSHomogenizationModel, PrimitiveBasis, sample_windows
from mksdask.reduction import PCA, KeptFeatures
from mksdask.regression import polynomial_regression
from mksdask.simulation import (
    BoundedRegressor,
    effective_stiffness,
    engineering_constants,
    isotropic_stiffness,
    solve_fields,
    voigt_reuss_bounds,
)
from mksdask.tools.style import PRINT, TWO_COLUMNS

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="a smaller volume, and fewer windows for the linkage")
parser.add_argument("--out", type=Path, default=Path("two-scales"), help="folder for the figure")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
window, n_windows, n_train = (12, 4, 40) if arguments.quick else (16, 6, 240)
edge = window * n_windows
phases = {"elastic_modulus": (1.0, 20.0), "poissons_ratio": (0.35, 0.2)}
tolerance = 1e-4

# %% [markdown]
# The volume: fine fibres along x of a stiff phase, whose fraction varies slowly from place to place. So windows differ
# in their stiffness, and each of them is anisotropic.


# %%
def volume(size: int, seed: int) -> np.ndarray:
    """A periodic volume of two phases, with short fibres along x and a fraction that varies."""
    rng = np.random.default_rng(seed)
    fine = gaussian_filter(rng.standard_normal((size,) * 3), (4.0, 1.0, 1.0), mode="wrap")
    slow = gaussian_filter(rng.standard_normal((size,) * 3), 1.2 * window, mode="wrap")
    return (fine / fine.std() > 0.3 - 0.6 * (slow - slow.mean()) / slow.std()).astype("uint8")


X = volume(edge, seed=0)
windows = sample_windows(X, size=window, chunks=10).compute()
print(f"{edge}³ voxels, {len(windows)} windows of {window}³, fractions of the stiff phase from", end=" ")
print(f"{windows.mean(axis=(1, 2, 3)).min():.2f} to {windows.mean(axis=(1, 2, 3)).max():.2f}")

# %% [markdown]
# The linkage, from windows of other volumes. Its predictions lie between the bounds of Voigt and Reuss, so that each
# coarse voxel is a stable material.

# %%
start = time.perf_counter()
samples = da.concatenate(
    [sample_windows(volume(edge, seed), size=window, n=n_train // 4, seed=seed, chunks=10) for seed in (1, 2, 3, 4)]
)
samples, stiffness = dask.compute(samples, effective_stiffness(samples, **phases, tolerance=tolerance))
lag0 = np.ravel_multi_index((window // 2,) * 3, (window,) * 3)
linkage = MKSHomogenizationModel(
    PrimitiveBasis(2),
    correlations=[(0, 0)],
    periodic_axes=[0, 1, 2],
    dimension_reducer=KeptFeatures(PCA(10), columns=[lag0]),
    property_linker=BoundedRegressor(isotropic_stiffness(**phases), polynomial_regression(1)),
)
linkage.fit(samples, stiffness)
print(f"linkage from {n_train} other windows: {time.perf_counter() - start:.1f} s")

# %% [markdown]
# Three materials for the coarse voxels: what the linkage predicts, the mixture rule of Voigt, Reuss and Hill, and what
# finite elements find for each window. The last one shows how much of the error comes from the two scales themselves.

# %%
start = time.perf_counter()
predicted = linkage.predict(windows)
seconds = {"linkage": time.perf_counter() - start}
fractions = windows.mean(axis=(1, 2, 3))
bounds = voigt_reuss_bounds(np.stack([1 - fractions, fractions], axis=-1), isotropic_stiffness(**phases))
start = time.perf_counter()
solved = effective_stiffness(da.from_array(windows, chunks=(10, -1, -1, -1)), **phases, tolerance=tolerance).compute()
seconds["windows solved"] = time.perf_counter() - start
materials = {"linkage": predicted, "windows solved": solved, "Voigt–Reuss–Hill": 0.5 * (bounds.lower + bounds.upper)}
coarse = (1, n_windows, n_windows, n_windows, 6, 6)
for name, tensors in materials.items():
    error = np.linalg.norm(tensors - solved, axis=(1, 2)).mean() / np.linalg.norm(solved, axis=(1, 2)).mean()
    print(f"stiffness of windows, {name}: {error:.1%} from finite elements", end="")
    print(f", {seconds[name]:.2f} s" if name in seconds else "")

# %% [markdown]
# The coarse cell beside the fine one: effective stiffness, and the strain of each window when the cell is stretched
# across the fibres.

# %%
start = time.perf_counter()
truth = effective_stiffness(X[None], **phases, tolerance=tolerance)[0]
load = (0.0, 1.0, 0.0, 0.0, 0.0, 0.0)
fine = solve_fields(X[None], **phases, macro_strain=load, tolerance=tolerance).strain[0]
print(f"finite elements on {edge}³ voxels: {time.perf_counter() - start:.1f} s")
fine = fine.reshape(*(n for _ in range(3) for n in (n_windows, window)), 6).mean(axis=(1, 3, 5))

fields = {}
print("                    stiffness    E_x / E_y    strain of windows, error of ε_yy (spread of the truth)")
print(f"{'fine voxels':<18} {'':>9} {np.divide(*engineering_constants(truth).young[:2]):12.2f}")
for name, tensors in materials.items():
    start = time.perf_counter()
    given = tensors.reshape(coarse)
    found = effective_stiffness(stiffness=given, tolerance=tolerance)[0]
    fields[name] = solve_fields(stiffness=given, macro_strain=load, tolerance=tolerance).strain[0, ..., 1]
    error = np.linalg.norm(found - truth) / np.linalg.norm(truth)
    ratio = np.divide(*engineering_constants(found).young[:2])
    local = np.abs(fields[name] - fine[..., 1]).mean()
    print(f"{name:<18} {error:9.1%} {ratio:12.2f} {local:14.1%} ({fine[..., 1].std():.1%})", end="   ")
    print(f"{time.perf_counter() - start:.2f} s", flush=True)

# %% [markdown]
# One picture: a section of the volume, the strain of its windows, and the strain that each coarse cell gives.

# %%
plt.rcParams.update(PRINT)
figure, axes = plt.subplots(1, 4, figsize=(TWO_COLUMNS, 1.9), layout="constrained")
middle = n_windows // 2
axes[0].imshow(X[:, :, middle * window + window // 2].T, cmap="Greys")
axes[0].set(title="voxels, stiff dark")
panels = {"fine solution": fine[..., 1], "linkage": fields["linkage"]}
panels |= {"Voigt–Reuss–Hill": fields["Voigt–Reuss–Hill"]}
low, high = np.quantile(fine[:, :, middle, 1], [0, 1])
for axis, (title, field) in zip(axes[1:], panels.items(), strict=True):
    drawn = axis.imshow(field[:, :, middle].T, vmin=low, vmax=high, extent=(0, edge, edge, 0))
    axis.set(title=title)
for axis in axes:
    axis.set(xlabel="x", xticks=[], yticks=[])
axes[0].set(ylabel="y")
figure.colorbar(drawn, ax=axes[1:], label="ε_yy over the mean strain")
figure.savefig(arguments.out / "two_scales.png", dpi=300)
