"""What ``import mksdask`` does, in processes of their own."""

import json
import subprocess
import sys

import pytest

import mksdask
from mksdask import bases, importers, stats, storage, tools


def printed(code):
    """What a process prints that runs `code`, read as JSON."""
    run = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{code}"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_import__takes_no_other_package_along():
    heavy = printed("import mksdask\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))")
    assert not {"numpy", "scipy", "dask", "xarray", "distributed", "sklearn", "matplotlib", "zarr"} & set(heavy)


@pytest.mark.parametrize("package", [mksdask, bases, importers, stats, storage, tools], ids=lambda each: each.__name__)
def test_import__each_public_name_leads_somewhere(package):
    assert set(package.__all__) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in package.__all__)


def test_import__an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="correlate_everything"):
        _ = mksdask.correlate_everything


@pytest.mark.parametrize("first", ["import mksdask; import xarray as xr", "import xarray as xr; import mksdask"])
def test_accessor__is_registered_in_any_order(first):
    code = f"{first}\nimport numpy as np\nds = xr.Dataset({{'microstructure': (('x', 'y'), np.eye(4, dtype='u1'))}})\n"
    assert printed(code + "print(json.dumps(ds.mks.describe()['kind']))") == "volume"


@pytest.mark.parametrize(
    "first",
    [
        "import mksdask; import distributed",
        "import distributed; import mksdask",
        "import mksdask.compute.workers; import distributed",
    ],
)
def test_workers__get_their_defaults_in_any_order(first):
    code = f"{first}\nimport dask\nprint(json.dumps(dask.config.get('distributed.nanny.pre-spawn-environ')))"
    found = printed(code)
    assert found["MALLOC_ARENA_MAX"] == 2
    assert found["OMP_NUM_THREADS"] == 1


@pytest.mark.slow
def test_load_model__knows_the_classes_of_models_that_nothing_has_imported(tmp_path):
    code = f"""
import mksdask, numpy as np
X = np.random.default_rng(0).integers(0, 2, (8, 5, 5))
model = mksdask.MKSHomogenizationModel(mksdask.LegendreBasis(2, domain=[0, 1]), n_components=2).fit(X, X.mean((1, 2)))
mksdask.save_model(model, {str(tmp_path / "model.zarr")!r})
print(json.dumps(model.predict(X).tolist()))
"""
    expected = printed(code)
    code = f"""
from mksdask import load_model
import numpy as np
X = np.random.default_rng(0).integers(0, 2, (8, 5, 5))
print(json.dumps(load_model({str(tmp_path / "model.zarr")!r}).predict(X).tolist()))
"""
    assert printed(code) == expected
