"""How often intervals of confidence for volume fractions hold the fraction of the material.

Simulated volumes of several kinds, whose fraction is known, and windows of real volumes, whose fraction is that of the
whole volume. Beside the intervals of the package stand classical ones: S2 up to a quarter of the volume is summed to
the integral range, which is then taken as exactly known. Beside each share stands the range in which it would lie for
more volumes, with a probability of 95 %, and how many intervals lie below and above the fraction.

    python benchmarks/representativity.py [--volumes 2000] [--real FOLDER]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import scipy.fft
import scipy.stats
import tifffile

from mksdask import PrimitiveBasis
from mksdask.stats import correlate, integral_range, phase_fraction_interval


def gaussian(rng, size, sigma, threshold):
    """A smoothed Gaussian field, cut at a threshold: a part of a larger periodic one."""
    larger = tuple(n + 12 * sigma for n in size)
    frequencies = np.meshgrid(
        *(scipy.fft.fftfreq(n) for n in larger[:-1]), scipy.fft.rfftfreq(larger[-1]), indexing="ij"
    )
    transfer = np.exp(-2 * (np.pi * sigma) ** 2 * sum(f**2 for f in frequencies))
    field = scipy.fft.irfftn(scipy.fft.rfftn(rng.standard_normal(larger)) * transfer, s=larger)
    deviation = (4 * np.pi * sigma**2) ** (-len(size) / 4)
    return (field[tuple(map(slice, size))] > threshold * deviation).astype(np.uint8)


def boolean(rng, size, radius, density):
    """Discs or balls at random places, which may overlap."""
    box = [np.arange(-radius, radius + 1)] * len(size)
    ball = np.array(
        [place for place in np.stack(np.meshgrid(*box), -1).reshape(-1, len(size)) if place @ place <= radius**2]
    )
    larger = np.array(size) + 2 * radius
    out = np.zeros(larger, dtype=np.uint8)
    centres = rng.integers(0, larger, (rng.poisson(density * larger.prod()), len(size)))
    places = (centres[:, None] + ball).reshape(-1, len(size)) % larger
    out[tuple(places.T)] = 1
    return out[tuple(slice(radius, radius + n) for n in size)]


def mosaic(rng, size, lines, share):
    """Cells between random lines, each in phase 1 with the same probability. The covariance is exponential."""
    reach = np.hypot(*size)
    n = rng.poisson(lines * np.pi * reach)
    x, y = np.meshgrid(*(np.arange(n) - n / 2 for n in size), indexing="ij")
    code = np.zeros(size, dtype=np.uint64)
    for angle, offset, bits in zip(
        rng.uniform(0, np.pi, n), rng.uniform(-reach, reach, n), rng.integers(0, 2**63, n, dtype=np.uint64), strict=True
    ):
        code ^= np.where(x * np.cos(angle) + y * np.sin(angle) > offset, bits, np.uint64(0))
    return ((code * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) < share * 2**32).astype(np.uint8)


DISC = sum(i * i + j * j <= 25 for i in range(-5, 6) for j in range(-5, 6))
MODELS = {
    "Gaussian, 2D 128², σ 3": (lambda rng: gaussian(rng, (128, 128), 3, 0.5), scipy.stats.norm.sf(0.5)),
    "Gaussian, 2D 128², σ 6": (lambda rng: gaussian(rng, (128, 128), 6, 0.5), scipy.stats.norm.sf(0.5)),
    "Gaussian, 2D 128², rare": (lambda rng: gaussian(rng, (128, 128), 3, 1.6), scipy.stats.norm.sf(1.6)),
    "discs, 2D 128²": (lambda rng: boolean(rng, (128, 128), 5, 0.004), 1 - np.exp(-0.004 * DISC)),
    "mosaic, 2D 256²": (lambda rng: mosaic(rng, (256, 256), 0.08, 0.3), 0.3),
    "Gaussian, 3D 48³, σ 2": (lambda rng: gaussian(rng, (48, 48, 48), 2, 0.8), scipy.stats.norm.sf(0.8)),
}


def classical(X):
    """Mean and half width of the classical interval."""
    v = float(X.mean())
    f = correlate(X[None], PrimitiveBasis(2), cutoff=min(X.shape) // 4, correlations=[(1, 1)], dtype="float64")[0]
    A = float(integral_range(f, n_spatial=X.ndim)[0])
    return v, 1.96 * np.sqrt(max(0.0, v * (1 - v) * A / X.size))


def held(low, high, truth):
    """Tell how many intervals hold the truth, and how wide they are."""
    low, high = np.array(low), np.array(high)
    n, below, above = len(low), np.sum(high < truth), np.sum(low > truth)
    sure = scipy.stats.binomtest(int(n - below - above), n).proportion_ci(method="wilson")
    return (
        f"{1 - (below + above) / n:6.1%} ({sure.low:.1%} to {sure.high:.1%}), {below / n:4.1%} below, "
        f"{above / n:4.1%} above, ± {np.mean(high - low) / 2:.4f}"
    )


def row(name, volumes, truth):
    """Print how many intervals of volumes hold the truth."""
    start, ours, theirs = time.perf_counter(), [], []
    for X in volumes:
        found = phase_fraction_interval(X, phases=[1])
        ours.append((float(found.low[0]), float(found.high[0])))
        mean, error = classical(X)
        theirs.append((mean - error, mean + error))
    spread = np.std([low + high for low, high in theirs]) / 2
    print(f"{name}, {len(ours)} volumes: 1.96 spreads of the fraction are {1.96 * spread:.4f}")
    print(f"    intervals  {held(*zip(*ours, strict=True), truth)}")
    print(
        f"    classical  {held(*zip(*theirs, strict=True), truth)}  [{time.perf_counter() - start:.0f} s]", flush=True
    )


def windows(volume, edge):
    """Windows side by side."""
    shape = [n // edge for n in volume.shape]
    for index in np.ndindex(*shape):
        yield volume[tuple(slice(i * edge, (i + 1) * edge) for i in index)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=2000, help="volumes of each kind")
    parser.add_argument("--real", type=Path, help="folder with berea_400.tif and micrographs/binary_986x1376.tif")
    arguments = parser.parse_args()
    print("How many intervals of 95 % hold the fraction of the material")
    for name, (make, truth) in MODELS.items():
        row(name, (make(np.random.default_rng(i)) for i in range(arguments.volumes)), truth)
    if arguments.real is not None:
        for path, edge in (("berea_400.tif", 80), ("micrographs/binary_986x1376.tif", 122)):
            image = (tifffile.imread(arguments.real / path) == 0).astype(np.uint8)
            row(f"{Path(path).stem}, windows of {edge}", windows(image, edge), image.mean())
