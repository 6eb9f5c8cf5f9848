"""Kernels in the graph: folds and maps of chunks and parts, against plain loops."""

import operator
import pickle
from functools import partial

import cloudpickle
import dask.array as da
import numpy as np
import pytest
from dask.core import flatten
from dask.utils import key_split
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_array_equal

from mksdask import PrimitiveBasis
from mksdask.compute.blocks import array_of, computed, fold_parts, fold_samples, map_parts, map_samples
from mksdask.localization.expansion import Expansion, FieldFFT
from mksdask.localization.influence import Calibration, calibrate
from mksdask.reduction import nearest
from mksdask.reduction.by_features import Gram
from mksdask.reduction.by_samples import Moments
from mksdask.reduction.sketch import Sketch
from mksdask.regression.landmarks import absorb
from mksdask.stats.tile_sum import TileSums
from tests.helpers import chunked, computes, sample_chunks, tasks_per_chunk

RNG = np.random.default_rng(0)
X, Y = RNG.random((9, 3)), RNG.random((9, 2, 2))


def tree(values, merge):
    """Pairs of neighbours, again and again."""
    while len(values) > 1:
        pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
        values = [merge(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return values[0]


def cut(array, rows):
    return np.split(array, np.cumsum(rows)[:-1])


def sums(x, y, *shared, scale=1.0):
    """A value whose last bits tell in which order it was added up."""
    return scale * (x.sum(axis=0) + y.sum() + sum(part.sum() for part in shared))


def task_names(lazy):
    return {key_split(key) for key in lazy.__dask_graph__()}


def keys_of(lazy):
    return {str(key) for key in lazy.__dask_graph__()}


@given(sample_chunks(9), sample_chunks(9), st.booleans())
@settings(deadline=None, max_examples=30)
def test_fold_samples__equals_a_loop_to_the_last_bit(rows, other_rows, with_options):
    options = {"scale": 0.3} if with_options else None
    values = [sums(x, y, **(options or {})) for x, y in zip(cut(X, rows), cut(Y, rows), strict=True)]
    with computes(exactly=1):
        found = computed(
            fold_samples(sums, np.add, chunked(X, rows), chunked(Y, other_rows), name="sums", options=options)
        )
    assert_array_equal(found, tree(values, np.add))
    # The other array follows the chunks of the first lazy one, whichever that is.
    lazy = fold_samples(sums, np.add, X, chunked(Y, rows), name="sums", options=options)
    assert_array_equal(computed(lazy), found)


@given(sample_chunks(9), st.integers(1, 10))
@settings(deadline=None, max_examples=30)
def test_fold_samples__chains_carry_a_value_from_chunk_to_chunk(rows, most):
    def absorb_rows(x, y, seen):
        return [(x.tolist(), y.tolist())] if seen is None else [*seen, (x.tolist(), y.tolist())]

    def nested(a, b):
        return (a, b)

    found = computed(fold_samples(absorb_rows, nested, chunked(X, rows), Y, name="chain", chains=most))
    chunks = [(x.tolist(), y.tolist()) for x, y in zip(cut(X, rows), cut(Y, rows), strict=True)]
    numbers = np.array_split(np.arange(len(chunks)), min(most, len(chunks)))
    assert found == tree([[chunks[i] for i in chain] for chain in numbers], nested)


def test_fold_samples__numpy_input_is_one_call():
    calls = []

    def kernel(*arguments, **options):
        calls.append((arguments, options))
        return "value"

    with computes(exactly=0):
        assert fold_samples(kernel, None, X, None, name="fold", shared=([1, 2],), options={"a": 3}) == "value"
        assert fold_samples(kernel, None, X, name="fold", chains=4) == "value"
    (arguments, options), (in_chain, _) = calls
    assert arguments[0] is X
    assert arguments[1] is None
    assert_array_equal(arguments[2], [1, 2])
    assert options == {"a": 3}
    assert in_chain[0] is X
    assert in_chain[1:] == (None,)


@pytest.mark.parametrize("chains", [None, 2])
def test_fold_samples__none_shared_and_options(chains):
    def kernel(x, missing, shared, lazy_shared, *seen, scale):
        assert missing is None
        assert isinstance(lazy_shared, np.ndarray)
        return scale * (x.sum() + shared.sum() + lazy_shared.sum()) + (seen[0] or 0 if seen else 0)

    options, shared = {"scale": 2.0}, (np.arange(3), da.arange(4, chunks=4))
    with computes(exactly=0):
        lazy = fold_samples(
            kernel, np.add, chunked(X, (4, 5)), None, name="fold", shared=shared, options=options, chains=chains
        )
    assert computed(lazy) == pytest.approx(2.0 * (X.sum() + 2 * (3 + 6)))


def test_fold_samples__refuses_samples_that_are_cut():
    with pytest.raises(ValueError, match="whole samples in each chunk"):
        fold_samples(np.sum, np.add, da.ones((4, 6), chunks=(2, 3)), name="fold")


@pytest.mark.parametrize(("options", "chains"), [({}, None), ({"axis": 0}, None), ({}, 2)])
def test_fold_samples__names_tell_the_stage_and_are_new(options, chains):
    def kernel(x, *seen, axis=None):
        return x.sum(axis)

    data = chunked(X, (2, 2, 2, 3)) + 1.0
    folds = [fold_samples(kernel, np.add, data, name="total", options=options, chains=chains) for _ in range(2)]
    (first, second) = map(keys_of, folds)
    assert {"total", "merge-total"} <= task_names(folds[0])
    assert not {key for key in first & second if "total" in key}
    if chains is None:
        # No key of the data is left for tasks of this computation, which may be fused otherwise in another one.
        assert not {str(key) for key in flatten(data.__dask_keys__())} & (first | second)


@pytest.mark.parametrize("chains", [None, 3])
def test_fold_samples__options_are_once_in_the_graph(chains):
    weights = RNG.random(3)

    def kernel(x, *seen, weights):
        return x @ weights

    rows, options = chunked(X, (1,) * 9), {"weights": weights}
    lazy = fold_samples(kernel, np.add, rows, name="fold", options=options, chains=chains)
    pickled = [cloudpickle.dumps(task) for task in dict(lazy.__dask_graph__()).values()]
    assert sum(weights.tobytes() in task for task in pickled) == 1


def test_fold_samples__one_task_a_chunk_and_one_a_merge():
    lazy = fold_samples(np.sum, np.add, chunked(X, (3, 3, 3)) * 2.0 + 1.0, name="total")
    tasks = [node for node in dict(lazy.__dask_graph__()).values() if type(node).__name__ not in ("Alias", "DataNode")]
    assert len(tasks) == 3 + 2


@pytest.mark.parametrize("chains", [None, 2])
def test_fold_samples__what_arrays_are_computed_from_together_is_computed_once(chains):
    calls = []
    base = chunked(X, (3, 3, 3)).map_blocks(lambda block: calls.append(len(block)) or block, dtype=X.dtype, meta=X[:0])
    lazy = fold_samples(lambda x, y, *seen: x.sum() + y.sum(), np.add, base + 1, base * 2, name="f", chains=chains)
    assert calls == []
    computed(lazy)
    assert calls == [3, 3, 3]


def test_fold_samples__two_folds_of_the_same_data_in_one_computation():
    data = chunked(X, (2, 3, 4)) + 1.0
    lazy = [fold_samples(np.sum, np.add, data, name="f"), fold_samples(np.max, np.maximum, data, name="f"), data]
    total, largest, same = computed(lazy)
    assert total == pytest.approx((X + 1.0).sum())
    assert largest == (X + 1.0).max()
    assert_array_equal(same, X + 1.0)


def test_fold_samples__on_a_cluster(client):
    values = [sums(x, y) for x, y in zip(cut(X, (2, 3, 4)), cut(Y, (2, 3, 4)), strict=True)]
    with client.as_current():
        found = computed(fold_samples(partial(sums), operator.add, chunked(X, (2, 3, 4)), Y, name="sums"))
    assert_array_equal(found, tree(values, np.add))


class Holder:
    """An object that holds an array, as an estimator does."""

    def __init__(self, values):
        self.values = values


def count_aligned(*arguments, holder=None):
    """Count the arrays that are aligned, and all arrays, in the same shape as the first argument."""
    arrays = [*arguments, *([] if holder is None else [holder.values])]
    found = [sum(array.flags.aligned for array in arrays), len(arrays)]
    return np.full((len(arguments[0]), 2), found, dtype=np.float64)


def test_aligned__what_workers_and_the_client_compute_with(client):
    sent = client.submit(np.ones, (3, 7))
    assert not sent.result().flags.aligned, "distributed aligns arrays now, so compute.alignment is not needed any more"
    rows = da.from_array(np.arange(45.0).reshape(9, 5), chunks=(1, -1))
    options = {"holder": Holder(np.ones(1001))}
    with client.as_current():
        mapped = map_samples(
            count_aligned, rows, tail=(2,), dtype=float, name="aligned", shared=(np.ones((3, 7)),), options=options
        ).compute()
        folded = computed(
            fold_samples(count_aligned, merge_counts, rows, name="aligned", shared=(np.ones((3, 7)),), options=options)
        )
        parts = computed(map_parts(count_aligned, [(np.ones(n),) for n in range(1, 9)], name="aligned"))
    assert_array_equal(mapped, np.full((9, 2), 3.0))
    assert folded.flags.aligned
    assert_array_equal(folded[0], [9 * 3 + 8 * 2, 9 * 3 + 8 * 2])
    for part in parts:
        assert part.flags.aligned
        assert_array_equal(part[:, 0], part[:, 1])


def merge_counts(a, b):
    """Add counts, and count whether both are aligned."""
    return a + b + [a.flags.aligned + b.flags.aligned, 2]


@given(sample_chunks(9), sample_chunks(9))
@settings(deadline=None, max_examples=20)
def test_map_samples__equals_the_kernel_of_all_samples(rows, other_rows):
    def kernel(x, y, shared, scale):
        return scale * x[:, :2] * shared + y[:, 0]

    shared, options = (np.array([1.0, 2.0]),), {"scale": 3.0}
    whole = map_samples(kernel, X, Y, tail=(2,), dtype=float, name="kernel", shared=shared, options=options)
    with computes(exactly=0):
        lazy = map_samples(
            kernel,
            chunked(X, rows),
            chunked(Y, other_rows),
            tail=(2,),
            dtype=float,
            name="kernel",
            shared=shared,
            options=options,
        )
    assert lazy.chunks == (rows, (2,))
    assert key_split(lazy.name) == "kernel"
    assert_array_equal(computed(lazy), whole)


def test_samples__chunks_without_any_are_left_out():
    """Most kernels do not take an empty block, or return another dtype for it, which the whole result would get."""

    def ratio(x, y, shared):
        assert len(x), "an empty block"
        return x[:, :2] * shared + 1j * y[:, 0]

    def least(x, y, shared, seen=None):
        found = np.minimum(x.min(axis=0)[:2] * shared, y.min())
        return found if seen is None else np.minimum(found, seen)

    rows, shared = (0, 4, 0, 0, 5, 0), (np.array([1.0, 2.0]),)
    lazy, cut = (chunked(X, rows), chunked(Y, (0, 9))), (da.from_array(*shared, chunks=1),)
    options = {"tail": (2,), "dtype": complex, "name": "ratio"}
    found = map_samples(ratio, *lazy, shared=cut, **options)
    assert found.chunks == (rows, (2,))
    assert_array_equal(computed(found), map_samples(ratio, X, Y, shared=shared, **options))
    for chains in (None, 1, 3):
        folded = computed(fold_samples(least, np.minimum, *lazy, name="least", shared=shared, chains=chains))
        assert_array_equal(folded, least(X, Y, *shared))
    none = map_samples(ratio, lazy[0][:0], lazy[1][:0], shared=shared, **options)
    assert computed(none).dtype == complex
    assert computed(fold_samples(lambda x: len(x), operator.add, lazy[0][:0], name="count")) == 0


def test_map_samples__names_are_those_of_the_same_computation():
    lazy = [map_samples(np.sqrt, chunked(X, (4, 5)), tail=(3,), dtype=float, name="root") for _ in range(2)]
    assert lazy[0].name == lazy[1].name
    assert tasks_per_chunk(lazy[0]) <= 2


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
@settings(deadline=None, max_examples=30)
def test_fold_parts__equals_a_loop(numbers):
    def nested(a, b):
        return (a, b)

    with computes(exactly=0):
        lazy = fold_parts(lambda n, a, b: (n, a, b), nested, [(n,) for n in numbers], name="parts", shared=([1], None))
    assert computed(lazy) == tree([(n, [1], None) for n in numbers], nested)


def test_map_parts__delayed_arguments_and_names():
    blocks = (da.arange(6, chunks=2) + 1).to_delayed(optimize_graph=False).ravel()
    parts = [(number, block) for number, block in enumerate(blocks)]

    def kernel(number, block, source):
        return number, block.sum(), source[number]

    def names(**options):
        return [part.key for part in map_parts(kernel, parts, name="parts", shared=("abc",), **options)]

    with computes(exactly=1):
        assert computed(map_parts(kernel, parts, name="parts", shared=("abc",))) == [
            (0, 3, "a"),
            (1, 7, "b"),
            (2, 11, "c"),
        ]
    assert all(key_split(name) == "parts" for name in names())
    assert not set(names()) & set(names())
    # Of the same things tasks have the same names; of others, others.
    assert names(of=(1,)) == names(of=(1,))
    assert not set(names(of=(1,))) & set(names(of=(2,)))
    others = [fold_parts(kernel, merge, parts, name="f", of=()).key for merge in (operator.add, operator.mul)]
    assert others[0] != others[1]
    turned = [fold_parts(kernel, operator.add, some, name="f", of=()).key for some in (parts, parts[::-1])]
    assert turned[0] != turned[1]


def test_array_of__a_delayed_value_or_a_function_of_it():
    (value,) = map_parts(np.arange, [(6,)], name="numbers")
    plain = array_of(value, (6,), int, name="plain")
    doubled = array_of(value, (2, 3), float, name="doubled", function=lambda numbers: numbers.reshape(2, 3) * 2.0)
    assert plain.chunks == ((6,),)
    assert doubled.chunks == ((2,), (3,))
    assert doubled.dtype == float
    with computes(exactly=1):
        found = computed((plain, doubled))
    assert_array_equal(found[0], np.arange(6))
    assert_array_equal(found[1], np.arange(6).reshape(2, 3) * 2.0)


def _of_rows(kernel):
    return kernel(X[:4]), kernel(X[4:])


def _calibrations():
    expansion = Expansion(PrimitiveBasis(2, domain=[0, 1]), FieldFFT((5, 4), True), np.dtype(float))
    fields = RNG.random((6, 5, 4)), RNG.random((6, 5, 4, 1))
    return tuple(calibrate(*(field[rows] for field in fields), expansion=expansion) for rows in (slice(3), slice(3, 6)))


def _with_gaps():
    rows = X.copy()
    rows[5, 1] = np.nan
    return Moments.of(rows[:4]), Moments.of(rows[4:])


MERGES = {
    "moments": (Moments.merge, lambda: _of_rows(Moments.of)),
    "moments with gaps": (Moments.merge, _with_gaps),
    "moments of no rows": (Moments.merge, lambda: _of_rows(lambda rows: Moments.of(rows[:0]))),
    "sketch": (partial(Sketch.merge, rank=2), lambda: _of_rows(partial(Sketch.of, rank=2))),
    "gram": (Gram.merge, lambda: _of_rows(lambda rows: Gram(rows[:3].T @ rows[:3], (len(rows),)))),
    "sum": (np.add, lambda: (X, X + 1)),
    "subspace": (operator.add, lambda: (X, X + 1)),
    "factor": (absorb, lambda: _of_rows(partial(absorb, None))),
    "nearest": (
        partial(nearest._merge, n=3),
        lambda: _of_rows(lambda rows: nearest._nearest_of_block(rows, X[:2], 3)),
    ),
    "calibration": (Calibration.merge, _calibrations),
    "tiles": (
        TileSums.__add__,
        lambda: tuple(TileSums.of(RNG.random((1, 3, 3, 4)), with_squares=True) for _ in range(2)),
    ),
}


@pytest.mark.parametrize("name", MERGES)
def test_merge__leaves_its_arguments_as_they_are(name):
    merge, make = MERGES[name]
    a, b = make()
    before = pickle.dumps((a, b))
    first = pickle.dumps(merge(a, b))
    assert pickle.dumps((a, b)) == before
    assert pickle.dumps(merge(a, b)) == first
