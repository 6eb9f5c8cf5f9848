# ruff: noqa: E501  the lists of odd values
"""Public calls with odd arguments: each gives a result, or an error that says which argument is wrong; none hangs."""

import datetime as dt
import importlib
import inspect
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path

import dask
import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import xarray as xr
import zarr
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV

import mksdask
from mksdask import (
    FourierBasis,
    GivenStates,
    GSHBasis,
    LegendreBasis,
    MKSHomogenizationModel,
    MKSLocalizationModel,
    MKSStructureAnalysis,
    PrimitiveBasis,
    ProductBasis,
    datasets,
    importers,
    reduction,
    regression,
    simulation,
    stats,
    storage,
    texture,
    tools,
)
from mksdask.descriptors import ShapeDescriptors

ROOT = str(Path(mksdask.__file__).parent)
SECONDS = 15  # of CPU that one call may take; it may last longer on a machine that is busy with other things
# So many of all calls may end in an error of another library. Of 103,630 calls, 8 did, and these were mended.
SHARE = 1 / 5000
NUMBERS = itertools.count()  # of new stores
KEPT = da.ones((4, 3), chunks=(2, 3)) * 2
RNG = np.random.default_rng(0)
X = RNG.integers(0, 2, (8, 6, 5))
Y = X.mean(axis=(1, 2)) + 0.01 * np.arange(8)
FIELD = RNG.normal(size=(8, 6, 5))
MASK = np.ones((8, 6, 5))
ANGLES = RNG.random((2, 4, 4, 3))
SCORES = RNG.normal(size=(30, 3))
TARGETS = SCORES[:, 0] + 0.1 * RNG.normal(size=30)
VOLUME = RNG.integers(0, 2, (8, 8, 8))
BASIS = PrimitiveBasis(2)
F = stats.correlate(X, BASIS)
LABELLED_F = stats.correlate(xr.DataArray(X[:1], dims=("sample", "x", "y")), BASIS)[0]
MADE = stats.reconstruct(LABELLED_F, tolerance=10.0)
CHORDS = stats.chord_lengths(VOLUME, 1)
CLUSTERS = stats.cluster_statistics(VOLUME, 1)
HARMONICS = GSHBasis(None, domain="cubic", max_degree=4)
TEXTURE = texture.texture_coefficients(ANGLES, HARMONICS)
WEIGHTS = np.ones((2, 4, 4))
MISORIENTATIONS = texture.volume_misorientation_density(ANGLES[0])
PHASES = {"elastic_modulus": (100.0, 150.0), "poissons_ratio": (0.3, 0.3)}
SMALL = {"size": (5, 5), "n_samples": 2, "seed": 3}
SEARCH = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0], "tol": [1e-3, 1e-2]}, cv=2).fit(SCORES, TARGETS)
HOMOGENIZATION = MKSHomogenizationModel(BASIS, n_components=2, property_linker="kernel").fit(X, Y)
LOCALIZATION = MKSLocalizationModel(BASIS).fit(X, FIELD)
SERIES = MKSLocalizationModel(BASIS, order=2).fit(X, FIELD)


def method(name, cls, **fitted):
    """Make a call of the constructor, of `fit` if `fitted` holds its arguments, and of a method."""
    own = inspect.signature(cls).parameters

    def call(**arguments):
        made = cls(**{key: value for key, value in arguments.items() if key in own})
        if fitted:
            made.fit(**fitted)
        return getattr(made, name)(**{key: value for key, value in arguments.items() if key not in own})

    return call


def of(fitted, name):
    """Make a call of a method of a fitted estimator."""
    return lambda **arguments: getattr(fitted, name)(**arguments)


def store(call):
    """Make a call that is given a new place, unless the place itself is what is tried."""

    def stored(**arguments):
        if isinstance(arguments["url"], str) and arguments["url"] == "NEW":
            arguments["url"] = f"store{next(NUMBERS)}.zarr"
        return call(**arguments)

    return stored


def append(url, **arguments):
    """Append to a new ensemble."""
    if isinstance(url, str) and url == "NEW":
        url = f"appended{time.monotonic_ns()}.zarr"
        mksdask.create_ensemble(url, X.astype("uint8"), Y.astype("float32"), confidence_index=MASK.astype("float32"))
    mksdask.append_ensemble(url, **arguments)


MODEL = {
    "basis": BASIS,
    "dimension_reducer": None,
    "n_components": 2,
    "periodic_axes": [0],
    "correlations": None,
    "compute_correlations": True,
    "store_correlations": False,
    "mean_center": False,
    "weights": None,
    "cutoff": 1,
    "dtype": "float32",
    "scratch": None,
}
LINKAGE = {**MODEL, "property_linker": "polynomial", "degree": 1}
SAMPLES = {"X": X, "size": (6, 5), "confidence_index": MASK}
CORRELATE = {
    **SAMPLES,
    "basis": BASIS,
    "periodic_axes": [0],
    "correlations": [(0, 0), (1, 1)],
    "cutoff": 1,
    "dtype": "float32",
}
DRAW = {"figsize": (3.0, 3.0), "ax": None}
TABLES = {"labels": ["a", "b"], "title": "t", "legend_outside": False, "component_labels": None, "figsize": (3.0, 3.0)}
STORED = {
    "url": "NEW",
    "spacing": 0.5,
    "units": "um",
    "phases": ("a", "b"),
    "periodic_axes": [0],
    "chunks": "auto",
    "mode": "w-",
    "resume": False,
}
RANDOM = {"grain_size": (2, 2), "volume_fraction": (0.5, 0.5), "percent_variance": 0.1, "chunks": None}
STIFF = {**PHASES, "size": (5, 5), "macro_strain": 0.01, "chunks": None}
SOLVE = {"X": X[:2], **PHASES, "crystal_stiffness": None, "tolerance": 1e-4, "max_iterations": 100}
CONDUCT = {"X": X[:2], "conductivity": (1.0, 2.0), "tolerance": 1e-4, "max_iterations": 100}
CLASSES = {"n_samples": (2, 2), "grain_size": ((2, 2), (3, 3)), "seed": 3, "volume_fraction": (0.5, 0.5)}
WITH_ONE = {"percent_variance": 0.1, **CLASSES}
IMAGE = {
    "path": "scan.npy",
    "url": "NEW",
    "dataset": None,
    "axes": "xyz",
    "phases": None,
    "thresholds": [0.5],
    "otsu": None,
    "names": ("a", "b"),
    "spacing": 0.5,
    "units": "um",
    "crop": {"x": (0, 6)},
    "window": None,
    "periodic_axes": (),
    "mode": "w-",
    "resume": False,
    "allow_missing": False,
}
# Name of each call: the call, and arguments that are right.
CASES = {
    "FourierBasis": (method("discretize", FourierBasis), {"n_states": 3, "domain": (0, 2), "X": X, "dtype": "float32"}),
    "LegendreBasis": (method("discretize", LegendreBasis), {"n_states": 3, "domain": (0, 2), "X": X}),
    "PrimitiveBasis": (method("discretize", PrimitiveBasis), {"n_states": 3, "domain": (0, 2), "X": X}),
    "GivenStates": (
        method("discretize", GivenStates),
        {"n_states": 3, "is_complex": False, "is_checked": False, "X": ANGLES, "dtype": "float32"},
    ),
    "GSHBasis": (
        method("discretize", GSHBasis),
        {"n_states": 3, "domain": "cubic", "max_degree": 2, "sample_symmetry": "triclinic", "X": ANGLES},
    ),
    "ProductBasis": (
        lambda bases, X: ProductBasis(*bases).discretize(X),
        {"bases": [BASIS, LegendreBasis(2)], "X": RNG.integers(0, 2, (2, 4, 4, 2))},
    ),
    "MKSStructureAnalysis": (
        method("fit_transform", MKSStructureAnalysis),
        {**MODEL, **SAMPLES, "y": None, "watch": False, "resume": False},
    ),
    "MKSStructureAnalysis.share": (
        method("share", MKSStructureAnalysis),
        {"basis": BASIS, "cutoff": 1, **SAMPLES, "watch": False, "resume": False},
    ),
    "MKSHomogenizationModel": (
        method("fit", MKSHomogenizationModel),
        {**LINKAGE, **SAMPLES, "y": Y, "groups": None, "watch": False, "resume": False},
    ),
    "MKSHomogenizationModel.groups": (
        method("fit", MKSHomogenizationModel),
        {"basis": BASIS, "property_linker": "kernel", "X": X, "y": Y, "groups": np.arange(8) % 3},
    ),
    **{
        f"MKSHomogenizationModel.{name}": (of(HOMOGENIZATION, name), arguments)
        for name, arguments in {
            "predict": {**SAMPLES, "return_std": True},
            "transform": SAMPLES,
            "score": {**SAMPLES, "y": Y, "sample_weight": np.ones(8)},
            "nearest": {"X_query": X[:2], "n": 2, "among": X, "size": (6, 5), "confidence_index": MASK[:2]},
            "suggest": {"X_pool": X, "n": 3, "size": (6, 5), "confidence_index": MASK},
            "inverse_transform": {"X": RNG.normal(size=(4, 2))},
        }.items()
    },
    "MKSLocalizationModel": (
        method("fit", MKSLocalizationModel),
        {"basis": BASIS, "alpha": 0.1, "lstsq_rcond": 1e-6, "linear_model": None, "X": X, "y": FIELD, "size": (6, 5)},
    ),
    "MKSLocalizationModel.linear_model": (
        method("fit", MKSLocalizationModel),
        {"basis": BASIS, "linear_model": Ridge(0.1, fit_intercept=False), "X": X, "y": FIELD},
    ),
    "MKSLocalizationModel.order": (
        method("fit", MKSLocalizationModel),
        {"basis": BASIS, "alpha": 0.1, "order": 2, "X": X, "y": FIELD},
    ),
    "MKSLocalizationModel.pair_coeff": (of(SERIES, "pair_coeff"), {"lag": (0, 1), "other_lag": (1, 1)}),
    "MKSLocalizationModel.score_by_order": (of(SERIES, "score_by_order"), {"X": X, "y": FIELD, "size": (6, 5)}),
    "MKSLocalizationModel.partial_fit": (
        method("partial_fit", MKSLocalizationModel, X=X, y=FIELD),
        {"basis": BASIS, "X": X, "y": FIELD, "size": (6, 5)},
    ),
    "MKSLocalizationModel.resize_coeff": (
        method("resize_coeff", MKSLocalizationModel, X=X, y=FIELD),
        {"basis": BASIS, "size": (7, 7)},
    ),
    "MKSLocalizationModel.predict": (of(SERIES, "predict"), {"X": X, "size": (6, 5), "order": 1}),
    "MKSLocalizationModel.score": (
        of(LOCALIZATION, "score"),
        {"X": X, "y": FIELD, "size": (6, 5), "sample_weight": np.ones(8)},
    ),
    "plan": (
        mksdask.plan,
        {"operation": stats.correlate, "memory_limit": "4GiB", "X": X, "basis": BASIS, "cutoff": 1},
    ),
    "progress": (mksdask.progress, {"title": "t"}),
    "create_ensemble": (
        store(mksdask.create_ensemble),
        {**STORED, "X": X, "y": Y, "phase": X, "confidence_index": MASK},
    ),
    "append_ensemble": (append, {"url": "NEW", "X": X.astype("uint8"), "y": Y, "confidence_index": MASK}),
    "create_volume": (
        store(mksdask.create_volume),
        {**STORED, "volume": VOLUME, "phase": VOLUME, "confidence_index": np.ones(VOLUME.shape)},
    ),
    "materialize": (
        store(storage.materialize),
        {
            "url": "NEW",
            "lazy": da.from_array(FIELD, chunks=(4, 6, 5)),
            "resume": True,
            "overwrite": False,
            "progress": False,
        },
    ),
    "open_ensemble": (mksdask.open_ensemble, {"url": "ensemble.zarr", "allow_missing": False, "follow_links": False}),
    "open_volume": (mksdask.open_volume, {"url": "volume.zarr", "allow_missing": False, "follow_links": False}),
    "open_store": (storage.open_store, {"url": "volume.zarr", "allow_missing": False, "follow_links": False}),
    "verify": (mksdask.verify, {"url": "volume.zarr", "follow_links": False}),
    "repair": (mksdask.repair, {"url": "kept.zarr", "lazy": KEPT}),
    "save_model": (store(mksdask.save_model), {"url": "NEW", "model": LOCALIZATION}),
    "load_model": (mksdask.load_model, {"url": "model.zarr"}),
    "sample_windows": (
        mksdask.sample_windows,
        {"volume": VOLUME, "size": 3, "stride": None, "n": 4, "seed": 3, "chunks": 2},
    ),
    "sample_windows.stride": (mksdask.sample_windows, {"volume": VOLUME, "size": (3, 3, 3), "stride": 2}),
    "TwoPointStatistics": (
        method("fit_transform", stats.TwoPointStatistics),
        {**CORRELATE, "flatten": True, "y": None} | {"confidence_index": MASK[0]},
    ),
    "correlate": (stats.correlate, CORRELATE),
    "autocorrelate": (stats.autocorrelate, CORRELATE),
    "crosscorrelate": (stats.crosscorrelate, CORRELATE | {"correlations": [(0, 1)]}),
    "correlate_volume": (
        stats.correlate_volume,
        {k: v for k, v in CORRELATE.items() if k not in ("X", "size")}
        | {"volume": VOLUME, "confidence_index": np.ones(VOLUME.shape), "return_std": True, "memory_limit": "1GiB"}
        | {"scratch": None, "watch": False},
    ),
    "chord_lengths": (stats.chord_lengths, {"volume": VOLUME, "phase": 1, "axes": [0], "periodic_axes": [0]}),
    "lineal_path": (
        stats.lineal_path,
        {"volume": VOLUME, "phase": 1, "cutoff": 3, "axes": [0], "periodic_axes": [0]},
    ),
    "radial_average": (stats.radial_average, {"statistics": F, "width": 1.0, "spacing": 1.0, "n_spatial": 2}),
    "specific_surface": (stats.specific_surface, {"statistics": F, "spacing": 1.0, "n_spatial": 2}),
    "integral_range": (stats.integral_range, {"statistics": F, "spacing": 1.0, "n_spatial": 2}),
    "label_clusters": (
        stats.label_clusters,
        {"volume": VOLUME, "phase": 1, "periodic_axes": [0], "scratch": None},
    ),
    "cluster_statistics": (
        stats.cluster_statistics,
        {"volume": VOLUME, "phase": 1, "periodic_axes": [0], "scratch": None},
    ),
    "correlate_clusters": (
        stats.correlate_clusters,
        {"X": X, "phase": 1, "size": (6, 5), "periodic_axes": [0], "cutoff": 1, "confidence_index": MASK},
    ),
    "correlate_volume_clusters": (
        stats.correlate_volume_clusters,
        {"volume": VOLUME, "phase": 1, "cutoff": 1, "periodic_axes": [0], "scratch": None}
        | {"confidence_index": np.ones(VOLUME.shape)},
    ),
    "correlate3": (stats.correlate3, CORRELATE | {"offsets": [(1, 0), (0, 1)], "correlations": [(0, 1, 1)]}),
    "correlate_volume3": (
        stats.correlate_volume3,
        {"volume": VOLUME, "basis": BASIS, "offsets": [(1, 0, 0), (0, 1, 0)], "cutoff": 1, "periodic_axes": [0]}
        | {"correlations": [(0, 1, 1)], "confidence_index": np.ones(VOLUME.shape), "dtype": "float32"}
        | {"scratch": None},
    ),
    "correlate_surfaces": (
        stats.correlate_surfaces,
        {"X": X, "phase": 1, "smoothing": 1.0, "size": (6, 5), "periodic_axes": [0], "cutoff": 1, "dtype": "float32"}
        | {"confidence_index": MASK},
    ),
    "correlate_volume_surfaces": (
        stats.correlate_volume_surfaces,
        {"volume": VOLUME, "phase": 1, "cutoff": 1, "smoothing": 1.0, "periodic_axes": [0], "dtype": "float32"}
        | {"scratch": None, "confidence_index": np.ones(VOLUME.shape)},
    ),
    "distance_map": (
        stats.distance_map,
        {"volume": VOLUME, "phase": 1, "largest": 2.0, "periodic_axes": [0], "confidence_index": VOLUME},
    ),
    "pore_sizes": (
        stats.pore_sizes,
        {"volume": VOLUME, "phase": 1, "largest": 2.0, "periodic_axes": [0], "confidence_index": VOLUME},
    ),
    "local_thickness": (
        stats.local_thickness,
        {"volume": VOLUME, "phase": 1, "radii": [1.0, 2.0], "periodic_axes": [0], "confidence_index": VOLUME},
    ),
    "texture_coefficients": (
        texture.texture_coefficients,
        {"X": ANGLES, "basis": HARMONICS, "size": (4, 4), "confidence_index": WEIGHTS, "halfwidth": 0.2},
    ),
    "volume_texture_coefficients": (
        texture.volume_texture_coefficients,
        {"volume": ANGLES[0], "basis": HARMONICS, "confidence_index": WEIGHTS[0], "halfwidth": 0.2},
    ),
    "odf": (texture.odf, {"coefficients": TEXTURE, "basis": HARMONICS, "orientations": ANGLES, "step": 0.2}),
    "odf.grid": (texture.odf, {"coefficients": TEXTURE[0], "basis": HARMONICS, "step": 0.2}),
    "texture_index": (texture.texture_index, {"coefficients": TEXTURE, "basis": HARMONICS}),
    "pole_figure": (
        texture.pole_figure,
        {"coefficients": TEXTURE, "basis": HARMONICS, "pole": (1, 1, 1), "directions": ANGLES, "step": 0.2},
    ),
    "misorientation_density": (
        texture.misorientation_density,
        {"X": ANGLES, "laue_group": "cubic", "width": 0.1, "least": 0.05, "size": (4, 4), "periodic_axes": [0]}
        | {"confidence_index": WEIGHTS},
    ),
    "volume_misorientation_density": (
        texture.volume_misorientation_density,
        {"volume": ANGLES[0], "laue_group": "cubic", "width": 0.1, "least": 0.05, "periodic_axes": [0]}
        | {"confidence_index": WEIGHTS[0]},
    ),
    "mackenzie_density": (texture.mackenzie_density, {"angles": ANGLES, "laue_group": "cubic"}),
    "phase_fraction_interval": (
        stats.phase_fraction_interval,
        {"volume": VOLUME, "confidence": 0.9, "phases": [0, 1], "periodic_axes": [0]}
        | {"confidence_index": np.ones(VOLUME.shape)},
    ),
    "mean_interval": (
        stats.mean_interval,
        {"field": FIELD, "confidence": 0.9, "periodic_axes": [0], "confidence_index": MASK},
    ),
    "representative_size": (
        stats.representative_size,
        {"volume": VOLUME, "error": 0.1, "confidence": 0.9, "phases": [1], "periodic_axes": [0]}
        | {"confidence_index": np.ones(VOLUME.shape)},
    ),
    "reconstruct": (
        stats.reconstruct,
        {"statistics": F[0], "size": (6, 5), "n_samples": 2, "seed": 1, "tolerance": 0.5, "max_iterations": 20}
        | {"volume_fraction": (0.5, 0.5), "correlations": [(0, 0), (0, 1)], "periodic_axes": [0, 1], "chunks": 1},
    ),
    "pair_correlation": (
        stats.pair_correlation,
        {"statistics": F, "fractions": [(0.5, 0.5)] * 2, "width": 1.0, "spacing": 1.0, "n_spatial": 2},
    ),
    "KernelRegressor": (
        method("fit", regression.KernelRegressor),
        {"kernel": "rbf", "alpha": 0.1, "gamma": 1.0, "degree": 3, "coef0": 1.0, "n_landmarks": None}
        | {"criterion": "likelihood", "random_state": 0, "X": SCORES, "y": TARGETS, "groups": np.arange(30) % 3},
    ),
    "KernelRegressor.landmarks": (
        method("fit", regression.KernelRegressor),
        {"alpha": 0.1, "gamma": 1.0, "n_landmarks": 5, "random_state": 0}
        | {"X": da.from_array(SCORES, chunks=(10, 3)), "y": da.from_array(TARGETS, chunks=10)},
    ),
    **{
        f"{type(fitted).__name__}.{name}": (of(fitted, name), arguments)
        for fitted in (
            regression.KernelRegressor(alpha=0.1, gamma=1.0).fit(SCORES, TARGETS),
            regression.LeastSquares().fit(SCORES, TARGETS),
            regression.polynomial_regression(2).fit(SCORES, TARGETS),
        )
        for name, arguments in {
            "predict": {"X": SCORES, "return_std": True},
            "posterior": {"X": SCORES},
            "score": {"X": SCORES, "y": TARGETS, "sample_weight": np.ones(30)},
        }.items()
        if hasattr(fitted, name)
    },
    "LeadingScaler": (lambda X: regression.LeadingScaler().fit(X).transform(X), {"X": SCORES}),
    "LeastSquares": (
        method("fit", regression.LeastSquares),
        {"X": SCORES, "y": TARGETS, "sample_weight": np.ones(30)},
    ),
    "polynomial_regression": (
        lambda degree, X, y: regression.polynomial_regression(degree).fit(X, y),
        {"degree": 2, "X": SCORES, "y": TARGETS},
    ),
    "next_samples": (
        regression.next_samples,
        {
            "linker": regression.KernelRegressor(alpha=0.1, gamma=1.0).fit(SCORES, TARGETS),
            "scores": SCORES,
            "n": 3,
            "random_state": 0,
        },
    ),
    "PCA": (
        method("fit_transform", reduction.PCA),
        {"n_components": 2, "solver": "auto", "whiten": False, "random_state": 0, "oversampling": 5}
        | {"iterated_power": 2, "scratch": None, "X": SCORES},
    ),
    "PCA.transform": (of(reduction.PCA(2).fit(SCORES), "transform"), {"X": SCORES}),
    "PCA.inverse_transform": (of(reduction.PCA(2).fit(SCORES), "inverse_transform"), {"X": SCORES[:, :2]}),
    "IncrementalPCA": (
        method("partial_fit", reduction.IncrementalPCA),
        {"n_components": 2, "oversampling": 5, "whiten": False, "X": SCORES},
    ),
    "IncrementalPCA.merge": (
        lambda other: reduction.IncrementalPCA(2).fit(SCORES).merge(other),
        {"other": reduction.IncrementalPCA(2).fit(SCORES)},
    ),
    "IncrementalPCA.save": (store(reduction.IncrementalPCA(2).fit(SCORES).save), {"url": "NEW"}),
    "IncrementalPCA.load": (reduction.IncrementalPCA.load, {"url": "pca.zarr"}),
    "CahnHilliardSimulation": (
        method("run", simulation.CahnHilliardSimulation),
        {"dx": 0.5, "gamma": 1.0, "dt": 0.01, "X": FIELD * 0.1, "n_steps": 2},
    ),
    "CahnHilliardSimulation.free_energy": (simulation.CahnHilliardSimulation().free_energy, {"X": FIELD}),
    "ElasticFESimulation": (method("run", simulation.ElasticFESimulation), {**SOLVE, "macro_strain": 0.01}),
    "solve_fields": (simulation.solve_fields, {**SOLVE, "macro_strain": 0.01}),
    "solve_fields.crystals": (
        simulation.solve_fields,
        {
            "X": ANGLES[:1],
            "crystal_stiffness": simulation.single_crystal_stiffness([168.4, 121.4, 75.4]),
            "tolerance": 1e-4,
        },
    ),
    "solve_fields.stress": (
        simulation.solve_fields,
        {**SOLVE, "macro_strain": 0.01, "macro_stress": [np.nan, 0.0, 0.0], "eigenstrain": (0.0, 0.1)},
    ),
    "solve_fields.voxels": (
        simulation.solve_fields,
        {"stiffness": np.tile(np.eye(3), (2, 4, 3, 1, 1)), "eigenstrain": FIELD[:2, :4, :3], "tolerance": 1e-4},
    ),
    "solve_fields.moduli": (
        simulation.solve_fields,
        {"elastic_modulus": 1.0 + X[:2], "poissons_ratio": 0.3 * X[:2], "tolerance": 1e-4},
    ),
    "effective_expansion": (
        simulation.effective_expansion,
        {**PHASES, "X": X[:2], "eigenstrain": (0.0, 0.1), "tolerance": 1e-4, "max_iterations": 100},
    ),
    "effective_stiffness.phases": (
        simulation.effective_stiffness,
        {"X": X[:2], "stiffness": np.stack([np.eye(6), 2 * np.eye(6)]), "tolerance": 1e-4},
    ),
    "solve_conduction": (simulation.solve_conduction, {**CONDUCT, "macro_gradient": 1.0}),
    "effective_conductivity": (simulation.effective_conductivity, CONDUCT),
    "make_conduction_random": (
        datasets.make_conduction_random,
        {"n_samples": 2, "conductivity": (1, 2), "size": (5, 5), "macro_gradient": 1.0, "seed": 3, "chunks": None},
    ),
    "mean_stress": (simulation.mean_stress, {**SOLVE, "macro_strain": 0.01}),
    "effective_stiffness": (simulation.effective_stiffness, SOLVE),
    "single_crystal_stiffness": (simulation.single_crystal_stiffness, {"constants": [168.4, 121.4, 75.4]}),
    "engineering_constants": (simulation.engineering_constants, {"stiffness": np.tile(np.eye(6), (2, 1, 1))}),
    "isotropic_stiffness": (
        simulation.isotropic_stiffness,
        {"elastic_modulus": (1.0, 2.0), "poissons_ratio": 0.3, "n_spatial": 2},
    ),
    "voigt_reuss_bounds": (
        simulation.voigt_reuss_bounds,
        {"fractions": np.array([[0.5, 0.5], [0.0, 1.0]]), "properties": (1.0, 2.0)},
    ),
    "BoundedRegressor": (
        method("fit", simulation.BoundedRegressor),
        {"properties": (0.0, 1.0), "regressor": None, "columns": [0], "normalize": True, "X": Y[:, None], "y": 1.0 - Y},
    ),
    "BoundedRegressor.predict": (
        of(simulation.BoundedRegressor((0.0, 1.0)).fit(Y[:, None], 1.0 - Y), "predict"),
        {"X": Y[:, None]},
    ),
    "hashin_shtrikman_bounds": (
        simulation.hashin_shtrikman_bounds,
        {**PHASES, "fractions": np.array([[0.5, 0.5], [0.0, 1.0]]), "n_spatial": 3},
    ),
    "hashin_shtrikman_bounds.conductivity": (
        simulation.hashin_shtrikman_bounds,
        {"fractions": [0.5, 0.5], "conductivity": (1.0, 2.0), "n_spatial": 2},
    ),
    "ComponentTexture": (
        lambda n, **options: datasets.ComponentTexture(**options).draw(n, np.random.default_rng(0)),
        {"angles": [(0.1, 0.2, 0.3)], "spread": 0.1, "weights": [1.0], "n": 4},
    ),
    "FibreTexture": (
        lambda n, **options: datasets.FibreTexture(**options).draw(n, np.random.default_rng(0)),
        {"crystal_axis": (1, 1, 1), "sample_axis": (0, 0, 1), "spread": 0.1, "weight": 0.5, "n": 4},
    ),
    "MicrostructureGenerator": (
        method("generate", datasets.MicrostructureGenerator),
        {**SMALL, **RANDOM, "n_phases": 2, "stream": 0},
    ),
    "make_microstructure": (datasets.make_microstructure, {**SMALL, **RANDOM, "n_phases": 2}),
    "make_polycrystal": (
        datasets.make_polycrystal,
        {**SMALL, "n_grains": 4, "texture": None, "chunks": None, "dtype": "float64", "return_grains": True},
    ),
    "make_cahn_hilliard": (
        datasets.make_cahn_hilliard,
        {**SMALL, "dx": 0.5, "width": 1.0, "dt": 0.01, "n_steps": 2, "chunks": None, "dtype": "float64"},
    ),
    "make_checkerboard_microstructure": (
        datasets.make_checkerboard_microstructure,
        {"square_size": 2, "n_squares": 3, "ndim": 2, "chunks": None},
    ),
    "make_delta_microstructures": (
        datasets.make_delta_microstructures,
        {"n_phases": 2, "size": (3, 3), "chunks": None},
    ),
    "make_elastic_FE_strain_delta": (datasets.make_elastic_FE_strain_delta, {**STIFF, "component": "xx"}),
    "make_elastic_FE_strain_random": (
        datasets.make_elastic_FE_strain_random,
        {**STIFF, "component": "xx", "n_samples": 2, "seed": 3},
    ),
    "make_elastic_stiffness": (datasets.make_elastic_stiffness, {**STIFF, **WITH_ONE}),
    "make_elastic_stress_random": (datasets.make_elastic_stress_random, {**STIFF, **WITH_ONE}),
    "import_images": (store(importers.import_images), IMAGE),
    "import_images.window": (store(importers.import_images), IMAGE | {"window": 3, "otsu": 2, "thresholds": None}),
    "import_images.phases": (
        store(importers.import_images),
        {"path": ["scan.npy"], "url": "NEW", "phases": {0: "a", 1: "b"}},
    ),
    "import_ebsd": (
        store(importers.import_ebsd),
        {"path": "map.ang", "url": "NEW", "window": None, "setting": None, "scan": None, "mode": "w-"},
    ),
    "draw_correlations": (tools.draw_correlations, {"X_corr": F[0], "correlations": None, "n_spatial": 2, **DRAW}),
    "draw_autocorrelations": (tools.draw_autocorrelations, {"X_auto": F[0], "correlations": None, **DRAW}),
    "draw_crosscorrelations": (tools.draw_crosscorrelations, {"X_cross": F[0], "n_spatial": 2, **DRAW}),
    "draw_coeff": (tools.draw_coeff, {"coeff": LOCALIZATION.coef_, "labels": None, **DRAW}),
    "draw_component_variance": (tools.draw_component_variance, {"variance": [0.5, 0.3, 0.1], **DRAW}),
    "draw_components": (
        tools.draw_components,
        {"components": HOMOGENIZATION.components_, "correlations": None, **DRAW},
    ),
    "draw_components_scatter": (
        tools.draw_components_scatter,
        {**TABLES, "datasets": [SCORES, SCORES + 1], "view_angles": (30, 40), "ax": None},
    ),
    "draw_evolution": (
        tools.draw_evolution,
        {**TABLES, "datasets": [SCORES, SCORES + 1], "time_label": "s"},
    ),
    "draw_concentrations": (tools.draw_concentrations, {"concentrations": FIELD[:2], "labels": ["a", "b"], **DRAW}),
    "draw_concentrations_compare": (
        tools.draw_concentrations_compare,
        {"concentrations": FIELD[:2], "labels": ["a", "b"], "label": "c", **DRAW},
    ),
    "draw_differences": (
        tools.draw_differences,
        {"differences": FIELD[:2], "labels": ["a", "b"], "label": "d", **DRAW},
    ),
    "draw_goodness_of_fit": (
        tools.draw_goodness_of_fit,
        {"fit_data": np.array([Y, Y]), "pred_data": np.array([Y, Y]), "labels": ("a", "b"), "quantity": "q", **DRAW},
    ),
    "draw_gridscores": (
        tools.draw_gridscores,
        {"cv_results": SEARCH.cv_results_, "param": "alpha", "by": "tol", "score_label": "s", "param_label": "p"}
        | {"data_labels": ["a", "b"], "colors": ["r", "g"], **DRAW},
    ),
    "draw_gridscores_matrix": (
        tools.draw_gridscores_matrix,
        {"cv_results": SEARCH.cv_results_, "params": ["alpha", "tol"], "score_label": "s"}
        | {"param_labels": ["a", "t"], "figsize": (3.0, 3.0)},
    ),
    "draw_radial": (
        tools.draw_radial,
        {"statistics": F[0], "std": 0.1 * abs(F[0]), "n_spatial": 2, "title": "t", **DRAW},
    ),
    "draw_chord_lengths": (tools.draw_chord_lengths, {"chords": CHORDS, "title": "t", **DRAW}),
    "draw_clusters": (tools.draw_clusters, {"clusters": CLUSTERS, "title": "t", **DRAW}),
    "draw_reconstruction": (
        tools.draw_reconstruction,
        {"statistics": LABELLED_F, "structures": MADE, "n_spatial": 2, "title": "t", **DRAW},
    ),
    "draw_pole_figure": (
        tools.draw_pole_figure,
        {"coefficients": TEXTURE[0], "basis": HARMONICS, "poles": [(0, 0, 1), (1, 1, 1)], "labels": ["a", "b"], **DRAW},
    ),
    "draw_odf": (
        tools.draw_odf,
        {"coefficients": TEXTURE[0], "basis": HARMONICS, "sections": [0.0, 0.5], **DRAW},
    ),
    "draw_misorientations": (
        tools.draw_misorientations,
        {"misorientations": MISORIENTATIONS, "title": "t", **DRAW},
    ),
    "draw_learning_curves": (
        tools.draw_learning_curves,
        {"estimator": Ridge(), "X": SCORES, "y": TARGETS, "cv": 2, "train_sizes": (0.5, 1.0), "scoring": None}
        | {"params": None, "loss": False, "score_label": "s", "title": "t", **DRAW},
    ),
    "draw_microstructures": (
        tools.draw_microstructures,
        {"microstructures": X[:2], "labels": ["a", "b"], "phases": ("p", "q"), **DRAW},
    ),
    "draw_microstructure_strain": (
        tools.draw_microstructure_strain,
        {"microstructure": X[0], "strain": FIELD[0], "label": "e", **DRAW},
    ),
    "draw_strains": (tools.draw_strains, {"strains": FIELD[:2], "labels": ["a", "b"], "label": "e", **DRAW}),
    "draw_strains_compare": (
        tools.draw_strains_compare,
        {"strain_FEM": FIELD[0], "strain_MKS": FIELD[1], "label": "e", **DRAW},
    ),
    "show_volume": (tools.show_volume, {"volume": VOLUME, "hide": (0,), "size": 8, "height": 100}),
    "ShapeDescriptors": (
        method("fit_transform", ShapeDescriptors),
        {"n_phases": 2, "descriptors": ("fraction", "clusters"), "periodic_axes": [0], "X": X, "size": (6, 5)},
    ),
}
# Public names that have no arguments of their own to try, or are tried through others.
OTHERS = {"Basis", "Texture", "RandomTexture", "Plan", "ElasticResponse", "ConductionResponse", "ConvergenceError"}
OTHERS |= {"MissingPropertyWarning", "ExtrapolationWarning", "Bounds", "ElasticConstants", "KeptFeatures"}
OTHERS |= {"PartialResult", "draw_partial", "AssumedWarning", "ipf_colours"}
SIMPLE = [
    None, True, False, -1, 0, 1, 3, 10**12, 2**63, -(2**63) - 1, np.nan, np.inf, -np.inf, 0.5, -0.5, 1e-300, 1e300,
    1j, "", "abc", "1", "x\0y", b"abc", (), [], {}, [[]], [()], object(), int, Ridge, len, Ellipsis, slice(2), range(3),
    [1, 2], (3, 3), (2, 2, 2, 2), [0, 0], [-1], [None], ["a"], ["a", 1], {"a": 1}, {0: "a"}, {1, 2}, (np.nan, 1.0), (1e12, 1),
    np.float32(1.5), np.int64(2), np.bool_(True), np.datetime64("2024-01-01"), dt.timedelta(1), np.str_("abc"),
    Path("nowhere"), np.random.default_rng(0), np.random.RandomState(0), Ridge(), BASIS, np.dtype("f4"),
]  # fmt: skip


def arrays(like):
    """Arrays that are odd, in the shape of an array that is right."""
    n = len(like)
    floats = np.asarray(like.compute() if isinstance(like, da.Array) else like).astype(float)
    lazy = da.from_array(floats, chunks=(max(1, n // 2), *floats.shape[1:]))
    some, numbers = np.arange(n) % 2 == 0, np.arange(floats.size).reshape(floats.shape)
    spoilt = {value: np.where(numbers == floats.size // 2, value, floats) for value in (np.nan, np.inf, 1e300, -1e300)}
    pair = np.zeros(floats.shape, dtype=[("a", "f8"), ("b", "i4")])
    with_dims = xr.DataArray(floats, dims=[f"d{i}" for i in range(floats.ndim)])
    return [
        floats, -floats, 1000 * floats, floats[None], floats[0], floats[..., 0], floats[..., None], floats.ravel(),
        np.array(3.0), np.array([1.0]), floats[:0], floats[..., :0], floats[:1], floats[:-1], floats[..., :-1], floats.T,
        *spoilt.values(), np.full_like(floats, np.nan), np.zeros_like(floats), np.ones_like(floats),
        floats.astype(bool), floats.astype(complex) * 1j, floats.astype(np.float16), floats.astype(np.longdouble),
        floats.astype(np.uint8), floats.astype(np.int8), floats.astype(">f8"), floats.astype(object), floats.astype(str),
        floats.astype("S4"), np.full(floats.shape, None), np.full(floats.shape, "a", dtype=object),
        floats.astype(np.int64).astype("M8[s]"), floats.astype(np.int64).astype("m8[s]"), pair,
        np.asfortranarray(floats), floats[::-1], np.ma.masked_array(floats, floats > floats.mean()),
        np.ma.masked_all(floats.shape), np.broadcast_to(floats.ravel()[0], floats.shape), np.full(floats.shape, 10**18),
        lazy, lazy[da.from_array(some, chunks=max(1, n // 2))], lazy.rechunk(1), lazy.astype(complex), lazy.astype(str),
        da.full_like(lazy, np.nan), lazy[:0], lazy.astype(object),
        with_dims, with_dims.chunk(), with_dims.rename(d0="sample"), xr.Dataset({"a": with_dims}),
        with_dims.assign_coords(d0=[0] * n), with_dims.astype("M8[ns]"), zarr.array(floats),
        pd.DataFrame(floats.reshape(n, -1)), pd.Series(floats.ravel()), pd.DataFrame({"a": ["x"] * n}), pd.Series(["x"] * n),
        scipy.sparse.csr_array(floats.reshape(n, -1)), floats.tolist(), [floats, floats[:, :1]] if floats.ndim > 1 else [[1], [1, 2]],
        [[1, 2], [3]], ["a"] * n, [None] * n, memoryview(np.ascontiguousarray(floats)), iter([1.0]), (v for v in [1.0]),
        [np.datetime64("2024-01-01")] * n, [1, "a"] * (n // 2), np.nan * 1j * floats, with_dims.expand_dims("sample"),
    ]  # fmt: skip


class TooSlowError(BaseException):
    """A call took longer than `SECONDS`."""


def stop(*_):
    raise TooSlowError


def settle(found):
    """Compute what is lazy, so that checks in blocks run too."""
    parts = found if isinstance(found, tuple) else (found,)
    for part in parts:
        if dask.is_dask_collection(part) and not isinstance(part, xr.Dataset) and part.nbytes < 2**26:
            part.compute(scheduler="sync")


def fault(name, argument, value):
    """Call with one argument replaced. Return what is unclear about the error, or None."""
    call, arguments = CASES[name]
    timers = {signal.SIGALRM: (signal.ITIMER_REAL, 8 * SECONDS), signal.SIGPROF: (signal.ITIMER_PROF, SECONDS)}
    before = {each: signal.signal(each, stop) for each in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), dask.config.set(scheduler="sync"):
            warnings.simplefilter("ignore")
            settle(call(**arguments | {argument: value}))
    except TooSlowError:
        return "hang"
    except (ValueError, TypeError, FileExistsError, FileNotFoundError, NotFittedError) as error:
        own = is_own(error)
        named = re.search(rf"(?<!\w){argument}(?!\w)", str(error)) is not None
        return None if own or named else unclear(error)
    except simulation.ConvergenceError:
        return None
    except BaseException as error:
        return unclear(error)
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        for each, handler in before.items():
            signal.signal(each, handler)
        plt.close("all")
    return None


def is_own(error):
    """Whether the package itself raised an error, or scikit-learn where it checks arguments."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return (
        last.startswith(ROOT) or re.search(r"sklearn/utils/(validation|_param_validation|multiclass)", last) is not None
    )


def unclear(error):
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(ROOT)]
    if not own:
        # The case itself failed, before it made its call.
        return None
    where = f"{own[-1].filename[len(ROOT) + 1 :]}:{own[-1].lineno} {own[-1].name}"
    return f"{type(error).__name__} at {where}: {str(error)[:90]!r}"


def tries():
    """All calls: names, arguments and values. Values are made anew, because some can be used once only."""
    for name, (_, arguments) in CASES.items():
        for argument, right in arguments.items():
            is_array = isinstance(right, np.ndarray | da.Array)
            n_arrays = len(arrays(right if is_array else X[:3, :4, 0]))
            # Where no array is right, arrays are refused for what they are, so every fifth one tells enough.
            chosen = range(0, n_arrays, 1 if is_array else 5)
            yield from (
                (name, argument, number) for number in (*range(len(SIMPLE)), *(len(SIMPLE) + i for i in chosen))
            )


def value_of(name, argument, number):
    right = CASES[name][1][argument]
    if number < len(SIMPLE):
        return SIMPLE[number]
    return arrays(right if isinstance(right, np.ndarray | da.Array) else X[:3, :4, 0])[number - len(SIMPLE)]


def faults_of(chosen, seconds):
    """Try calls, for a bounded time. Return what is unclear, and the number of calls."""
    found, done, end = [], 0, time.monotonic() + seconds
    for name, argument, number in chosen:
        if time.monotonic() > end:
            break
        value = value_of(name, argument, number)
        told = fault(name, argument, value)
        done += 1
        if told is not None:
            found.append((told, name, argument, f"{type(value).__name__} {str(value)[:50]!r}"))
    return found, done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of its own, with the stores and files that calls open."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("fuzz"))
    prepare()
    yield
    os.chdir(before)


def prepare():
    mksdask.create_ensemble("ensemble.zarr", X.astype("uint8"))
    mksdask.create_volume("volume.zarr", VOLUME.astype("uint8"))
    mksdask.save_model(LOCALIZATION, "model.zarr")
    storage.materialize(KEPT, "kept.zarr", progress=False)
    Path("kept.zarr/result/c/0/0").unlink()
    reduction.IncrementalPCA(2).fit(SCORES).save("pca.zarr")
    np.save("scan.npy", VOLUME.astype("uint8"))
    lines = [f"0.1 0.2 0.3 {x} {y} 1 0.9 1 0 1" for y in range(6) for x in range(6)]
    header = "# Phase 1\n# Symmetry 43\n# GRID: SqrGrid\n# XSTEP: 1\n# YSTEP: 1\n# NCOLS_ODD: 6\n# NCOLS_EVEN: 6\n# NROWS: 6\n"
    Path("map.ang").write_text(header + "\n".join(lines) + "\n")


def test_every_public_name_is_tried():
    rooms = ["", "bases", "datasets", "importers", "localization", "reduction", "regression", "simulation", "stats"]
    rooms += ["storage", "texture", "tools"]
    packages = [importlib.import_module(f"mksdask.{room}".rstrip(".")) for room in rooms]
    public = {name for package in packages for name in package.__all__ if not inspect.ismodule(getattr(package, name))}
    tried = {name.partition(".")[0] for name in CASES}
    assert public - tried - OTHERS == set()


@pytest.mark.parametrize("name", CASES)
def test_calls__that_are_right(name, folder):
    call, arguments = CASES[name]
    with warnings.catch_warnings(), dask.config.set(scheduler="sync"):
        warnings.simplefilter("ignore")
        settle(call(**arguments))
    plt.close("all")


def faults(folder, seed, most, seconds):
    """Try calls in a process of its own, because a call that is stopped by a signal may leave a lock behind."""
    code = f"""
import json, random
from tests.test_fuzz_calls import faults_of, prepare, tries
prepare()
chosen = list(tries())
random.Random({seed}).shuffle(chosen)
print(json.dumps(faults_of(chosen[:{most}], {seconds})))
"""
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "MPLBACKEND": "agg"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


def test_calls__with_one_odd_argument(tmp_path):
    found, done = faults(tmp_path, 0, 500, 10)
    assert done > 20
    assert len(found) <= SHARE * done + 1, "\n".join(map(str, found))


@pytest.mark.slow
def test_calls__with_each_odd_argument(tmp_path):
    found, done = faults(tmp_path, 1, None, float(os.environ.get("MKSDASK_FUZZ_SECONDS", "180")))
    assert len(found) <= SHARE * done, f"{len(found)} of {done}\n" + "\n".join(map(str, found))
