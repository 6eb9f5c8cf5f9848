# %% [markdown]
# Structures for points among scores. Principal components describe an ensemble by a few numbers; this example goes
# the other way, from the numbers to structures: a walk through the space of scores, and structures made on the way
# from the statistics that belong to each point. At the end stands what 2-point statistics cannot tell.
#
#     python examples/reconstruction.py [--quick] [--out FOLDER]

# %%
import argparse
import time
from pathlib import Path

import numpy as np

from mksdask import MKSStructureAnalysis, PrimitiveBasis
from mksdask.datasets import effective_stiffness, make_microstructure
from mksdask.descriptors import ShapeDescriptors
from mksdask.stats import correlate, reconstruct
from mksdask.tools import draw_components_scatter, draw_microstructures

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="small structures")
parser.add_argument("--out", type=Path, default=Path("reconstruction"), help="folder for the figures")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)
edge, n_made = (48, 6) if arguments.quick else (128, 20)
start = time.perf_counter()
PAIRS, PERIODIC = [(1, 1)], [0, 1]

# %% [markdown]
# An ensemble of structures with grains of three shapes, and volume fractions from 0.3 to 0.5.

# %%
shapes = {"round": (edge / 8, edge / 8), "long": (edge / 4, edge / 16), "fine": (edge / 16, edge / 16)}
X = np.concatenate(
    [
        make_microstructure(1, (edge, edge), 2, shape, seed=10 * number + i, volume_fraction=(1 - fraction, fraction))
        for number, shape in enumerate(shapes.values())
        for i, fraction in enumerate(np.linspace(0.3, 0.5, 10))
    ]
)
options = {"periodic_axes": PERIODIC, "correlations": PAIRS}
analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=5, **options).fit(X)
scores = analysis.transform(X)

# %% [markdown]
# A straight way from a sample of long grains to one of fine grains, at the same volume fraction. Statistics of a point
# on the way are a mixture of both, and a structure that has them need not exist; the error says how near one comes.
# Scores of the structures that were made show that they lie where they should. (The first component is the volume
# fraction.)

# %%
way = np.linspace(scores[15], scores[25], 4)
wanted = analysis.inverse_transform(way)
made = [
    reconstruct(f, periodic_axes=PERIODIC, correlations=PAIRS, tolerance=0.01, max_iterations=4000, seed=i, chunks=1)
    for i, f in enumerate(wanted)
]
made = [structure.compute() for structure in made]
walked = np.concatenate([structure.microstructure for structure in made])
reached = analysis.transform(walked)
print(f"{edge}² voxels; the ensemble spans {np.ptp(scores[:, 1]):.2f} along PC 2")
for number, structure in enumerate(made):
    print(
        f"  step {number}: error {float(structure.error[0, 0]):.2%} of f(0) - f(∞) after "
        f"{int(structure.iterations[0])} evaluations; PC 2 {reached[number, 1]:+.2f}, wanted {way[number, 1]:+.2f}"
    )
draw_microstructures(walked, [f"step {number}" for number in range(4)]).savefig(arguments.out / "walk.png")
draw_components_scatter(
    [*(scores[10 * i : 10 * i + 10, 1:3] for i in range(3)), reached[:, 1:3]],
    [*shapes, "made"],
    component_labels=["PC 2", "PC 3"],
).savefig(arguments.out / "scores.png")

# %% [markdown]
# How much of a property do the statistics fix? Structures with the statistics of one sample, their effective stiffness
# at contrast 10, and their clusters.

# %%
original = X[5:6]
again = reconstruct(
    correlate(original, PrimitiveBasis(2), **options)[0],
    periodic_axes=PERIODIC,
    correlations=PAIRS,
    tolerance=0.01,
    n_samples=n_made,
    chunks=1,
).compute()
both = np.concatenate([original, again.microstructure])
stiffness = effective_stiffness(both, elastic_modulus=(1.0, 10.0), poissons_ratio=(0.3, 0.3))[:, 0, 0]
spread = effective_stiffness(X[:10], elastic_modulus=(1.0, 10.0), poissons_ratio=(0.3, 0.3))[:, 0, 0]
shape = ShapeDescriptors(2, descriptors=["largest"], periodic_axes=PERIODIC)
largest = shape.fit_transform(both)[:, 1]
print(f"{n_made} structures with the statistics of one sample, error {float(again.error.max()):.2%} at most")
print(
    f"  C11: {stiffness[0]:.3f} of the sample, {stiffness[1:].mean():.3f} ± {stiffness[1:].std():.3f} of the "
    f"structures; {spread.min():.2f} to {spread.max():.2f} in the ensemble"
)
print(f"  largest cluster: {largest[0]:.0%} of the phase; made: {largest[1:].min():.0%} to {largest[1:].max():.0%}")
draw_microstructures(both[:4], ["sample", "made 1", "made 2", "made 3"]).savefig(arguments.out / "same_statistics.png")

# %% [markdown]
# Two structures may differ although all their 2-point statistics are equal. If A and B are sets of points, the sums
# A + B and A - B are such a pair: here A is a corner of voxels, and B four places.

# %%
a = np.array([(i, j) for i in range(12) for j in range(12) if i < 3 or j < 3])
b = np.array([(0, 0), (9, 3), (9, 16), (25, 11)])
pair = np.zeros((2, 48, 48), dtype=int)
for structure, sign in zip(pair, (1, -1), strict=True):
    points = (a[:, None] + sign * b[None]).reshape(-1, 2) % 48
    structure[tuple(points.T)] = 1
first, second = correlate(pair, PrimitiveBasis(2), dtype="float64", **options)
c11 = effective_stiffness(pair, elastic_modulus=(1.0, 10.0), poissons_ratio=(0.3, 0.3))[:, 0, 0]
print(f"two structures: statistics differ by {np.abs(first - second).max():.0e}, C11 {c11[0]:.4f} and {c11[1]:.4f}")
draw_microstructures(pair, ["A + B", "A − B"]).savefig(arguments.out / "pair.png")
print(f"figures in {arguments.out}, all in {time.perf_counter() - start:.1f} s")
