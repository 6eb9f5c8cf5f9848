"""Results of the last computations: found by content, bounded, and made once by several threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest

from mksdask.compute.recent import MOST, Recent, recalled


def test_number__is_that_of_equal_content_alone():
    recent, array = Recent(), np.arange(12.0).reshape(3, 4)
    number = recent.number_of(array)
    assert recent.number_of(array.copy()) == number
    assert recent.number_of(np.asfortranarray(array)) == number
    different = [
        array.reshape(4, 3),
        array.astype(np.float32),
        array.astype(int),
        # The same bytes in memory, in another order.
        array.ravel().reshape(3, 4, order="F"),
        np.where(array == 11.0, 12.0, array),
    ]
    numbers = [recent.number_of(other) for other in different]
    assert len({number, *numbers}) == len(different) + 1
    assert recent.number_of(array, None) != number
    assert recent.number_of(array, None) == recent.number_of(array, None)


def test_number__follows_a_change_in_place():
    recent, array = Recent(), np.zeros((300, 300))
    number = recent.number_of(array)
    array[123, 45] = 1e-9
    assert recent.number_of(array) != number
    array[123, 45] = 0.0
    assert recent.number_of(array) == number


@pytest.mark.parametrize("dtype", ["bool", "u1", "i8", "f2", "f4", "f8", "c8", "c16"])
def test_number__of_every_dtype(dtype):
    recent, array = Recent(), np.arange(200).reshape(10, 20).astype(dtype)
    assert recent.number_of(array) == recent.number_of(array[:, ::-1][:, ::-1].copy())
    assert recent.number_of(array) != recent.number_of(array[::-1])


def test_number__knows_nan():
    recent, array = Recent(), np.array([0.0, np.nan])
    assert recent.number_of(array) == recent.number_of(array.copy())


def test_result__is_made_once_and_least_recently_used_ones_go_first():
    recent, made = Recent(), []

    def make(key):
        return recent.result(key, lambda: made.append(key) or np.zeros(100))

    with dask.config.set({"mksdask.cache-limit": 2400}):
        for key in "abcabdaca":
            make(key)
    # d takes the place of c, and c that of b.
    assert made == ["a", "b", "c", "d", "c"]
    assert len(recent) == 3
    with dask.config.set({"mksdask.cache-limit": "1KiB"}):
        make("e")
        make("e")
    assert made[5:] == ["e"]
    assert len(recent) == 1
    recent.clear()
    assert len(recent) == 0


def test_result__their_number_is_bounded():
    recent = Recent()
    for key in range(MOST + 5):
        recent.result(key, lambda: 0)
    assert len(recent) == MOST


def test_result__nothing_is_kept_if_the_limit_is_0():
    recent, made = Recent(), []
    with dask.config.set({"mksdask.cache-limit": 0}):
        for _ in range(2):
            recent.result("a", lambda: made.append("a"))
    assert made == ["a", "a"]
    assert len(recent) == 0
    with (
        dask.config.set({"mksdask.cache-limit": "much"}),
        pytest.raises(ValueError, match=r"mksdask\.cache-limit must be a number of bytes.*'much'"),
    ):
        recent.result("a", list)
    assert recalled(None, lambda: 3) == 3


def test_result__threads_wait_for_the_first_of_them():
    recent, made = Recent(), []

    def slow():
        time.sleep(0.2)
        made.append(threading.get_ident())
        return np.ones(3)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: recent.result("a", slow), range(8)))
    assert len(made) == 1
    assert all(result is found[0] for result in found)


def test_result__an_error_is_not_kept():
    recent = Recent()

    def fail():
        msg = "no"
        raise ValueError(msg)

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            recent.result("a", fail)
    assert recent.result("a", lambda: 1) == 1
