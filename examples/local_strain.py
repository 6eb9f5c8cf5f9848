# %% [markdown]
# Local strain by localization: section 5.2 of the paper behind PyMKS (Brough, Wheeler, Kalidindi, 2017). Influence
# kernels of a three-phase material are calibrated on delta microstructures, and predict the strain field of a random
# one, beside finite elements.
#
#     python examples/local_strain.py [--quick] [--out FOLDER]

# %%
import argparse
import time
from pathlib import Path

import numpy as np

from mksdask import MKSLocalizationModel, PrimitiveBasis
from mksdask.datasets.responses import make_elastic_FE_strain_delta, make_elastic_FE_strain_random
from mksdask.tools import (
    draw_coeff,
    draw_differences,
    draw_microstructure_strain,
    draw_microstructures,
    draw_strains,
    draw_strains_compare,
)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="a smaller domain to scale up to")
parser.add_argument("--out", type=Path, default=Path("local-strain"), help="folder for the figures")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# Six delta microstructures, one voxel of a phase in the middle of another, and their strain fields from finite
# elements: plane strain, periodic, stretched by 2 % along x.

# %%
elastic_modulus = (80, 100, 120)
poissons_ratio = (0.3, 0.3, 0.3)
macro_strain = 0.02
size = (21, 21)
X_cal, strain_cal = make_elastic_FE_strain_delta(
    elastic_modulus=elastic_modulus, poissons_ratio=poissons_ratio, size=size, macro_strain=macro_strain
)
titles = [f"{inclusion} in {matrix}" for matrix in range(3) for inclusion in range(3) if inclusion != matrix]
draw_microstructures(X_cal[::2], titles[::2], phases=["80 GPa", "100 GPa", "120 GPa"]).savefig(
    arguments.out / "deltas.png"
)
draw_strains(strain_cal[::2], titles[::2]).savefig(arguments.out / "delta_strains.png")

# %% [markdown]
# Influence kernels. The model is first order, finite elements are not linear in contrast: what is left of the
# calibration data is the second order, and falls as the contrast squared.

# %%
p_basis = PrimitiveBasis(n_states=3, domain=[0, 2])
model = MKSLocalizationModel(basis=p_basis)
model.fit(X_cal, strain_cal)
draw_coeff(model.coef_).savefig(arguments.out / "kernels.png")
misfit = np.abs(model.predict(X_cal) - strain_cal).max() / macro_strain
print(f"calibration data are reproduced to {misfit:.1e} of the mean strain")
assert misfit < 2e-3

# %% [markdown]
# A microstructure the model never saw.

# %%
X_test, strain_test = make_elastic_FE_strain_random(
    n_samples=1, elastic_modulus=elastic_modulus, poissons_ratio=poissons_ratio, size=size, macro_strain=macro_strain
)
strain_pred = model.predict(X_test)
error = np.abs(strain_pred - strain_test) / strain_test.mean()
print(f"random {size}: ε_xx from {strain_test.min():.4f} to {strain_test.max():.4f} by finite elements")
print(f"mean error {error.mean():.2%}, largest {error.max():.2%} of the mean strain")
draw_microstructure_strain(X_test[0], strain_test[0]).savefig(arguments.out / "microstructure.png")
draw_strains_compare(strain_test[0], strain_pred[0]).savefig(arguments.out / "strains.png")
draw_differences([strain_test[0] - strain_pred[0]], ["finite elements - MKS"]).savefig(arguments.out / "difference.png")

# %% [markdown]
# The same kernels on a larger domain. Calibration stays as cheap as it was.

# %%
larger = (63, 63) if arguments.quick else (210, 210)
X_large, strain_large = make_elastic_FE_strain_random(
    n_samples=1, elastic_modulus=elastic_modulus, poissons_ratio=poissons_ratio, size=larger, macro_strain=macro_strain
)
model.resize_coeff(larger).predict(X_large[:1])  # warm up
start = time.perf_counter()
strain_pred = model.predict(X_large)
seconds = time.perf_counter() - start
error = np.abs(strain_pred - strain_large) / strain_large.mean()
print(f"random {larger} in {1e3 * seconds:.0f} ms: mean error {error.mean():.2%}, largest {error.max():.2%}")
draw_strains_compare(strain_large[0], strain_pred[0]).savefig(arguments.out / "strains_large.png")
print(f"figures in {arguments.out}")
