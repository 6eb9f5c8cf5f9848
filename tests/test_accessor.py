"""The `.mks` accessor of xarray, and labelled results that are saved and reopened."""

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

from mksdask import LegendreBasis, PrimitiveBasis, create_ensemble, create_volume, open_ensemble, open_volume
from mksdask.datasets import make_microstructure
from mksdask.stats import correlate, correlate_volume, integral_range, radial_average, specific_surface
from mksdask.storage import materialize


@pytest.fixture
def volume(tmp_path):
    X = make_microstructure(n_samples=1, size=(16, 14, 12), n_phases=2, grain_size=3)[0]
    create_volume(tmp_path / "v.zarr", X, phases=("pore", "grain"), spacing=(1, 2, 3), units="um")
    return open_volume(tmp_path / "v.zarr")


@pytest.fixture
def ensemble(tmp_path):
    X = make_microstructure(n_samples=6, size=(12, 10), n_phases=3, grain_size=3)
    create_ensemble(tmp_path / "e.zarr", X, periodic_axes=[0, 1], spacing=0.5, units="um", chunks=4)
    return open_ensemble(tmp_path / "e.zarr")


def test_accessor__methods_are_the_functions(volume, ensemble):
    S2 = volume.mks.correlate(cutoff=4)
    xr.testing.assert_identical(
        S2.compute(), correlate_volume(volume.microstructure, PrimitiveBasis(2), cutoff=4).compute()
    )
    assert S2.pair.to_numpy().tolist() == ["pore–pore", "pore–grain"]
    f = ensemble.microstructure.mks.correlate()
    xr.testing.assert_identical(f.compute(), correlate(ensemble.microstructure, PrimitiveBasis(3)).compute())
    assert f.pair.to_numpy().tolist() == ["0,0", "0,1", "0,2"]
    xr.testing.assert_identical(S2.mks.radial_average().compute(), radial_average(S2).compute())
    xr.testing.assert_identical(S2.mks.specific_surface().compute(), specific_surface(S2).compute())
    xr.testing.assert_identical(S2.mks.integral_range().compute(), integral_range(S2).compute())
    assert volume.mks.sample_windows(size=6, n=4, seed=0).shape == (4, 6, 6, 6)
    assert len(volume.mks.plot().axes) >= 3
    titles = [ax.get_title() for ax in S2.mks.plot_correlations().axes]
    assert any(title.startswith("pore–grain") for title in titles)
    assert any(ax.get_xlabel() == "lag x / µm" for ax in f.mks.plot_correlations().axes)


def test_accessor__masks_other_bases_and_errors(ensemble):
    confidence = xr.ones_like(ensemble.microstructure, dtype=float)
    confidence[:, 3:] = 0.25
    masked = ensemble.assign(confidence_index=confidence).mks.correlate()
    expected = correlate(ensemble.microstructure, PrimitiveBasis(3), confidence_index=confidence)
    assert_allclose(masked, expected)
    basis = LegendreBasis(2, domain=[0, 2])
    assert_array_equal(ensemble.mks.correlate(basis), correlate(ensemble.microstructure, basis))
    with pytest.raises(TypeError, match="not phase numbers; give a basis"):
        (ensemble * 0.5).mks.correlate()
    with pytest.raises(AttributeError, match="no variable 'microstructure'"):
        ensemble.rename(microstructure="other").mks.correlate()


def test_labelled_results__come_back_equal(volume, ensemble, tmp_path):
    for number, statistics in enumerate((volume.mks.correlate(cutoff=4), ensemble.mks.correlate())):
        reopened = materialize(statistics, tmp_path / f"{number}.zarr", progress=False)
        xr.testing.assert_identical(reopened.compute(), statistics.compute())
        computed = statistics.compute()
        computed.to_dataset(name="f").to_zarr(tmp_path / f"plain{number}.zarr", consolidated=False)
        again = xr.open_zarr(tmp_path / f"plain{number}.zarr", consolidated=False).f
        xr.testing.assert_equal(again.compute(), computed)
        assert again.attrs == computed.attrs
        assert again.lag_x.attrs == computed.lag_x.attrs
        again.mks.plot_correlations()
        computed.to_netcdf(tmp_path / f"{number}.nc")
        with xr.open_dataarray(tmp_path / f"{number}.nc") as from_netcdf:
            xr.testing.assert_equal(from_netcdf, computed)
            assert from_netcdf.lag_x.attrs == computed.lag_x.attrs
            assert_array_equal(from_netcdf.mks.radial_average(), computed.mks.radial_average())
            from_netcdf.mks.plot_correlations()
    assert np.isfinite(reopened).all()


def test_labelled_microstructures__through_netcdf(volume, ensemble, tmp_path):
    for number, dataset in enumerate((volume, ensemble)):
        dataset.compute().to_netcdf(tmp_path / f"{number}.nc")
        with xr.open_dataset(tmp_path / f"{number}.nc", chunks={}) as reopened:
            xr.testing.assert_equal(reopened, dataset)
            xr.testing.assert_equal(
                reopened.mks.correlate(cutoff=3).compute(), dataset.mks.correlate(cutoff=3).compute()
            )


def test_describe__counts_phases_without_a_name_too(tmp_path):
    create_volume(tmp_path / "v.zarr", np.array([[0, 1], [2, 2]]), phases=("a", "b", "c"))
    opened = open_volume(tmp_path / "v.zarr")
    opened.microstructure.attrs["phases"] = ["a", "b"]
    assert opened.mks.describe(fractions=True)["fractions"] == {
        "a": 0.25,
        "b": 0.25,
        "2": 0.5,
    }
    empty = xr.DataArray(np.zeros((0, 4, 4), dtype=int), dims=("sample", "x", "y"))
    assert "mks-card" in empty.mks._repr_html_()
    assert "fractions" not in empty.mks.describe(fractions=True)
