# %% [markdown]
# How texture varies over a specimen: a real EBSD map is streamed into a store of windows, each window gets orientation
# statistics in generalized spherical harmonics, and their principal components are drawn over the map.
#
#     python examples/ebsd_texture.py map.h5 [--window 16] [--quick] [--out FOLDER]
#
# Takes .h5 and .ang files of EDAX, .cpr with .crc and .ctf files of Oxford.

# %%
import argparse
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mksdask import GSHBasis, MKSStructureAnalysis
from mksdask.importers import import_ebsd
from mksdask.stats import correlate
from mksdask.tools import draw_component_variance, draw_components_scatter, draw_correlations

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("path", type=Path, help="EBSD map")
parser.add_argument("--window", type=int, default=16, help="points along the edge of a window")
parser.add_argument("--quick", action="store_true", help="harmonics up to l = 4 only")
parser.add_argument("--out", type=Path, default=Path("ebsd-texture"), help="folder for the stores and the figures")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
cutoff = arguments.window // 4

# %% [markdown]
# The map as one store, and cut into windows as an ensemble. Points that were not indexed have confidence 0 and no
# orientation; statistics do not see them.

# %%
start = time.perf_counter()
whole = import_ebsd(arguments.path, arguments.out / "map.zarr", mode="w")
windows = import_ebsd(arguments.path, arguments.out / "windows.zarr", window=arguments.window, mode="w")
print(f"{arguments.path.name} in two stores after {time.perf_counter() - start:.2f} s")
step = float(whole.x[1] - whole.x[0])
indexed = float((whole.phase > 0).mean())
names, groups = whole.phase.attrs["phases"], whole.phase.attrs["laue_groups"]
print(f"{whole.sizes['x']} × {whole.sizes['y']} points, step {step:g} µm, {indexed:.2%} indexed")
print(f"{whole.microstructure.attrs['frame']}: {whole.microstructure.attrs['conversion']}")
phase = int(np.bincount(whole.phase.values.ravel())[1:].argmax()) + 1
print(f"phase {phase}: {names[phase]}, {groups[phase]}")
basis = GSHBasis(None, domain=groups[phase], max_degree=4 if arguments.quick else 6)

# %% [markdown]
# Texture coefficients of the whole map: means of the harmonics, weighted by confidence. Their sum of squares, each over
# 2l + 1, is the texture index, 1 for none.

# %%
confidence = whole.confidence_index.values * (whole.phase.values == phase)
harmonics = basis.discretize(np.nan_to_num(whole.microstructure.values)[None])[0]
coefficients = np.tensordot(confidence, harmonics, axes=2) / confidence.sum()
strengths = np.abs(coefficients) ** 2 / [2 * index.l + 1 for index in basis.index_]
for degree in sorted({index.l for index in basis.index_}):
    share = sum(s for s, index in zip(strengths, basis.index_, strict=True) if index.l == degree)
    print(f"  l = {degree}: {share:.3f}")
print(f"texture index up to l = {basis.index_[-1].l}: {strengths.sum():.3f}")

# %% [markdown]
# Orientation statistics of each window: the texture coefficients, pairs (0, h), and the autocorrelations (h, h) up to a
# quarter of the window, which know grain size and shape too.

# %%
weights = windows.confidence_index * (windows.phase == phase)
share = (weights > 0).mean(("x", "y")).values
kept = np.flatnonzero(share > 0.5)
states = basis.states[1:]
pairs = [(0, h) for h in states] + [(h, h) for h in states]
analysis = MKSStructureAnalysis(basis, correlations=pairs, cutoff=cutoff, n_components=min(6, len(kept) - 1))
start = time.perf_counter()
scores = analysis.fit_transform(
    windows.microstructure.isel(sample=kept), confidence_index=weights.isel(sample=kept).astype("float32")
)
scores = np.asarray(scores)
variance = analysis.dimension_reducer_.explained_variance_ratio_
print(
    f"{len(kept)} of {len(share)} windows of {arguments.window}², {len(pairs)} pairs, up to lag {cutoff}: "
    f"{time.perf_counter() - start:.1f} s; the first components explain {', '.join(f'{v:.1%}' for v in variance[:3])}"
)

# %%
columns, rows = windows.microstructure.attrs["windows"]
fig = Figure(figsize=(14, 3), layout="constrained", dpi=150)
panels = fig.subplots(1, 4)
edge = arguments.window * step
field = np.where(confidence > 0, harmonics[..., basis.index_.index((4, 0, 0))].real, np.nan)
pictures = [(f"{names[phase]}, l = 4, n = 0", field, whole.sizes["x"] * step, whole.sizes["y"] * step)]
for component in range(min(3, scores.shape[1])):
    over_map = np.full(columns * rows, np.nan)
    over_map[kept] = scores[:, component]
    picture = over_map.reshape(rows, columns).T
    pictures.append((f"PC {component + 1}, {variance[component]:.0%}", picture, columns * edge, rows * edge))
for panel, (title, picture, width, height) in zip(panels, pictures, strict=False):
    # y runs down, as on the microscope's screen.
    image = panel.imshow(picture.T, extent=(0, width, height, 0), cmap="viridis", interpolation="none")
    panel.set(title=title, xlabel="x / µm", ylabel="y / µm")
    fig.colorbar(image, ax=panel, shrink=0.7)
fig.savefig(arguments.out / "texture_map.png")
draw_component_variance(variance).savefig(arguments.out / "variance.png")
draw_components_scatter([scores[:, :2]], ["windows"]).savefig(arguments.out / "components.png")
harmonic = basis.index_.index((4, 0, 0))
map_statistics = correlate(
    whole.microstructure.expand_dims("sample"),
    basis,
    confidence_index=confidence[None],
    correlations=[(harmonic, harmonic)],
    cutoff=min(whole.sizes["x"], whole.sizes["y"]) // 4,
)
draw_correlations(map_statistics[0].real).savefig(arguments.out / "correlations.png")
print(f"figures in {arguments.out}")
