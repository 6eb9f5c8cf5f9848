# %% [markdown]
# Local strain in copper polycrystals: influence kernels of crystal orientation, in generalized spherical harmonics,
# are calibrated on samples solved by finite elements and tested on samples they never saw.
#
#     python examples/polycrystal_strain.py [--quick] [--out FOLDER]

# %%
import argparse
import time
from pathlib import Path

import numpy as np

from mksdask import GSHBasis, MKSLocalizationModel
from mksdask.datasets import ComponentTexture, ElasticFESimulation, make_polycrystal
from mksdask.tools import draw_coeff, draw_differences, draw_strains_compare

COPPER = (168.4, 121.4, 75.4)  # C11, C12, C44 in GPa: 3.2 times stiffer in one shear than in another
ALUMINIUM = (107.3, 60.9, 28.3)  # 1.2 times
STRAIN = 0.001  # mean ε_xx
STATES = (1, 10, 23, 40)  # harmonics up to l = 0, 4, 6, 8

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="few samples of 11³ voxels")
parser.add_argument("--out", type=Path, default=Path("polycrystal-strain"), help="folder for the figures")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
n_train, n_test, edge, states = (60, 6, 11, STATES[:2]) if arguments.quick else (200, 20, 21, STATES)
size = (edge,) * 3

# %% [markdown]
# Samples with a weak texture: three grains in ten lie about one orientation, the others anywhere. The finer the
# grains, the less of the nonlinear part of the response is left to a first-order model.

# %%
texture = ComponentTexture([0.6, 0.8, 0.3], spread=0.3, weights=[0.3])
cases = [
    ("copper, grains of one voxel", COPPER, edge**3),
    ("copper, grains of 23 voxels", COPPER, edge**3 // 23),
    ("copper, grains of 185 voxels", COPPER, edge**3 // 185),
    ("aluminium, grains of 185 voxels", ALUMINIUM, edge**3 // 185),
]
print(f"{n_train} samples of {edge}³ for calibration, {n_test} for testing; errors as shares of the mean strain")
print(f"{'':<34}{'':>12}" + "".join(f"{f'{n} states':>18}" for n in states))
for title, constants, n_grains in cases:
    X = make_polycrystal(n_train + n_test, size, n_grains, seed=1, texture=texture)
    simulation = ElasticFESimulation(crystal_stiffness=constants, macro_strain=STRAIN, tolerance=1e-6)
    strain = simulation.run(X).strain[..., 0]
    cells = []
    for n_states in states:
        model = MKSLocalizationModel(GSHBasis(n_states, domain="cubic")).fit(X[:n_train], strain[:n_train])
        error = np.abs(model.predict(X[n_train:]) - strain[n_train:]) / STRAIN
        cells.append(f"{error.mean():8.2%} {error.max():8.1%}")
    print(f"{title:<34}{'mean largest':>12}" + "".join(f"{cell:>18}" for cell in cells), flush=True)

# %% [markdown]
# What one prediction costs, and what it looks like: the last case of copper, with the ten harmonics up to l = 4 that a
# tensor of rank four can feel.

# %%
X = make_polycrystal(n_train + 1, size, edge**3 // 185, seed=1, texture=texture)
start = time.perf_counter()
strain = ElasticFESimulation(crystal_stiffness=COPPER, macro_strain=STRAIN, tolerance=1e-6).run(X).strain[..., 0]
solved = time.perf_counter() - start
model = MKSLocalizationModel(GSHBasis(10, domain="cubic")).fit(X[:n_train], strain[:n_train])
start = time.perf_counter()
predicted = model.predict(X[n_train:])[0]
print(
    f"one sample: finite elements {solved / len(X) * 1e3:.0f} ms, kernels {(time.perf_counter() - start) * 1e3:.0f} ms"
)
titles = [f"l = {index.l}, n = {index.n}" for index in model.basis.index_]
shown = [1, 3, 5, 7]
draw_coeff(model.coef_[..., shown].real, [titles[state] for state in shown]).savefig(arguments.out / "kernels.png")
draw_strains_compare(strain[n_train], predicted).savefig(arguments.out / "strains.png")
draw_differences([strain[n_train] - predicted], ["finite elements - MKS"]).savefig(arguments.out / "difference.png")
print(f"figures in {arguments.out}")
