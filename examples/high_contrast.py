# %% [markdown]
# The series beyond first order: how the error of the local strain falls with the order of the series, for phases whose
# stiffness differs by a factor of 1.5 to 50, on fine, coarse and spinodal structures in 2D and 3D, and on real rock.
#
#     python examples/high_contrast.py [berea.tif] [--quick] [--out FOLDER]
#
# For linear elasticity, the finite elements of the package at a loose tolerance are as accurate as the series, and as
# fast. The last lines of the output show it. The series is for a response whose solver is slow or unknown, or that was
# measured: it needs the structures and the fields, and nothing else.

# %%
import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tifffile

from mksdask import MKSLocalizationModel, PrimitiveBasis
from mksdask.datasets import CahnHilliardSimulation, make_cahn_hilliard, make_microstructure, solve_fields
from mksdask.tools.style import PRINT, TWO_COLUMNS

ORDERS = (1, 2, 3, 4, 6, 8)
CONTRASTS = (1.5, 5.0, 10.0, 50.0)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("path", type=Path, nargs="?", help="segmented tomogram, a TIFF of which 0 is pore")
parser.add_argument("--quick", action="store_true", help="fewer and smaller samples, and orders up to 4")
parser.add_argument("--out", type=Path, default=Path("high-contrast"), help="folder for the figure")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
orders = ORDERS[:4] if arguments.quick else ORDERS
contrasts = CONTRASTS[1:3] if arguments.quick else CONTRASTS
flat, solid = ((16, 16), (9, 9, 9)) if arguments.quick else ((48, 48), (21, 21, 21))
n_train, n_test = (60, 10) if arguments.quick else (100, 20)
n_samples = n_train + n_test

# %% [markdown]
# The structures: two phases with grains of 3 and of 8 voxels, and an alloy that separates into two phases. The volume
# fractions differ from sample to sample, so that the data show what they do to the mean strain of a phase.


# %%
def grains(size: tuple[int, ...], grain: int) -> np.ndarray:
    """Grains of two phases, with volume fractions around one half."""
    options = {"grain_size": (grain,) * len(size), "volume_fraction": (0.5, 0.5), "percent_variance": 0.3}
    return make_microstructure(n_samples=n_samples, size=size, seed=grain, **options)


def spinodal(size: tuple[int, ...]) -> np.ndarray:
    """Two phases that separated, by the sign of their concentration."""
    start, _ = make_cahn_hilliard(n_samples=n_samples, size=size, n_steps=0, seed=1)
    # The mean concentration differs from sample to sample, in no order.
    shift = 0.15 * np.cos(np.arange(n_samples)).reshape(-1, *(1,) * len(size))
    alloy = CahnHilliardSimulation(dx=1.0, gamma=0.5, dt=0.1)
    return (alloy.run(0.2 * start + shift, 300).response > 0).astype("uint8")


structures = {
    f"{name} {len(size)}D": function(size)
    for size in (flat, solid)
    for name, function in (
        ("fine", lambda size: grains(size, 3)),
        ("coarse", lambda size: grains(size, 8)),
        ("spinodal", spinodal),
    )
}
if arguments.path:
    rock = tifffile.imread(arguments.path).transpose(2, 1, 0) == 0
    edge, rng = solid[0], np.random.default_rng(0)
    corners = rng.integers(0, np.array(rock.shape) - edge, size=(n_samples, 3))
    structures["Berea 3D"] = np.stack(
        [rock[x : x + edge, y : y + edge, z : z + edge] for x, y, z in corners], dtype="uint8", casting="unsafe"
    )

# %% [markdown]
# For each structure and contrast: finite elements, one fit to the highest order, and the error of each order on samples
# that it never saw. The error is the mean of ``|Δε_xx|`` over the mean strain.


# %%
def solved(X: np.ndarray, contrast: float, tolerance: float = 1e-6) -> np.ndarray:
    """All strain components by finite elements, under a mean strain of 1 along x."""
    moduli = {"elastic_modulus": (1.0, contrast), "poissons_ratio": (0.3, 0.3)}
    return solve_fields(X, **moduli, macro_strain=1.0, tolerance=tolerance).strain


print(f"{n_train} samples for the fit, {n_test} others for the error; mean error of ε_xx in % of the mean strain")
print("structure    contrast  " + "".join(f"order {order:<4d}" for order in orders))
errors = {}
for name, X in structures.items():
    for contrast in contrasts:
        strain = solved(X, contrast)
        model = MKSLocalizationModel(PrimitiveBasis(2), order=orders[-1], alpha=1e-5).fit(X[:n_train], strain[:n_train])
        test, truth = X[n_train:], strain[n_train:, ..., 0]
        errors[name, contrast] = [
            float(np.abs(model.predict(test, order=order)[..., 0] - truth).mean()) for order in orders
        ]
        print(
            f"{name:<12} {contrast:8.1f}  " + "".join(f"{100 * e:<10.2f}" for e in errors[name, contrast]), flush=True
        )

# %% [markdown]
# One picture for all of them.

# %%
n_columns = -(-len(structures) // 2)
plt.rcParams.update(PRINT)
figure, axes = plt.subplots(2, n_columns, figsize=(TWO_COLUMNS, 4.0), sharex=True, sharey=True, layout="constrained")
for axis, name in zip(axes.flat, structures, strict=False):
    for contrast in contrasts:
        axis.plot(orders, 100 * np.array(errors[name, contrast]), "o-", label=f"contrast {contrast:g}")
    axis.set(title=name, yscale="log", xticks=orders)
    axis.grid(visible=True, which="both", alpha=0.3)
for axis in axes.flat[len(structures) :]:
    axis.set_axis_off()
axes.flat[0].legend()
figure.supxlabel("order of the series")
figure.supylabel("mean error of ε_xx, % of the mean strain")
figure.savefig(arguments.out / "high_contrast.png", dpi=300)

# %% [markdown]
# What finite elements do at a loose tolerance, in the time that the series takes.

# %%
test, truth = structures["coarse 2D"][n_train:], solved(structures["coarse 2D"][n_train:], 10.0)[..., 0]
start = time.perf_counter()
loose = solved(test, 10.0, tolerance=0.1)[..., 0]
seconds = time.perf_counter() - start
print(
    f"finite elements at a tolerance of 0.1, coarse 2D, contrast 10: error {100 * np.abs(loose - truth).mean():.2f}%, "
    f"{1000 * seconds / n_test:.1f} ms for each sample"
)
