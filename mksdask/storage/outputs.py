"""Outputs of steps that may be interrupted: where a result goes, what it may replace, and what is kept to continue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from mksdask.storage.atomic import (
    Kinds,
    Location,
    attributes_of,
    check_apart,
    check_file,
    check_ours,
    check_outside,
    is_marked,
    remove_store,
)
from mksdask.storage.opening import open_dataset
from mksdask.storage.results import Result


@dataclass(frozen=True)
class Output:
    """The place to which a step of the command writes its result.

    Parameters
    ----------
    path : Path
        The place. If the user named a link, it is the place to which the link leads.
    overwrite : bool
        Whether the new result, once it is complete, replaces what an earlier step wrote there.
    resume : bool, default False
        Whether the step accepts this same result at the place, and completes it if a part of it is missing.
    """

    path: Path
    overwrite: bool
    resume: bool = False

    @classmethod
    def of(cls, path: Path, kinds: Kinds | None, *inputs: Path, overwrite: bool, resume: bool = False) -> Output:
        """Check that a step may write to a place, and make the folder around it.

        Parameters
        ----------
        path : Path
            The place, as the user named it.
        kinds : tuple of str or None
            Marks of the stores that `overwrite` may replace. None means that the output is a file, which replaces only
            a file.
        *inputs : Path
            The inputs of the step. The output may not be an input, lie in one, or hold one.
        overwrite, resume
            As in the class.

        Raises
        ------
        FileExistsError
            If something is there, and neither `overwrite` nor `resume` is set; or if it is something that the step may
            not replace.
        ValueError
            If the output is an input, or lies in a store.
        """
        location = Location.of(path)
        target = Path(location.path)
        check_apart(path, *inputs)
        if path.exists() and not (overwrite or resume):
            msg = f"{path} exists; choose another output, or pass --overwrite"
            raise FileExistsError(msg)
        check_outside(location)
        if kinds is None:
            check_file(target)
        elif overwrite:
            check_ours(location, kinds)
        elif resume and location.exists() and not is_marked(location, kinds):
            msg = f"{path} exists and is not a {' or '.join(kinds)} that --resume can complete; choose another output"
            raise FileExistsError(msg)
        target.parent.mkdir(parents=True, exist_ok=True)
        return cls(target, overwrite, resume)

    def is_done(self, step: str) -> bool:
        """Whether the place holds the complete result of a step, and the step need not run again.

        Parameters
        ----------
        step : str
            A token of all inputs and options of the step, as `write` recorded it.

        Raises
        ------
        ValueError
            If the place holds the result of another step, and `overwrite` is not set.
        """
        if self.overwrite and not self.resume:
            return False
        found = attributes_of(Location.of(self.path)).get("step")
        if found not in (None, step) and not self.overwrite:
            msg = (
                f"{self.path} holds a result of another store, or of other options; choose another output, or pass "
                "--overwrite to replace them"
            )
            raise ValueError(msg)
        # A result without this record may still be the same. `write` finds that out from its blocks.
        return bool(found == step)

    def write(self, lazy: xr.DataArray, step: str | None = None) -> xr.DataArray:
        """Write a lazy result block by block, record the step that made it, and open it lazily."""
        stored: xr.DataArray = Result.of(lazy, self.path, "result").write(
            resume=self.resume, overwrite=self.overwrite, attributes=None if step is None else {"step": step}
        )
        return stored

    def open(self, name: str) -> xr.DataArray:
        """Open a result lazily, by its name in the store."""
        return open_dataset(Location.of(self.path), chunks={})[name]

    @contextmanager
    def intermediate(self, name: str, kinds: Kinds, *, resume: bool) -> Iterator[Path]:
        """Keep a store for intermediate results beside the output until the step succeeds.

        If the step fails or is killed, the store stays, and the next call continues with it. With `overwrite` and
        without `resume`, the step starts from nothing.

        Raises
        ------
        BlockingIOError
            If another step uses the store.
        FileExistsError
            If something is there that is not a store of one of `kinds`.
        """
        beside = self.path.with_name(f"{self.path.name}.{name}")
        location = Location.of(beside)
        with location.locked():
            check_ours(location, kinds)
            if self.overwrite and not resume:
                remove_store(location, kinds)
            yield beside
            remove_store(location, kinds)
