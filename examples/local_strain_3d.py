# %% [markdown]
# Local strain in real rock: influence kernels calibrated on two samples of 21³ voxels predict all six components of the
# strain in a 200³ piece of a tomogram, beside finite elements run on that very piece.
#
#     python examples/local_strain_3d.py berea.tif [--quick] [--out FOLDER]
#
# The pores are filled with something two thirds as stiff as the grains: a first-order model is for moderate contrast.

# %%
import argparse
import time
from pathlib import Path

import numpy as np
import tifffile

from mksdask import MKSLocalizationModel, PrimitiveBasis
from mksdask.datasets import ElasticFESimulation
from mksdask.datasets.responses import make_elastic_FE_strain_delta
from mksdask.tools import draw_coeff, draw_differences, draw_microstructures, draw_strains_compare

MODULI = (60.0, 40.0)  # GPa: grain, filled pore
POISSONS = (0.2, 0.3)
STRAIN = 0.001  # mean ε_xx
COMPONENTS = ("xx", "yy", "zz", "yz", "xz", "xy")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("path", type=Path, help="segmented tomogram, a TIFF of which 0 is pore")
parser.add_argument("--quick", action="store_true", help="a piece of 48³, calibration at 11³")
parser.add_argument("--out", type=Path, default=Path("local-strain-3d"), help="folder for the figures")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
edge, calibrations = (48, (11, 21)) if arguments.quick else (200, (21, 43, 85))

# %% [markdown]
# The rock, and its strain by finite elements. TIFF pages are (z, y, x); the package's order is (x, y, z).

# %%
volume = tifffile.imread(arguments.path).transpose(2, 1, 0)
rock = (volume[:edge, :edge, :edge] == 0).astype(np.uint8)[None]
print(f"{arguments.path.name}: {edge}³ voxels, porosity {rock.mean():.2%}")
draw_microstructures(rock, ["Berea sandstone"], phases=["grain", "pore"]).savefig(arguments.out / "rock.png")
phases = {"elastic_modulus": MODULI, "poissons_ratio": POISSONS, "macro_strain": STRAIN}
start = time.perf_counter()
truth = ElasticFESimulation(**phases, tolerance=1e-5).run(rock).strain[0].astype(np.float32)
print(f"finite elements: {time.perf_counter() - start:.1f} s")

# %% [markdown]
# Calibration sees nothing of the rock: a pore voxel in grain, and a grain voxel in pore. The kernels are then padded
# with zeros to the size of the rock. Elastic interactions fall off slowly, as the inverse cube of the distance, so what
# limits the prediction is the size of the calibration samples beside that of the rock's features (its correlation
# length is 16 voxels): the second and third calibration show it.

# %%
for size in calibrations:
    start = time.perf_counter()
    X_cal, strain_cal = make_elastic_FE_strain_delta(**phases, size=(size,) * 3, component=None)
    # float32 responses: kernels and predictions in float32.
    model = MKSLocalizationModel(PrimitiveBasis(2)).fit(X_cal, strain_cal.astype(np.float32))
    calibrated = time.perf_counter()
    draw_coeff(model.coef_[..., 0]).savefig(arguments.out / f"kernels_{size}.png")
    drawn = time.perf_counter()
    predicted = model.resize_coeff(rock.shape[1:]).predict(rock)[0]
    print(
        f"calibrated at {size}³ in {calibrated - start:.1f} s, six components of the rock predicted in "
        f"{time.perf_counter() - drawn:.1f} s"
    )
    for index, name in enumerate(COMPONENTS):
        difference = np.abs(predicted[..., index] - truth[..., index], dtype=np.float64)
        spread = truth[..., index].std(dtype=np.float64)
        r2 = 1 - np.mean(difference**2) / spread**2
        # Errors as shares of the imposed strain, beside the spread of the field itself.
        print(
            f"  {name}: mean error {difference.mean() / STRAIN:.2%}, largest {difference.max() / STRAIN:.1%}, "
            f"spread of the field {spread / STRAIN:.1%}, R² = {r2:.3f}"
        )
    draw_strains_compare(truth[..., 0], predicted[..., 0]).savefig(arguments.out / f"strains_{size}.png")
    draw_differences([truth[..., 0] - predicted[..., 0]], ["finite elements - MKS"]).savefig(
        arguments.out / f"difference_{size}.png"
    )
print(f"figures in {arguments.out}")
