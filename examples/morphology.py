# %% [markdown]
# What a pore space holds, beyond how much of it there is: whether pores are connected, how far points are from the
# wall, how wide pores are, and how the wall lies. All of it is computed tile by tile, so the volume may exceed memory.
#
#     python examples/morphology.py [--quick] [--out FOLDER]

# %%
import argparse
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mksdask import PrimitiveBasis, create_volume, open_volume
from mksdask.datasets import make_microstructure
from mksdask.stats import (
    cluster_statistics,
    correlate_volume,
    correlate_volume_clusters,
    correlate_volume_surfaces,
    local_thickness,
    pore_sizes,
    radial_average,
    specific_surface,
)
from mksdask.tools.style import styled

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="a small volume")
parser.add_argument("--out", type=Path, default=Path("morphology"), help="folder for the store and the figure")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
edge, grain = (64, 8) if arguments.quick else (128, 12)
cutoff, start = edge // 4, time.perf_counter()

# %% [markdown]
# A periodic volume in a store, with 15 % of pores and voxels of 2.5 µm.

# %%
made = make_microstructure(1, (edge,) * 3, 2, (grain,) * 3, seed=3, volume_fraction=(0.15, 0.85))[0]
create_volume(
    arguments.out / "rock.zarr",
    made.astype("uint8"),
    spacing=2.5,
    units="um",
    phases=["pore", "grain"],
    periodic_axes=[0, 1, 2],
    mode="w",
)
rock = open_volume(arguments.out / "rock.zarr").microstructure

# %% [markdown]
# Connected or not: the cluster function counts pairs of voxels in one cluster only, and the autocorrelation all pairs.

# %%
clusters = cluster_statistics(rock, 0).compute()
of_pores = correlate_volume(rock, PrimitiveBasis(2), cutoff=cutoff, correlations=[(0, 0)])
S2 = radial_average(of_pores).compute().isel(pair=0)
C2 = radial_average(correlate_volume_clusters(rock, 0, cutoff=cutoff)).compute().isel(pair=0)
print(f"{edge}³ voxels, {float((rock == 0).mean()):.1%} pores in {int(clusters.n_clusters)} clusters")
print(
    f"  largest cluster: {float(clusters.largest):.1%}; it percolates along {int(clusters.percolates.sum())} of 3 axes"
)
print(f"  pairs at {float(S2.radius[-1]):.0f} µm in one cluster: {float(C2[-1] / S2[-1]):.1%} of those in pores")

# %% [markdown]
# How far points of the pores are from the wall, and the radius of the largest ball in the pores that covers a point.
# The means of both differ, because most of a ball lies near its surface.

# %%
largest = 2.5 * (grain + 2)
sizes = pore_sizes(rock, 0, largest=largest).compute()
radii = 2.5 * np.arange(1, grain + 1)
thickness = local_thickness(rock, 0, radii).compute()
of_balls = thickness.values[rock.values == 0]
print(
    f"  mean distance to the wall {float(sizes['mean']):.1f} µm, and {float(sizes.beyond):.1%} beyond {largest:.0f} µm"
)
print(f"  mean radius of balls {of_balls.mean():.1f} µm")

# %% [markdown]
# The wall with itself, and with the pores. Far away they come to s² and s φ.

# %%
surfaces = radial_average(correlate_volume_surfaces(rock, 0, cutoff=cutoff)).compute()
s = float(specific_surface(of_pores).compute()[0])
fraction = float(S2[0])
at_last = float(surfaces[-1, 1]) / s / fraction
print(f"  specific surface {s:.4f} 1/µm; F_sv at {float(S2.radius[-1]):.0f} µm over s φ = {at_last:.3f}")


# %%
@styled
def draw():
    """Draw a slice with its local thickness, and what follows from all of the volume."""
    figure = Figure(figsize=(7.09, 5.2), layout="constrained", dpi=150)
    (cut, connected), (size, surface) = figure.subplots(2, 2)
    middle = thickness.isel(z=edge // 2)
    image = cut.imshow(
        np.where(rock.isel(z=edge // 2) == 0, middle, np.nan).T,
        extent=(0, 2.5 * edge, 2.5 * edge, 0),
        cmap="viridis",
        interpolation="none",
    )
    figure.colorbar(image, ax=cut, label="radius of balls / µm")
    cut.set(title="local thickness of pores", xlabel="x / µm", ylabel="y / µm")
    connected.plot(S2.radius, S2, label="both in pores, $S_2$")
    connected.plot(C2.radius, C2, "--", label="both in one cluster, $C_2$")
    connected.axhline(fraction**2, color="0.6", linewidth=0.6)
    connected.set(xlabel="distance / µm", ylabel="probability", ylim=(0, None), title="connected pores")
    connected.legend()
    counts = [float((of_balls == radius).mean()) for radius in radii]
    size.bar(radii, counts, width=2.2, color="0.75", label="radius of balls")
    size.stairs(sizes.density * 2.5, np.append(0.0, sizes.distance), label="distance to the wall")
    size.set(xlabel="size / µm", ylabel="share of the pores in 2.5 µm", title="sizes of pores")
    size.legend()
    surface.plot(surfaces.radius[1:], surfaces[1:, 0] / s**2, label="$F_{ss}$ / s²")
    surface.plot(surfaces.radius[1:], surfaces[1:, 1] / s / fraction, "--", label="$F_{sv}$ / s φ")
    surface.axhline(1, color="0.6", linewidth=0.6)
    surface.set(xlabel="distance / µm", ylabel="surface correlation", title="the wall with itself and with pores")
    surface.legend()
    figure.savefig(arguments.out / "morphology.png")


draw()
print(f"figure in {arguments.out}, all in {time.perf_counter() - start:.1f} s")
