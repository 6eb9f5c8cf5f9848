"""Results of computations in stores. They are written block by block, and continued after an interruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import xarray as xr

from mksdask.arrays import ArrayLike, is_lazy
from mksdask.compute.faults import is_transient, telling
from mksdask.compute.progress import progress as show_progress
from mksdask.schema.arguments import checked
from mksdask.storage.atomic import Location, Url
from mksdask.storage.blocks import Blocks, Variable
from mksdask.storage.opening import open_dataset
from mksdask.storage.staging import staged

DEFAULT_NAME = "result"
OnError: TypeAlias = Literal["raise", "skip"]


@checked
def materialize(
    lazy: ArrayLike,
    url: Url,
    *,
    resume: bool = True,
    overwrite: bool = False,
    progress: bool = True,
    on_error: OnError = "raise",
) -> Any:
    """Write a lazy array into a store, block by block.

    If a run is killed, the same call writes only the blocks that are missing.

    Parameters
    ----------
    lazy : dask array, or DataArray that holds one
        What to compute, such as statistics, predictions or fields.
    url : str or path
        A path, or any URL that fsspec knows.
    resume : bool, default True
        Continue with what an earlier call left at `url`. False refuses a store that is not complete, and leaves nothing
        if the call fails.
    overwrite : bool, default False
        Replace another result at `url`. The old result stays until the new one is complete. With `resume`, blocks of
        the new result are kept in ``{url}.partial`` until then. If `url` holds this same result already, `resume`
        completes it, and without `resume` it is computed again.
    progress : bool, default True
        Show a progress bar, in a terminal or a notebook; see `mksdask.progress`.
    on_error : {"raise", "skip"}, default "raise"
        What to do if a block cannot be computed. "raise" stops, and keeps the blocks that are done. "skip" leaves the
        block out: it is NaN in the result, a warning tells of it, and the attribute ``left_out`` of the store lists the
        array, the position and the error of each such block. A later call with the same `lazy` tries these blocks
        again.

    Returns
    -------
    dask array or DataArray
        The stored result, opened lazily.

    Raises
    ------
    BlockingIOError
        If another call writes to `url`. The message names it.
    FileExistsError
        If something other than a result is at `url`, even an empty folder; or if a part of this result is there, and
        neither `resume` nor `overwrite` is set.
    TypeError
        If `lazy` is not lazy.
    ValueError
        If `url` holds a result of other inputs or other parameters, and `overwrite` is not set (the message says what
        differs); if `url` lies inside a store; or if blocks are to be left out, and the data type has no NaN.

    Notes
    -----
    A block is one object of the store. An object appears in the store only when it is complete, so its presence shows
    that the block is done, however many workers there are. The attributes of the store hold the shape of the blocks and
    a token of the computation. The call needs as much memory as the tasks that compute the blocks.

    Each chunk of the store has a checksum. `verify` lists chunks that are damaged. If you remove these files, the same
    call with `resume` computes them again.

    Reading and writing are tried again if the error may heal by itself, as that of a server that is busy: three times
    by default, with longer and longer pauses. ``dask.config.set({"mksdask.retries": 10})`` before the call sets how
    often, on all workers.

    Examples
    --------
    >>> import dask.array as da, tempfile
    >>> squares = da.arange(10, chunks=4) ** 2
    >>> stored = materialize(squares, tempfile.mkdtemp() + "/squares.zarr", progress=False)
    >>> stored.compute().tolist()
    [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]
    """
    result = Result.of(lazy, url, "result")
    if on_error not in get_args(OnError):
        msg = f"on_error must be 'raise' or 'skip', got {on_error!r}"
        raise ValueError(msg)
    if on_error == "skip" and not np.issubdtype(lazy.dtype, np.inexact):
        msg = f"on_error='skip' needs a data type that has NaN, got {lazy.dtype}; use lazy.astype(float)"
        raise ValueError(msg)
    return result.write(resume=resume, overwrite=overwrite, progress=progress, is_skipping=on_error == "skip")


@dataclass(frozen=True)
class Result:
    """A lazy array, and the store to which it is written.

    Parameters
    ----------
    blocks : Blocks
        The array in the form in which it is stored.
    name : str
        The name of the array in the store.
    is_labelled : bool
        Whether the stored result is opened as a DataArray.
    """

    blocks: Blocks
    name: str
    is_labelled: bool

    @classmethod
    def of(
        cls,
        lazy: ArrayLike,
        url: Url,
        kind: str,
        *,
        parts: tuple[int, ...] | None = None,
        is_compressed: bool = True,
        reads: Sequence[Any] = (),
        layout: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Result:
        """Check a lazy array, and describe how it is stored.

        Parameters
        ----------
        lazy, url
            As in `materialize`.
        kind : str
            The mark of the store: "result", or "scratch" for a copy that the package removes again.
        parts : tuple of int, optional
            Shape of the parts of a block that readers read. Default: readers read whole blocks.
        is_compressed : bool, default True
            Whether to compress the blocks.
        reads, layout
            As in `Blocks`.

        Raises
        ------
        TypeError
            If `lazy` is not lazy.
        ValueError
            If `lazy` has no axis, an empty axis, or chunks of unknown sizes.
        """
        is_labelled = isinstance(lazy, xr.DataArray)
        data = lazy.data if is_labelled else lazy
        if not is_lazy(data):
            msg = f"lazy must be a dask array, or a DataArray that holds one, got {type(data).__name__}"
            raise TypeError(msg)
        data = _regular(data)
        name = DEFAULT_NAME
        objects = data.chunksize
        if parts is not None:
            parts = tuple(map(min, parts, objects))
            # An object holds a whole number of parts, and may extend beyond the end of the array.
            objects = tuple(-(-n // part) * part for n, part in zip(objects, parts, strict=True))
        dims, attrs, coords = tuple(f"dim_{axis}" for axis in range(data.ndim)), {}, xr.Dataset()
        if is_labelled:
            name = name if lazy.name is None else str(lazy.name)
            dims, attrs, coords = tuple(map(str, lazy.dims)), dict(lazy.attrs), lazy.coords.to_dataset()
        variable = Variable(data, dims, objects, parts, attrs, is_compressed)
        return cls(Blocks(Location.of(url), kind, {name: variable}, coords, reads, layout or {}), name, is_labelled)

    def write(
        self,
        *,
        resume: bool = True,
        overwrite: bool = False,
        progress: bool = False,
        attributes: Mapping[str, Any] | None = None,
        is_skipping: bool = False,
    ) -> Any:
        """Write the blocks that are missing, and open the result lazily.

        Parameters
        ----------
        resume, overwrite, progress
            As in `materialize`.
        attributes : mapping, optional
            Further attributes of the store, written when it is complete. They are not added to a store that is complete
            already.
        is_skipping : bool, default False
            Whether blocks that cannot be computed are left out.
        """
        complete = partial(_complete, title=self.name if progress else None, is_skipping=is_skipping)
        blocks = self.blocks
        # A store that does not answer between two blocks is named too.
        with telling(f"writing to {blocks.location.place.store}", only=_is_nameless):
            state = blocks.state()
            is_replaced = overwrite and (state == "other" or not resume)
            if is_replaced or (state == "absent" and not resume):
                mode = "w" if overwrite else "w-"
                with staged(blocks.location.place.store, mode, (blocks.kind,), resume=resume) as beside:
                    complete(replace(blocks, location=beside), attributes or {})
            elif state == "partial" and not resume:
                msg = (
                    f"{blocks.location.path} holds a part of this result; pass resume=True to complete it, or remove it"
                )
                raise FileExistsError(msg)
            else:
                # A call that would replace the store meanwhile is refused.
                with blocks.location.locked():
                    complete(blocks, attributes or {})
        opened = open_dataset(Location.of(blocks.location.place.store), chunks={})[self.name]
        return opened if self.is_labelled else opened.data


def _is_nameless(error: Exception) -> bool:
    """Whether an error of the disk or of the network does not say which store it concerns."""
    return is_transient(error) or (isinstance(error, OSError) and error.errno is not None and error.filename is None)


def _complete(blocks: Blocks, attributes: Mapping[str, Any], *, title: str | None, is_skipping: bool) -> None:
    """Write the blocks that are missing in a store. With a title, show a progress bar."""
    blocks.open()
    with nullcontext() if title is None else show_progress(title):
        blocks.write(is_skipping=is_skipping)
    blocks.finish(**attributes)


def _regular(data: Any) -> Any:
    """Cut data into chunks of one size along each axis, as a store needs them. Only the last chunk may be smaller."""
    if not data.shape or 0 in data.shape:
        msg = f"lazy must have an axis, and none that is empty, got shape {data.shape}; call lazy.compute() instead"
        raise ValueError(msg)
    if any(np.isnan(n) for n in data.shape):
        msg = f"lazy must have chunks of known sizes, got shape {data.shape}; call lazy.compute_chunk_sizes() first"
        raise ValueError(msg)
    is_regular = all(set(sizes[:-1]) <= {sizes[0]} and sizes[-1] <= sizes[0] for sizes in data.chunks)
    return data if is_regular else data.rechunk(tuple(max(sizes) for sizes in data.chunks))
