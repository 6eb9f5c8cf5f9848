"""Values that the documentation of PyMKS 0.4 prints for its own functions."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mksdask import MKSLocalizationModel, PrimitiveBasis
from mksdask.datasets import ElasticFESimulation, make_delta_microstructures, solve_fields
from mksdask.stats import TwoPointStatistics, correlate

X = np.array([[[1, 1, 0], [0, 0, 1], [1, 1, 0]]])


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ((1, 1), [[3, 2, 3], [2, 5, 2], [3, 2, 3]]),
        ((1, 0), [[2, 3, 2], [3, 0, 3], [2, 3, 2]]),
    ],
)
def test_correlations__auto_correlation_and_cross_correlation(pair, expected):
    options = {"periodic_axes": [0, 1], "correlations": [pair]}
    assert_allclose(correlate(X, PrimitiveBasis(2), **options)[0, ..., 0], np.array(expected) / 9, rtol=1e-6)
    flat = TwoPointStatistics(PrimitiveBasis(2), flatten=True, **options).fit_transform(X)
    assert_allclose(flat, np.array(expected).reshape(1, -1) / 9, rtol=1e-6)


def test_localization__fit_of_three_states():
    model = MKSLocalizationModel(PrimitiveBasis(3, domain=[0, 1])).fit(
        np.array([[0.0], [1.0]]), np.array([[2.0], [1.0]])
    )
    assert_allclose(model.coef_, [[2, 0, 1]], atol=1e-12)


def test_solve_fe__uniform_strain_and_offset_of_the_sides():
    layers = np.zeros((1, 3, 3), dtype=int)
    layers[0, :, 1] = 1
    fields = solve_fields(layers, elastic_modulus=(1.0, 10.0), poissons_ratio=(0.0, 0.0), macro_strain=1.0)
    assert_allclose(np.asarray(fields.strain)[..., 0], 1, atol=1e-6)
    assert_allclose(np.asarray(fields.strain)[..., 1:], 0, atol=1e-6)
    mixed = np.array([[[1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 1, 1], [1, 0, 0, 1]]])
    found = ElasticFESimulation(elastic_modulus=(10.0, 1.0), poissons_ratio=(0.3, 0.3), macro_strain=0.1).run(mixed)
    assert_allclose(found.strain[..., 0].mean(), 0.1, atol=1e-7)


def test_generate_delta__one_voxel_for_each_ordered_pair():
    found = make_delta_microstructures(3, (3, 3))
    assert found.shape == (6, 3, 3)
    assert len({(sample[1, 1], sample[0, 0]) for sample in np.asarray(found)}) == 6
