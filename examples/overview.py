# %% [markdown]
# The picture of the README: from microstructures over 2-point statistics and principal components to a property.
#
#     python examples/overview.py [--quick] [--out FOLDER]

# %%
import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mksdask import MKSHomogenizationModel, PrimitiveBasis
from mksdask.datasets.responses import make_elastic_stiffness
from mksdask.stats import correlate
from mksdask.tools import draw_components_scatter, draw_correlations, draw_goodness_of_fit, draw_microstructures

parser = argparse.ArgumentParser(description="The picture of the README")
parser.add_argument("--quick", action="store_true", help="few samples")
parser.add_argument("--out", type=Path, default=Path("overview"), help="folder for the picture")
arguments = parser.parse_args()
arguments.out.mkdir(parents=True, exist_ok=True)

# %%
shapes = [(20, 3), (3, 20), (8, 8), (3, 3)]
each = 15 if arguments.quick else 120
X, C11 = make_elastic_stiffness(
    n_samples=[each] * 4,
    size=(48, 48),
    grain_size=shapes,
    elastic_modulus=(100, 20),
    poissons_ratio=(0.3, 0.3),
    volume_fraction=(0.5, 0.5),
    percent_variance=0.3,
)
test = np.arange(len(X)) % 4 == 0
model = MKSHomogenizationModel(
    PrimitiveBasis(2), n_components=10, property_linker="kernel", periodic_axes=[0, 1], correlations=[(0, 0)]
)
model.fit(X[~test], C11[~test])
print(f"R² of samples that training never saw: {model.score(X[test], C11[test]):.4f}")

# %%
figure = Figure(figsize=(13, 3.1), layout="constrained", dpi=150)
structure, statistics, scores, property_ = figure.subplots(1, 4)
draw_microstructures(X[2 * each :][:1], [""], phases=["stiff", "soft"], ax=structure)
f = correlate(X[2 * each :][:1], PrimitiveBasis(2), periodic_axes=[0, 1], correlations=[(0, 0)])
draw_correlations(f[0], [(0, 0)], ax=statistics)
reduced = np.asarray(model.transform(X))
draw_components_scatter(
    [reduced[kind * each : (kind + 1) * each, :2] for kind in range(4)],
    [f"grains {shape}" for shape in shapes],
    ax=scores,
)
draw_goodness_of_fit(
    [C11[~test], model.predict(X[~test])], [C11[test], model.predict(X[test])], quantity="$C_{11}$ / GPa", ax=property_
)
for panel, title in (
    (structure, "structure $m[h; s]$"),
    (statistics, "2-point statistics $f[0, 0; r]$"),
    (scores, "scores μ"),
    (property_, "effective property"),
):
    panel.set_title(title, fontsize="medium")
figure.savefig(arguments.out / "overview.png")
