"""Faults of tasks: an error says where it occurred, and what may heal by itself is tried again.

A disk, a network file system or an object store that does not answer now may answer in a second. Other errors, such as
a wrong checksum, a missing file or a bad value, are the same each time, so they are raised at once.
"""

from __future__ import annotations

import asyncio
import builtins
import errno
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from mksdask.compute.client import setting

T = TypeVar("T")

RETRIES_KEY = "mksdask.retries"
RETRIES = 3
# Seconds before the second try, by how much each pause is longer than the one before, and the longest pause.
FIRST_PAUSE, GROWTH, LONGEST_PAUSE = 0.2, 4.0, 30.0

# Errors of a disk or of a network that may be over soon. A full disk is none of them.
_TRANSIENT = {
    errno.EIO,
    errno.EBUSY,
    errno.EAGAIN,
    errno.EINTR,
    errno.ESTALE,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENETRESET,
    errno.EHOSTUNREACH,
}
# Names of the same errors in the packages that talk to object stores.
_TRANSIENT_NAMES = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectTimeoutError",
    "ConnectionClosedError",
    "EndpointConnectionError",
    "FSTimeoutError",
    "HTTPClientError",
    "IncompleteReadError",
    "ReadTimeoutError",
    "ResponseStreamingError",
}
# What an error carries if it was tried again already, and if it says already where it occurred.
_TRIED, _TOLD = "_mksdask_tried", "_mksdask_told"

# A message of KeyError is shown in quotes.
_TOO_GENERAL = (KeyError, Exception, BaseException, object)


def retries() -> int:
    """Return how often a task tries again to read or write: ``mksdask.retries`` of the configuration of dask.

    Raises
    ------
    ValueError
        If it is not a whole number that is at least 0.
    """
    found = setting(RETRIES_KEY, RETRIES)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        msg = f"{RETRIES_KEY} of the configuration of dask must be a whole number, such as 3 or 0, got {found!r}"
        raise ValueError(msg)
    return found


def is_transient(error: BaseException) -> bool:
    """Whether an error of reading or writing may heal by itself."""
    if isinstance(error, FileNotFoundError | PermissionError | FileExistsError | IsADirectoryError):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _TRANSIENT:
        return True
    answer = getattr(error, "response", None)
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
    status = getattr(error, "status", None) if status is None else status
    if isinstance(status, int) and (status >= 500 or status == 429):
        return True
    return any(kind.__name__ in _TRANSIENT_NAMES for kind in type(error).__mro__)


def _pause(error: Exception, n_tries: int, n_retries: int) -> float | None:
    """Return the seconds before the next try. None if the error cannot heal, or was tried often enough."""
    if n_tries <= n_retries and is_transient(error) and not getattr(error, _TRIED, False):
        return min(LONGEST_PAUSE, FIRST_PAUSE * GROWTH ** (n_tries - 1))
    # A caller that tries again too shall not multiply the tries.
    setattr(error, _TRIED, True)
    return None


def retried(call: Callable[[], T], n_retries: int) -> T:
    """Call a function, and call it again after a pause if it raises an error that may heal by itself."""
    for n_tries in itertools.count(1):
        try:
            return call()
        except Exception as error:
            pause = _pause(error, n_tries, n_retries)
            if pause is None:
                raise
        time.sleep(pause)
    raise AssertionError


async def retried_async(call: Callable[[], Awaitable[T]], n_retries: int) -> T:
    """Await what a function returns, as `retried` does."""
    for n_tries in itertools.count(1):
        try:
            return await call()
        except Exception as error:
            pause = _pause(error, n_tries, n_retries)
            if pause is None:
                raise
        await asyncio.sleep(pause)
    raise AssertionError


def told(error: Exception, where: str, *, is_last: bool = True) -> Exception:
    """Add to the message of an error where it occurred.

    Parameters
    ----------
    error : Exception
        The error. One that says it already is returned as it is.
    where : str
        The place, such as "stage correlate, samples 8 to 15".
    is_last : bool, default True
        Whether the place is complete. If not, a caller may add more.

    Returns
    -------
    Exception
        An error of the same type if possible, which can be sent to another process.
    """
    if getattr(error, _TOLD, False):
        return error
    new = _with_text(error, where)
    for name in (_TRIED, _TOLD):
        if getattr(error, name, False):
            setattr(new, name, True)
    if is_last:
        setattr(new, _TOLD, True)
    return new


def _with_text(error: Exception, where: str) -> Exception:
    if hasattr(error, "with_place"):
        found: Exception = error.with_place(where)
        return found
    kinds = [kind for kind in type(error).__mro__ if kind.__module__ == builtins.__name__ and kind not in _TOO_GENERAL]
    if isinstance(error, OSError) and error.errno is not None:
        # The file comes last in the message.
        return kinds[0](error.errno, f"{error.strerror} ({where})", error.filename)
    text = str(error).rstrip()
    if error.args == (str(error),):
        error.args = (f"{text} ({where})",)
        return error
    for kind in kinds:
        with suppress(TypeError):
            return kind(f"{text or type(error).__name__} ({where})")
    error.add_note(where)
    return error


def samples_text(first: int, last: int) -> str:
    """Name the samples from `first` to `last`, which is not one of them."""
    return f"sample {first}" if last - first == 1 else f"samples {first} to {last - 1}"


def block_text(edges: Sequence[tuple[int, int]]) -> str:
    """Name a block by where it begins and ends along each axis."""
    return f"block [{', '.join(f'{first}:{last}' for first, last in edges)}]"


@contextmanager
def telling(where: str, *, is_last: bool = True, only: Callable[[Exception], bool] | None = None) -> Iterator[None]:
    """Add to the message of an error of the block inside where it occurred, as `told` does.

    With `only`, errors of which it returns False stay as they are.
    """
    try:
        yield
    except Exception as error:
        if only is not None and not only(error):
            raise
        new = told(error, where, is_last=is_last)
        if new is error:
            raise
        raise new from error


class Guarded:
    """The function of a task that reads, computes and perhaps writes. Its errors say where they occurred.

    Parameters
    ----------
    function : callable
        What the task calls.
    where : str
        The stage and the block.
    n_retries : int
        How often it is called again after an error that may heal by itself.
    """

    def __init__(self, function: Callable[..., Any], where: str, n_retries: int) -> None:
        self.function, self.where, self.n_retries = function, where, n_retries

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the function."""
        with telling(self.where):
            return retried(partial(self.function, *args, **options), self.n_retries)
