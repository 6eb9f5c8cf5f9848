# %% [markdown]
# Texture of a drawn wire. The crystals of a simulated copper wire have two fibres along its axis, 111 and 100, and some
# have any orientation. Texture coefficients give back the orientation distribution, pole figures and the texture index,
# and neighbouring voxels tell how crystals are misoriented.
#
#     python examples/texture.py [--quick] [--out FOLDER]

# %%
import argparse
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.special import eval_legendre

from mksdask import GSHBasis
from mksdask.datasets import FibreTexture, make_polycrystal
from mksdask.texture import misorientation_density, pole_figure, texture_coefficients, texture_index
from mksdask.tools import draw_misorientations, draw_odf, draw_pole_figure, ipf_colours
from mksdask.tools.style import styled

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="few grains")
parser.add_argument("--out", type=Path, default=Path("texture"), help="folder for the figures")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
edge, n_grains = (32, 600) if arguments.quick else (64, 4000)
start = time.perf_counter()

# %% [markdown]
# Two volumes, one of each fibre, whose axis is x. They are mixed voxel by voxel only where coefficients are averaged,
# because a texture does not tell where a crystal lies.

# %%
spread, shares = np.deg2rad(6), {"111": 0.6, "100": 0.3, "random": 0.1}
fibres = [FibreTexture(axis, (1, 0, 0), spread=spread) for axis in ((1, 1, 1), (1, 0, 0))]
volumes = [make_polycrystal(1, (edge,) * 3, n_grains, seed=1, texture=texture) for texture in (*fibres, None)]
basis = GSHBasis(None, domain="cubic", max_degree=20)
coefficients = np.array([texture_coefficients(X, basis)[0] for X in volumes])
smooth = np.array([texture_coefficients(X, basis, halfwidth=np.deg2rad(8))[0] for X in volumes])
mixed, mixed_smooth = (np.array([*shares.values()]) @ rows for rows in (coefficients, smooth))
print(f"{len(basis.states)} functions up to l = {basis.index_[-1].l}, {n_grains} grains each")
for name, row in zip((*shares, "mixed"), (*coefficients, mixed), strict=True):
    print(f"  texture index {name}: {float(texture_index(row, basis)):.2f}")

# %% [markdown]
# Along the axis of the wire, the pole figure of a fibre is known in closed form: a series of Legendre polynomials, each
# with the factor that the scatter of the orientations gives it.

# %%
angles = np.deg2rad(np.arange(0, 91, 1.0))
tilted = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=-1)
turns = np.deg2rad(np.arange(0, 360, 10.0))
around = np.stack(
    np.broadcast_arrays(
        np.cos(angles)[:, None], np.sin(angles)[:, None] * np.cos(turns), np.sin(angles)[:, None] * np.sin(turns)
    ),
    axis=-1,
)
found = pole_figure(coefficients[0], basis, (1, 1, 1), around).mean(axis=-1)
# A rotation vector with this standard deviation in each component diffuses for a time of spread² / 2.
degrees = np.arange(0, 21, 2)
scatter = np.exp(-degrees * (degrees + 1) * spread**2 / 2)
corners = np.array([(a, b, 1) for a in (-1, 1) for b in (-1, 1)]) / np.sqrt(3)
expected = sum(
    (2 * l + 1) * factor * eval_legendre(l, np.cos(angles)) * eval_legendre(l, corners @ corners[-1]).mean()
    for l, factor in zip(degrees, scatter, strict=True)  # noqa: E741
)
print(f"pole figure 111 along the fibre 111: {found[0]:.1f} times random, closed form {expected[0]:.1f}")

# %% [markdown]
# Neighbours in a fibre are misoriented less than random crystals are.

# %%
boundaries = [misorientation_density(X, periodic_axes=[0, 1, 2]).isel(sample=0) for X in volumes]
for name, each in zip(shares, boundaries, strict=True):
    print(
        f"  mean misorientation {name}: {np.rad2deg(float(each['mean'])):.1f}° at {float(each.boundaries):.0%} of faces"
    )


# %%
@styled
def draw():
    """Draw pole figures, a slice of the wire, the closed form, and misorientations."""
    figure = Figure(figsize=(7.09, 4.9), layout="constrained", dpi=150)
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    draw_pole_figure(mixed_smooth, basis, ax=list(above.subplots(1, 3)))
    cut, curve, density = below.subplots(1, 3)
    cut.imshow(ipf_colours(volumes[0][0, :, :, 0], direction=(1, 0, 0)).swapaxes(0, 1), interpolation="none")
    cut.set(title="111 fibre, colours along x", xlabel="x / voxel", ylabel="y / voxel")
    curve.plot(np.rad2deg(angles), found, label="from coefficients")
    curve.plot(np.rad2deg(angles), expected, "--", label="closed form")
    curve.set(xlabel="angle from x / °", ylabel="multiples of random", title="pole figure 111 of the fibre 111")
    curve.legend()
    draw_misorientations(boundaries[0], title="misorientations in the fibre", ax=density)
    figure.savefig(arguments.out / "texture.png")


draw()
draw_odf(mixed_smooth, basis, np.deg2rad([0, 45])).savefig(arguments.out / "odf.png")
print(f"figures in {arguments.out}, all in {time.perf_counter() - start:.1f} s")
