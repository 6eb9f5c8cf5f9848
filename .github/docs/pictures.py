"""Draw the pictures of the pages about the ideas.

python .github/docs/pictures.py [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from mksdask import MKSLocalizationModel, MKSStructureAnalysis, PrimitiveBasis
from mksdask.datasets import ElasticFESimulation, make_elastic_FE_strain_delta, make_microstructure
from mksdask.stats import correlate
from mksdask.tools import draw_components_scatter

PHASES = ListedColormap(["#f4f1ea", "#0b6fb3"])
SHAPES = [(14, 3), (3, 14), (7, 7), (3, 3)]


def panels(n, *, height=3.0):
    """Make a figure of n panels in a row."""
    figure = Figure(figsize=(2.9 * n, height), layout="constrained", dpi=110)
    return figure, np.atleast_1d(figure.subplots(1, n))


def show(ax, image, title, **options):
    """Draw an image with x to the right and y downwards."""
    ax.set(title=title, xticks=[], yticks=[])
    return ax.imshow(image.T, **options)


def local_states(path):
    """A structure, and the functions that say how much of each state a voxel holds."""
    X = make_microstructure(n_samples=1, size=(24, 24), n_phases=3, grain_size=5, seed=3)
    figure, axes = panels(4)
    show(axes[0], X[0], "the image: phases 0, 1, 2", cmap=ListedColormap(["#f4f1ea", "#0b6fb3", "#e69f00"]))
    for state, field in enumerate(np.moveaxis(PrimitiveBasis(3).transform(X)[0], -1, 0)):
        show(axes[state + 1], field, f"m[{state}; s]", cmap="gray_r", vmin=0, vmax=1)
    figure.savefig(path)


def statistics(path):
    """A structure, its autocorrelation, and a cut through it."""
    X = make_microstructure(n_samples=1, size=(64, 64), grain_size=(16, 4), volume_fraction=(0.5, 0.5), seed=1)
    f = correlate(X, PrimitiveBasis(2), periodic_axes=[0, 1], correlations=[(1, 1)])[0, ..., 0]
    figure, (image, map_, line) = panels(3, height=2.9)
    show(image, X[0], "blue is phase 1", cmap=PHASES)
    drawn = show(map_, f, "f[1, 1; r]", extent=(-32, 32, 32, -32), cmap="viridis")
    map_.set(xticks=[-30, 0, 30], yticks=[-30, 0, 30], xlabel="lag along x", ylabel="lag along y")
    figure.colorbar(drawn, ax=map_, shrink=0.8)
    lags = np.arange(33)
    line.plot(lags[:32], f[32:, 32], color="#0b6fb3", label="along x")
    line.plot(lags[:32], f[32, 32:], color="#d55e00", label="along y")
    line.axhline(X.mean() ** 2, color="0.5", linestyle="--", label="fraction²")
    line.set(title="two cuts through lag 0", xlabel="lag in voxels")
    line.legend()
    figure.savefig(path)


def scores(path):
    """Structures of four shapes, and their first two scores."""
    X = np.concatenate(
        [
            make_microstructure(
                n_samples=60, size=(48, 48), grain_size=shape, volume_fraction=(0.5, 0.5), percent_variance=0.05, seed=i
            )
            for i, shape in enumerate(SHAPES)
        ]
    )
    analysis = MKSStructureAnalysis(PrimitiveBasis(2), n_components=2, periodic_axes=[0, 1], correlations=[(0, 0)])
    mu = np.asarray(analysis.fit_transform(X))
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=110)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.3))
    for i, ax in enumerate(left.subplots(2, 2).flat):
        show(ax, X[60 * i], f"grains {SHAPES[i]}", cmap=PHASES)
    ax = right.subplots()
    draw_components_scatter([mu[60 * i : 60 * i + 60] for i in range(4)], [f"grains {s}" for s in SHAPES], ax=ax)
    ax.set_title("each point is one structure")
    figure.savefig(path)


def kernels(path):
    """Influence kernels, and the strain that they predict beside finite elements."""
    material = {"elastic_modulus": (100, 150), "poissons_ratio": (0.3, 0.3), "macro_strain": 0.01}
    model = MKSLocalizationModel(PrimitiveBasis(2)).fit(*make_elastic_FE_strain_delta(size=(31, 31), **material))
    X = make_microstructure(n_samples=1, size=(31, 31), grain_size=5, seed=4)
    truth = ElasticFESimulation(**material).run(X).strain[..., 0]
    predicted = model.predict(X)
    kernel = model.coef_[..., 1].real[8:-8, 8:-8] / 0.01
    limit = np.abs(kernel).max()
    figure, axes = panels(4)
    drawn = show(
        axes[0],
        kernel,
        "α[1; r] / mean strain",
        extent=(-7.5, 7.5, 7.5, -7.5),
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
    )
    axes[0].set(xticks=[-5, 0, 5], yticks=[-5, 0, 5])
    figure.colorbar(drawn, ax=axes[0], shrink=0.6)
    show(axes[1], X[0], "structure: blue is stiffer", cmap=PHASES)
    for ax, field, title in zip(axes[2:], (predicted, truth), ("strain by kernels", "by finite elements"), strict=True):
        drawn = show(ax, field[0], title, vmin=truth.min(), vmax=truth.max(), cmap="viridis")
    figure.colorbar(drawn, ax=axes[3], shrink=0.6)
    figure.savefig(path)


def draw(folder):
    """Draw all pictures into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in (local_states, statistics, scores, kernels):
        picture(folder / f"{picture.__name__}.png")


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
