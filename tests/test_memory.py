"""Memory contracts: each case in a process of its own, on data several times what a task may hold."""

import json
import subprocess
import sys
import textwrap

import pytest

from tests.test_examples import run

PREAMBLE = """
    import json, threading, time
    import dask, dask.array as da, numpy as np, psutil
    from mksdask import PrimitiveBasis

    class Peak(threading.Thread):
        def __init__(self):
            super().__init__(daemon=True)
            self.process, self.done = psutil.Process(), threading.Event()
            self.base = self.peak = self.process.memory_info().rss
            self.start()
        def run(self):
            while not self.done.wait(0.002):
                self.peak = max(self.peak, self.process.memory_info().rss)
        def growth(self):
            self.done.set(); self.join()
            return self.peak - self.base

    dask.config.set(scheduler="synchronous")
"""


def measured(script):
    """Peak growth of the process in bytes, planned bytes, and bytes of all data."""
    code = textwrap.dedent(PREAMBLE) + textwrap.dedent(script)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("options", ["periodic_axes=[0, 1, 2]", "cutoff=24", "correlations=[(0, 0)]"])
def test_correlate__task_holds_what_it_plans(options):
    figures = measured(f"""
        from mksdask.stats import correlate
        from mksdask.stats.correlation import _Correlation
        from mksdask.stats.lags import LagTransform
        X = da.random.default_rng(0).integers(0, 2, size=(256, 96, 96, 96), chunks=(8, 96, 96, 96), dtype="uint8")
        options = dict({options})
        f = correlate(X, PrimitiveBasis(2), **options)
        correlate(np.zeros((1, 8, 8), "uint8"), PrimitiveBasis(2))  # imports and caches
        periodic = [axis in options.get("periodic_axes", ()) for axis in range(3)]
        transform = LagTransform.plan((96,) * 3, periodic, options.get("cutoff"), real=True)
        pairs = tuple(options.get("correlations", [(0, 0), (0, 1)]))
        planned = _Correlation(PrimitiveBasis(2), transform, pairs, 2, np.dtype("float32")).task_bytes(8) + X[:8].nbytes
        peak = Peak()
        f.map_blocks(lambda block: np.zeros((1, 1, 1, 1, 1)), chunks=(1, 1, 1, 1, 1), dtype=float).compute()
        print(json.dumps([peak.growth(), planned, X.nbytes + f.nbytes]))
    """)
    growth, planned, everything = figures
    assert everything > 3 * planned
    assert growth <= 1.2 * planned


@pytest.mark.slow
def test_pca__holds_one_slab_and_the_gram_matrix(tmp_path):
    growth, planned, everything = measured(f"""
        from mksdask import reduction
        n, p = 1000, 600_000
        X = da.random.default_rng(0).normal(size=(n, p), chunks=(10, p)).astype("float32")
        k = 5
        gram = 8 * n * n
        # A slab with its float64 copy, the sum of Gram matrices with a partial one, and the components.
        slab_and_grams = reduction.SLAB_BYTES + 3 * gram
        block = 10 * p * 12
        planned = max(slab_and_grams, 2 * block) + 3 * k * p * 8
        reduction.PCA(2).fit(da.random.default_rng(0).normal(size=(8, 64), chunks=(4, 64)))
        peak = Peak()
        reduction.PCA(k, scratch={str(tmp_path)!r}).fit(X)
        print(json.dumps([peak.growth(), planned, X.nbytes]))
    """)
    assert everything > 8 * planned
    assert growth <= 1.2 * planned


@pytest.mark.slow
def test_fit__on_workers_of_one_gibibyte(tmp_path):
    # The benchmark asserts that no worker is restarted and nothing spilled.
    out = run("benchmarks/out_of_core.py", "--samples", "320", "--solved", "8", "--folder", tmp_path, cwd=tmp_path)
    assert out.count("peak") >= 2
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_localization__memory_does_not_depend_on_the_number_of_samples(tmp_path):
    # The benchmark asserts that the peaks of 200 and of 20,000 samples lie within a tenth, without restart or spill.
    out = run("benchmarks/localization.py", "memory", cwd=tmp_path)
    assert "GiB on 20000" in out


@pytest.mark.slow
@pytest.mark.parametrize(("n_states", "n_components"), [(2, 1), (3, 3)])
def test_localization__fit_holds_what_its_docstring_says(n_states, n_components):
    growth, planned, everything = measured(f"""
        from mksdask import MKSLocalizationModel
        n, n_states, n_components, edge = 48, {n_states}, {n_components}, 96
        shape = (n, edge, edge, edge)
        X = da.random.default_rng(0).integers(0, n_states, size=shape, chunks=(1, edge, edge, edge), dtype="uint8")
        y = da.random.default_rng(1).normal(size=(*shape, n_components), chunks=(1, edge, edge, edge, n_components))
        MKSLocalizationModel(PrimitiveBasis(2)).fit(np.zeros((2, 8, 8, 8), "uint8"), np.zeros((2, 8, 8, 8)))
        D, C, F = n_states - 1, n_components, edge * edge * (edge // 2 + 1)
        factor = 16 * D * (D + C) * F
        chunk = edge**3 * (1 + 8 * C)
        # A leaf beside the factors that wait in a tree of 48 leaves; the transforms of its sample and one field.
        planned = chunk + (2 + 6) * factor + 16 * (D + C + 1) * F + 8 * edge**3
        peak = Peak()
        MKSLocalizationModel(PrimitiveBasis(n_states)).fit(X, y)
        print(json.dumps([peak.growth(), planned, X.nbytes + y.nbytes]))
    """)
    assert everything > 1.5 * planned
    assert growth <= 1.2 * planned
