"""The package beside others on equal input: ``pip install ".[peers]"``, then ``python -m benchmarks.peers``.

Results must agree. A line holds the seconds of the day and of the processor of the fastest of three calls after a first
one, or of fewer if they take more than 10 s. It also holds the memory that the process took beyond its input, libraries
included. A peer that is not installed is left out, and said.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peak_memory

Run = Callable[[], Any]
ROOT = Path(__file__).parents[1]


def blobs(n: int, *spatial: int) -> np.ndarray:
    make = import_module("mksdask.datasets").make_microstructure
    return make(n_samples=n, size=spatial, grain_size=6, volume_fraction=(0.4, 0.6), seed=1).astype(np.uint8)


def autocorrelation(small: int) -> dict[str, Run]:
    """Mean periodic autocorrelation of phase 0 of an ensemble in chunks, on two threads."""
    da, scipy_fft = import_module("dask.array"), import_module("scipy.fft")
    X = da.from_array(blobs(64 // small, 64, 64, 64), chunks=(4, 64, 64, 64))
    axes = (1, 2, 3)

    def ours() -> Any:
        mksdask, stats = import_module("mksdask"), import_module("mksdask.stats")
        f = stats.correlate(X, mksdask.PrimitiveBasis(2), correlations=[(0, 0)], periodic_axes=(0, 1, 2))
        return f.mean(axis=0)[..., 0].compute(num_workers=2)

    def with_dask() -> Any:
        m = (X == 0).astype(np.float32)
        spectra = da.fft.rfftn(m, axes=axes)
        f = da.fft.irfftn((da.absolute(spectra) ** 2), s=X.shape[1:], axes=axes) / X[0].size
        return np.fft.fftshift(f.mean(axis=0).compute(num_workers=2))

    def with_xrft() -> Any:
        xrft, xr = import_module("xrft"), import_module("xarray")
        m = xr.DataArray((X == 0).astype(np.float32), dims=("sample", "x", "y", "z"))
        spectra = xrft.fft(m, dim=("x", "y", "z"), true_phase=False, shift=False)
        power = (abs(spectra) ** 2).mean("sample").compute(num_workers=2)
        return scipy_fft.fftshift(scipy_fft.ifftn(power.values).real) / m[0].size

    return {"mksdask": ours, "dask.array.fft": with_dask, "xrft": with_xrft}


def radial(small: int) -> dict[str, Run]:
    """Two-point probability of one volume by distance, not periodic."""
    volume = blobs(1, *(128 // small,) * 3)[0]

    def ours() -> Any:
        mksdask, stats = import_module("mksdask"), import_module("mksdask.stats")
        f = stats.correlate(volume[None], mksdask.PrimitiveBasis(2), correlations=[(1, 1)], periodic_axes=(), cutoff=16)
        return stats.radial_average(f, n_spatial=3).values[0, 1:10, 0]

    def with_porespy() -> Any:
        found = import_module("porespy").metrics.two_point_correlation(volume == 1, bins=np.arange(0.5, 17.5))
        return found.probability_scaled[:9]

    return {"mksdask": ours, "porespy": with_porespy}


def components(small: int) -> dict[str, Run]:
    """Variances of the first 10 principal components of a chunked matrix."""
    da = import_module("dask.array")
    n, features = 500, 40_000 // small
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((n, 50)) * np.arange(1, 51) ** -0.7) @ rng.standard_normal((50, features))
    X = (X + 0.1 * rng.standard_normal((n, features)) + 3).astype(np.float32)

    def ours() -> Any:
        return import_module("mksdask.reduction").PCA(10).fit(da.from_array(X, chunks=(100, -1))).explained_variance_

    def with_sklearn() -> Any:
        return import_module("sklearn.decomposition").PCA(10, svd_solver="full").fit(X).explained_variance_

    def with_dask_ml() -> Any:
        pca = import_module("dask_ml.decomposition").PCA(10, random_state=0)
        return pca.fit(da.from_array(X, chunks=(100, -1))).explained_variance_

    return {"mksdask": ours, "scikit-learn": with_sklearn, "dask-ml": with_dask_ml}


def clusters(small: int) -> dict[str, Run]:
    """Number of clusters of a phase."""
    volume = blobs(1, *(256 // small,) * 3)[0]

    def ours() -> Any:
        da = import_module("dask.array")
        chunked = da.from_array(volume, chunks=128)
        return import_module("mksdask.stats").label_clusters(chunked, 0).max().compute(num_workers=2)

    def with_scipy() -> Any:
        return import_module("scipy.ndimage").label(volume == 0)[1]

    return {"mksdask": ours, "scipy.ndimage": with_scipy}


def thickness(small: int) -> dict[str, Run]:
    """Mean local thickness of a phase by balls of whole radii."""
    volume = blobs(1, *(128 // small,) * 3)[0]
    radii = [1, 2, 3, 4, 5, 6, 8]

    def ours() -> Any:
        return import_module("mksdask.stats").local_thickness(volume, 1, radii).mean().compute(num_workers=2)

    def with_porespy() -> Any:
        filters = import_module("porespy").filters
        return filters.local_thickness(volume == 1, sizes=radii, method="dt").mean()

    return {"mksdask": ours, "porespy": with_porespy}


def elasticity(small: int) -> dict[str, Run]:
    """Mean stress of a periodic cell at contrast 10, trilinear elements, residuals of 1e-8."""
    volume = blobs(1, *(48 // small,) * 3)[0]
    young, poisson, strain = np.array([1.0, 10.0]), 0.3, 0.01
    lame = young * poisson / ((1 + poisson) * (1 - 2 * poisson)), 0.5 * young / (1 + poisson)

    def ours() -> Any:
        mean_stress = import_module("mksdask.datasets").mean_stress
        return mean_stress(volume[None], elastic_modulus=young, poissons_ratio=[poisson] * 2, macro_strain=strain)[0]

    def with_mugrid() -> Any:
        """Its own stiffness, Fourier transforms, preconditioner and conjugate gradients."""
        mugrid, solvers = import_module("muGrid"), import_module("muGrid.Solvers")
        stiffness = mugrid.IsotropicStiffnessOperator(3, [1.0] * 3)
        engine = mugrid.FFTEngine(volume.shape, ghosts=stiffness)
        moduli = [engine.real_space_field(name) for name in ("lambda", "mu")]
        for field, values in zip(moduli, lame, strict=True):
            field.p[...] = values[volume]
            engine.communicate_ghosts(field)
        load, u = (engine.real_space_field(name, components=(3,)) for name in ("load", "displacement"))

        def forces(v: Any, out: Any) -> None:
            engine.communicate_ghosts(v)
            stiffness.apply(v, *moduli, out)

        precondition = import_module("muGrid.Preconditioners").make_reference_stiffness_preconditioner(
            engine,
            element=mugrid.FEMElement.q1,
            grid_spacing=[1.0] * 3,
            lambda_ref=lame[0].mean(),
            mu_ref=lame[1].mean(),
        )
        macro, inner = [strain] + [0.0] * 8, [field._cpp for field in moduli]
        stiffness.apply_macro_rhs(*inner, macro, load._cpp)
        load.p[...] *= -1.0
        fields = engine.real_space_collection
        solvers.conjugate_gradients(engine.communicator, fields, load, u, forces, precondition, rtol=1e-8)
        engine.communicate_ghosts(u)
        stress = np.reshape(stiffness.average_stress(u._cpp, *inner, macro), (3, 3)) / volume.size
        return stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]

    def with_sfepy() -> Any:
        """Its own mesh, stiffness matrix, periodic conditions and conjugate gradients."""
        import_module("sfepy.base.base").output.set_output(quiet=True)
        discrete, fem, ls = (import_module(f"sfepy.{name}") for name in ("discrete", "discrete.fem", "solvers.ls"))
        conditions, periodic = (import_module(f"sfepy.discrete.{name}") for name in ("conditions", "fem.periodic"))
        n = len(volume)
        mesh = import_module("sfepy.mesh.mesh_generators").gen_block_mesh(
            [n] * 3, [n + 1] * 3, [n / 2] * 3, verbose=False
        )
        cell = fem.FEDomain("cell", mesh)
        whole, corner = cell.create_region("Whole", "all"), cell.create_region("Corner", "vertex 0", "vertex")
        field = fem.Field.from_args("displacement", np.float64, "vector", whole, approx_order=1)
        u = discrete.FieldVariable("u", "unknown", field)
        v = discrete.FieldVariable("v", "test", field, primary_var_name="u")
        w = discrete.FieldVariable("w", "parameter", field, primary_var_name="(set-to-None)")
        uniform = mesh.coors * [strain, 0.0, 0.0]
        w.set_data(uniform)
        tensors = import_module("sfepy.mechanics.matcoefs").stiffness_from_lame(3, *lame)

        def of_points(_: Any, points: np.ndarray, mode: str = "", **__: Any) -> dict[str, np.ndarray] | None:
            return {"D": tensors[volume[tuple(np.floor(points).astype(int).T)]]} if mode == "qp" else None

        material = discrete.Material("m", function=discrete.Function("of_points", of_points))
        integral, new = discrete.Integral("i", order=2), import_module("sfepy.terms").Term.new
        terms = [
            new(f"dw_lin_elastic(m.D, v, {name})", integral, whole, m=material, v=v, **{name: field})
            for name, field in (("u", u), ("w", w))
        ]
        around, matches = [], []
        for axis in "xyz":
            sides = [
                cell.create_region(f"{axis}{side}", f"vertices in ({axis} {where})", "facet")
                for side, where in enumerate(("< 0.5", f"> {n - 0.5}"))
            ]
            match = getattr(periodic, f"match_{axis}_plane")
            matches.append(discrete.Function(f"match_{axis}", match))
            around.append(conditions.PeriodicBC(f"around_{axis}", sides, {"u.all": "u.all"}, match=f"match_{axis}"))
        equations = discrete.Equations([discrete.Equation("balance", terms[0] + terms[1])])
        problem = discrete.Problem("cell", equations=equations, functions=discrete.Functions(matches))
        fixed = conditions.EssentialBC("fixed", corner, {"u.all": 0.0})
        problem.set_bcs(ebcs=conditions.Conditions([fixed]), epbcs=conditions.Conditions(around))
        diagonal = import_module("scipy.sparse").diags
        options = {"method": "cg", "i_max": 5000, "eps_r": 1e-8, "eps_a": 1e-12}
        solver = ls.ScipyIterative(options | {"setup_precond": lambda K, _: diagonal(1.0 / K.diagonal())})
        problem.set_solver(import_module("sfepy.solvers.nls").Newton({"i_max": 1}, lin_solver=solver))
        problem.solve(save_results=False)
        w.set_data(uniform + u().reshape(-1, 3))
        stress = problem.evaluate("ev_cauchy_stress.2.Whole(m.D, w)", m=material, w=w, mode="eval")
        # Its order is xx, yy, zz, xy, xz, yz.
        return stress.ravel()[[0, 1, 2, 5, 4, 3]] / volume.size

    return {"mksdask": ours, "muGrid": with_mugrid, "SfePy": with_sfepy}


def misorientations(small: int) -> dict[str, Run]:
    """Density of disorientation angles of neighbours in a map of cubic crystals, by classes of 2°."""
    angles = import_module("mksdask.datasets").make_polycrystal(1, (1024 // small,) * 2, 2000 // small**2, seed=1)[0]
    width = np.deg2rad(2.0)

    def ours() -> Any:
        found = import_module("mksdask.texture").volume_misorientation_density(angles, "cubic", width=width)
        return found.density.values

    def with_orix() -> Any:
        quaternion = import_module("orix.quaternion")
        crystals = quaternion.Orientation.from_euler(angles, symmetry=quaternion.symmetry.Oh)
        neighbours = (crystals[1:], crystals[:-1]), (crystals[:, 1:], crystals[:, :-1])
        found = np.concatenate([first.angle_with(second).ravel() for first, second in neighbours])
        # No angle of cubic crystals is larger than 62.8°.
        return np.histogram(found[found >= width], width * np.arange(33), density=True)[0]

    return {"mksdask": ours, "orix": with_orix}


def diffusion(small: int) -> dict[str, Run]:
    """Effective diffusivities of both phases of a volume along each axis, from side to side, on one thread."""
    volume = blobs(1, *(64 // small,) * 3)[0]

    def ours() -> Any:
        shape = import_module("mksdask.descriptors").ShapeDescriptors(descriptors=["diffusivity"])
        return shape.fit_transform(volume[None])

    def with_taufactor() -> Any:
        """Stops by itself where the flows through layers differ by less than 1 %."""
        import_module("torch").set_num_threads(1)
        solver, found = import_module("taufactor").Solver, []
        for phase in range(2):
            for axis in range(3):
                one = solver(np.moveaxis(volume == phase, axis, 0).astype(np.uint8), device="cpu")
                one.solve(verbose=False)
                found.append(one.D_eff[0])
        return found

    return {"mksdask": ours, "taufactor": with_taufactor}


# What is compared, and by how much results may differ, relative to the largest.
CASES: dict[str, tuple[Callable[[int], dict[str, Run]], float]] = {
    "autocorrelation": (autocorrelation, 1e-5),
    "radial": (radial, 1e-5),
    "components": (components, 1e-5),
    "clusters": (clusters, 0.0),
    "thickness": (thickness, 1e-6),
    "elasticity": (elasticity, 1e-6),
    "misorientations": (misorientations, 1e-6),
    "diffusion": (diffusion, 1e-2),
}

# Distributions whose versions are printed.
PEERS = ("dask-ml", "mugrid", "orix", "porespy", "scikit-learn", "sfepy", "taufactor", "torch", "xrft")

# Sides that estimate the result. Their difference is printed.
ESTIMATES = ("dask-ml",)


def measure(case: str, side: str, small: int, path: Path) -> None:
    """Run one side in this process, and write its result and what the fastest call after the first one took."""
    run = CASES[case][0](small)[side]
    # The peak so far is that of making the input.
    before = peak_memory.reset()
    result = run()
    calls: list[tuple[float, float]] = []
    while len(calls) < 3 and sum(seconds for seconds, _ in calls) < 10:
        start, spent = time.perf_counter(), time.process_time()
        result = run()
        calls.append((time.perf_counter() - start, time.process_time() - spent))
    seconds, cpu = min(calls)
    path.write_text(
        json.dumps([seconds, cpu, peak_memory.megabytes() - before, np.asarray(result, dtype=float).ravel().tolist()])
    )


def main(cases: list[str], small: int) -> None:
    report = import_module("benchmarks.report")
    peers = ", ".join(f"{name} {report.installed(name) or 'none'}" for name in PEERS)
    print("\n".join([*report.machine()[:2], peers, ""]), flush=True)
    for case in cases:
        make, tolerance = CASES[case]
        title = (make.__doc__ or "").strip().removesuffix(".")
        print(f"{title}; results must agree within {tolerance:g}")
        print(f"  {'':<16}{'seconds':>9}{'CPU':>9}{'MB more':>9}  of ours  differs by", flush=True)
        found: dict[str, list[Any]] = {}
        for side in make(small):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "found.json"
                line = [
                    sys.executable,
                    "-W",
                    "ignore",
                    "-m",
                    "benchmarks.peers",
                    case,
                    "--side",
                    side,
                    "--out",
                    str(path),
                ]
                done = subprocess.run(
                    [*line, "--small", str(small)], capture_output=True, text=True, check=False, cwd=ROOT
                )
                if done.returncode:
                    reason = done.stderr.strip().splitlines()[-1]
                    if not reason.startswith(("ImportError", "ModuleNotFoundError")):
                        raise RuntimeError(done.stderr)
                    print(f"  {side:<16} left out: {reason}", flush=True)
                    continue
                found[side] = json.loads(path.read_text())
            seconds, cpu, more, result = found[side]
            ours, reference = found["mksdask"][0], np.array(found["mksdask"][3])
            differ = np.abs(np.array(result) - reference).max() / np.abs(reference).max()
            line = f"  {side:<16}{seconds:9.3f}{cpu:9.3f}{more:9.0f}  {seconds / ours:7.2f}  {differ:10.1e}"
            print(line + "  (an estimate)" * (side in ESTIMATES), flush=True)
            assert side in ESTIMATES or differ <= tolerance, f"{case}: {side} differs by more than {tolerance:.0e}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"any of {', '.join(CASES)}")
    parser.add_argument("--small", type=int, default=1, help="divide the sizes by this number")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side is None:
        main(arguments.cases, arguments.small)
    else:
        measure(arguments.cases[0], arguments.side, arguments.small, arguments.out)
