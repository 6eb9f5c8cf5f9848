"""Fourier transforms by SciPy or by FFTW, as the configuration says."""

import itertools
import tracemalloc
from types import SimpleNamespace

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.fft
from numpy.testing import assert_allclose

from mksdask import MKSLocalizationModel, PrimitiveBasis
from mksdask.compute import transforms
from mksdask.compute.transforms import fast_length, fft_library, transforms_by
from mksdask.datasets import make_microstructure
from mksdask.stats import correlate, correlate_volume
from mksdask.storage.sources import libraries

pyfftw = pytest.importorskip("pyfftw", reason="pyFFTW is not installed: pip install 'mksdask[fftw]'")


@pytest.fixture
def planned(monkeypatch):
    """Numbers of threads of the transforms that FFTW computes."""
    found = []

    def counted(*args):
        found.append(args[-1])
        return pyfftw.FFTW(*args)

    monkeypatch.setattr(transforms, "pyfftw", SimpleNamespace(FFTW=counted))
    return found


def fields(dtype, *shape):
    rng = np.random.default_rng(0)
    values = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else 0)
    return values.astype(dtype)


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("axes", [(1,), (0, 2), (2, 1), (0, 1, 2), (-1,)])
@pytest.mark.parametrize("longer", [None, 0, 3, -2])
def test_fftw_computes_what_scipy_computes(planned, single, axes, longer):
    real, pair = ("float32", "complex64") if single else ("float64", "complex128")
    s = None if longer is None else [(5, 8, 9)[axis] + longer for axis in axes]
    for name, dtype in (("rfftn", real), ("irfftn", pair), ("fftn", pair), ("ifftn", pair)):
        given = fields(dtype, 5, 8, 9)
        for norm, overwrite in itertools.product(("backward", "forward"), (False, True)):
            expected = getattr(scipy.fft, name)(given, s=s, axes=axes, norm=norm)
            before, passed = len(planned), given.copy()
            with transforms_by("pyfftw"):
                found = getattr(scipy.fft, name)(passed, s=s, axes=axes, norm=norm, overwrite_x=overwrite)
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, atol=5 * np.finfo(real).eps * np.abs(expected).max(), rtol=0)
            assert overwrite or np.array_equal(passed, given)
            # SciPy alone divides after a forward transform.
            assert len(planned) == before + (norm == "backward" or name.startswith("i"))


@pytest.mark.parametrize("name", ["rfft", "irfft", "fft", "ifft"])
def test_fftw_transforms_one_axis(planned, name):
    given = fields("float64" if name == "rfft" else "complex128", 4, 7, 3)
    for n, axis in ((None, -1), (None, 1), (12, 1), (5, 0)):
        with transforms_by("pyfftw"):
            found = getattr(scipy.fft, name)(given, n, axis)
        np.testing.assert_allclose(found, getattr(scipy.fft, name)(given, n, axis), atol=1e-13)
    assert len(planned) == 4


def test_what_fftw_does_not_compute_is_left_to_scipy(planned):
    with transforms_by("pyfftw"):
        assert scipy.fft.rfft([1, 2, 3]).shape == (2,)
        assert scipy.fft.dct(np.arange(4.0)).shape == (4,)
        assert scipy.fft.fft(np.arange(4.0)).dtype == np.complex128
        with pytest.raises(ValueError, match="invalid number of data points"):
            scipy.fft.rfftn(np.ones((3, 3)), s=(0, 3))
    assert planned == []


def test_arrays_that_may_not_be_changed_stay(planned):
    given = fields("complex128", 6, 6)
    given.flags.writeable = False
    with transforms_by("pyfftw"):
        found = scipy.fft.fft(given, overwrite_x=True)
        scipy.fft.irfftn(given, overwrite_x=True, workers=2)
    np.testing.assert_allclose(found, np.fft.fft(given), atol=1e-13)
    assert planned == [1, 2]


def test_the_task_carries_the_choice(planned):
    X, basis = make_microstructure(n_samples=5, size=(12, 14), seed=1), PrimitiveBasis(2)
    lazy = da.from_array(X, chunks=(2, 12, 14))
    expected = correlate(X, basis, periodic_axes=[0])
    assert planned == []
    with dask.config.set({"mksdask.fft": "pyfftw"}):
        found = correlate(lazy, basis, periodic_axes=[0])
    assert planned == []
    np.testing.assert_allclose(found.compute(scheduler="synchronous"), expected, atol=1e-6)
    assert planned
    assert found.name != correlate(lazy, basis, periodic_axes=[0]).name


def test_models_and_volumes_agree_within_rounding(planned):
    X, basis = make_microstructure(n_samples=6, size=(9, 10), seed=2), PrimitiveBasis(2)
    y = np.random.default_rng(0).random(X.shape)
    volume = da.from_array(X[:, :, 0], chunks=(3, 5))

    def results():
        model = MKSLocalizationModel(basis).fit(X, y)
        return model.predict(X), np.asarray(correlate_volume(volume, basis, cutoff=2))

    expected = results()
    with dask.config.set({"mksdask.fft": "auto"}):
        found = results()
        assert libraries()["pyfftw"]
    assert planned
    assert "pyfftw" not in libraries()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("library", ["scipy", "pyfftw"])
@pytest.mark.parametrize("norm", ["backward", "forward"])
@pytest.mark.parametrize(("axes", "lengths"), [((1, 2, 3), (5, 6, 7)), ([2, 3], [6, 7]), (range(3, 4), (7,))])
def test_irfftn_in_place__gives_what_scipy_gives(axes, lengths, norm, library, monkeypatch):
    monkeypatch.setattr(transforms, "_CACHE_BYTES", 0)
    values = np.random.default_rng(0).normal(size=(2, 5, 6, 7))
    spectra = scipy.fft.rfftn(values, axes=axes)
    expected = scipy.fft.irfftn(spectra, s=lengths, axes=axes, norm=norm)
    with transforms_by(library):
        assert_allclose(transforms.irfftn_in_place(spectra, lengths, axes, norm=norm), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_bytes", [2**14, 2**15, 2**20])
def test_irfftn_in_place__does_not_depend_on_how_spectra_are_grouped(n_bytes, monkeypatch):
    # One spectrum takes 17 KiB, and all of them 102 KiB.
    monkeypatch.setattr(transforms, "_CACHE_BYTES", n_bytes)
    spectra = scipy.fft.rfftn(np.random.default_rng(0).normal(size=(6, 11, 13, 15)), axes=(1, 2, 3))
    alone = [transforms.irfftn_in_place(one.copy(), (11, 13, 15), (0, 1, 2)) for one in spectra]
    together = transforms.irfftn_in_place(spectra, (11, 13, 15), (1, 2, 3))
    np.testing.assert_array_equal(together, alone)


def test_irfftn_in_place__does_not_copy_spectra():
    spectra = scipy.fft.rfftn(np.ones((64, 128, 128), np.float32))
    tracemalloc.start()
    result = transforms.irfftn_in_place(spectra, (64, 128, 128), (0, 1, 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.nbytes <= peak < 1.1 * result.nbytes


@pytest.mark.parametrize("n", [1, 3, 15, 17, 61, 97, 121, 200, 385])
def test_padded_lengths_are_fast_for_the_library(n):
    assert fast_length(n) == scipy.fft.next_fast_len(n)
    assert fast_length(n, real=True) == scipy.fft.next_fast_len(n, real=True)
    with transforms_by("pyfftw"):
        found = fast_length(n)
    rest = found
    for prime in (2, 3, 5, 7):
        while rest % prime == 0:
            rest //= prime
    assert rest in (1, 11)
    assert n <= found <= max(1.2 * n, n + 4)
    assert found % 4 == 0 or n < 16


def test_libraries_that_are_not_there_are_refused(monkeypatch):
    assert fft_library() == "scipy"
    with dask.config.set({"mksdask.fft": "mkl"}), pytest.raises(ValueError, match=r"mksdask\.fft .* got 'mkl'"):
        correlate(np.zeros((1, 4, 4), int), PrimitiveBasis(2))
    monkeypatch.delattr(transforms, "pyfftw")
    with dask.config.set({"mksdask.fft": "auto"}):
        assert fft_library() == "scipy"
    with dask.config.set({"mksdask.fft": "pyfftw"}), pytest.raises(ImportError, match=r"mksdask\[fftw\]"):
        fft_library()
    with pytest.raises(ImportError, match="not installed here"), transforms_by("pyfftw"):
        pass
