"""Time of an iteration of the elastic solver over that of its own FFTs, and of the ensemble of section 5.1."""

import argparse
import time

import numpy as np
import scipy.fft
from distributed import Client, LocalCluster
from timing import ratio

from mksdask.datasets import make_microstructure, make_polycrystal
from mksdask.datasets.responses import make_elastic_stiffness
from mksdask.simulation.crystals import single_crystal_stiffness, turned_stiffness, voigt_average
from mksdask.simulation.equilibrium import batch_size, solve_elasticity
from mksdask.simulation.stencils import Isotropic, Material

COPPER = [168.4, 121.4, 75.4]  # C11, C12, C44, GPa


def per_iteration(name: str, size: tuple[int, ...], rounds: int, limit: float) -> None:
    """One batch of samples, as the ensemble functions solve them."""
    dim, samples = len(size), batch_size(size)
    material: Material
    if name == "crystals":
        crystal = single_crystal_stiffness(COPPER)
        material = turned_stiffness(crystal, make_polycrystal(samples, size, max(8, int(np.prod(size)) // 200)))
        reference = voigt_average(crystal)
    else:
        moduli = np.array([1.0, 10.0])[make_microstructure(samples, size, grain_size=min(size) / 5)]
        material, reference = Isotropic(moduli, moduli), (5.0, 5.0)
    macro = np.zeros((samples, dim * (dim + 1) // 2))
    macro[:, 0] = 1.0
    iterations = solve_elasticity(material, macro, reference=reference).iterations.max()
    r = np.random.default_rng(0).normal(size=(samples, dim, *size)).astype(np.float32)
    axes = tuple(range(2, dim + 2))

    def transforms() -> None:
        for _ in range(int(iterations)):
            scipy.fft.irfftn(scipy.fft.rfftn(r, axes=axes), s=size, axes=axes, overwrite_x=True)

    seconds, bare, factor = ratio(
        lambda: solve_elasticity(material, macro, reference=reference).mean_stress(), transforms, rounds=rounds
    )
    shape = "×".join(map(str, size))
    print(
        f"  {samples:>4} of {shape:<10} {iterations:>3} iterations, {seconds:6.2f} s, "
        f"its float32 FFTs {bare:6.2f} s: ratio {factor:.2f}",
        flush=True,
    )
    assert factor <= limit, f"{shape}: {factor:.2f} times the FFTs, more than {limit}"


def section_5_1(samples: int) -> None:
    grains = [(15, 2), (2, 15), (7, 7), (8, 3), (3, 9), (2, 2)]
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster),
    ):
        options = {"size": (21, 21), "elastic_modulus": (310, 200), "poissons_ratio": (0.28, 0.3), "chunks": 100}
        make_elastic_stiffness([1] * 2, grain_size=grains[:2], **options)[1].compute()  # compile
        _, y = make_elastic_stiffness([samples // 6] * 6, grain_size=grains, macro_strain=0.001, **options)
        start = time.perf_counter()
        y.compute()
        print(f"  {len(y)} samples of section 5.1 made and solved on two workers: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--limit", type=float, default=3.0, help="largest ratio that passes")
    arguments = parser.parse_args()
    quick = arguments.quick
    sizes = [(21, 21), (128, 128), (32,) * 3, (64,) * 3][: 2 if quick else None]
    # A stiffness of each voxel is 21 numbers in 3D, where an isotropic one is two.
    for name, title, limit in [
        ("phases", "contrast 10, one thread", arguments.limit),
        ("crystals", "copper crystals, one thread", 1.5 * arguments.limit),
    ]:
        print(title)
        for size in sizes:
            per_iteration(name, size, rounds=1 if quick else 3, limit=limit)
    section_5_1(120 if quick else 1200)
