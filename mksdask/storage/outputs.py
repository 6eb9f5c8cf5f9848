"""Outputs of steps that may be interrupted: where a result goes, what it may replace, and what is kept to continue."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from mksdask.storage.atomic import (
    Kinds,
    Location,
    Url,
    attributes_of,
    check_apart,
    check_ours,
    check_outside,
    is_marked,
    remove_store,
)
from mksdask.storage.opening import open_dataset
from mksdask.storage.results import Result
from mksdask.storage.staging import check_file


@dataclass(frozen=True)
class Output:
    """The place to which a step of the command writes its result.

    Parameters
    ----------
    path : Path or str
        The place: a path or, if it is not on this machine, a URL. If the user named a link, it is the place to which
        the link leads.
    overwrite : bool
        Whether the new result, once it is complete, replaces what an earlier step wrote there.
    resume : bool, default False
        Whether the step accepts this same result at the place, and completes it if a part of it is missing.
    """

    path: Url
    overwrite: bool
    resume: bool = False

    @classmethod
    def of(cls, path: Url, kinds: Kinds | None, *inputs: Url, overwrite: bool, resume: bool = False) -> Output:
        """Check that a step may write to a place.

        Parameters
        ----------
        path : Path or str
            The place, as the user named it: a path or a URL.
        kinds : tuple of str or None
            Marks of the stores that `overwrite` may replace. None means that the output is a file, which replaces only
            a file.
        *inputs : Path or str
            The inputs of the step. The output may not be an input, lie in one, or hold one.
        overwrite, resume
            As in the class.

        Raises
        ------
        FileExistsError
            If something is there, and neither `overwrite` nor `resume` is set; or if it is something that the step may
            not replace.
        NotADirectoryError, PermissionError
            If nothing can be written there.
        ValueError
            If the output is an input, or lies in a store; if it is a file that is not on this machine; or if it lies
            inside of another file, such as a zip file.
        """
        location = Location.of(path)
        check_apart(path, *inputs)
        if location.inside:
            msg = (
                f"{path} lies inside of {location.inside.removeprefix('::')}, where nothing can be written; give a path"
            )
            raise ValueError(msg)
        if location.exists() and not (overwrite or resume):
            msg = f"{path} exists; choose another output, or pass --overwrite"
            raise FileExistsError(msg)
        check_outside(location)
        if location.is_local:
            _check_folder(Path(location.path).parent)
        if kinds is None:
            if not location.is_local:
                msg = f"{path} is not a file of this machine; give a path, or a .zarr store"
                raise ValueError(msg)
            check_file(Path(location.path))
        elif overwrite:
            check_ours(location, kinds)
        elif resume and location.exists() and not is_marked(location, kinds):
            msg = f"{path} exists and is not a {' or '.join(kinds)} that --resume can complete; choose another output"
            raise FileExistsError(msg)
        return cls(Path(location.path) if location.is_local else location.place.store, overwrite, resume)

    @property
    def folder(self) -> Url:
        """The folder in which the place lies."""
        return self.path.parent if isinstance(self.path, Path) else os.fspath(self.path).rpartition("/")[0]

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
        return self.open_all()[name]

    def open_all(self) -> xr.Dataset:
        """Open all results of the store lazily."""
        return open_dataset(Location.of(self.path), chunks={})

    @contextmanager
    def intermediate(self, name: str, kinds: Kinds, *, resume: bool, beside: Sequence[str] = ()) -> Iterator[Url]:
        """Keep a store for intermediate results beside the output until the step ends.

        With `resume`, the store stays if the step fails or is killed, and the next call with `resume` continues with
        it. Without `resume`, the step starts from nothing and leaves nothing.

        Parameters
        ----------
        name, kinds
            What the name of the store ends with, and the marks that it may have.
        resume : bool
            Whether to continue with the store of an earlier call, and to keep it if the step fails.
        beside : sequence of str
            What the names of further stores end with, which the step makes beside this one.

        Raises
        ------
        BlockingIOError
            If another step uses the store.
        FileExistsError
            If something is there that is not a store of one of `kinds`; or if an earlier call left a store, and neither
            `resume` nor `overwrite` is set.
        """
        place = f"{os.fspath(self.path)}.{name}"
        locations = [Location.of(each) for each in (place, *(f"{place}.{end}" for end in beside))]
        with locations[0].locked():
            for location in locations:
                check_ours(location, kinds)
            if not resume:
                if not self.overwrite and locations[0].exists():
                    msg = (
                        f"{place} holds what an earlier run has done; pass --resume to continue with it, or "
                        "--overwrite to start from nothing"
                    )
                    raise FileExistsError(msg)
                self._remove(locations, kinds)
            try:
                yield Path(place) if isinstance(self.path, Path) else place
            except BaseException:
                if not resume:
                    self._remove(locations, kinds)
                raise
            self._remove(locations, kinds)

    @staticmethod
    def _remove(locations: Sequence[Location], kinds: Kinds) -> None:
        for location in locations:
            remove_store(location, kinds)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made, or in which nothing can be written."""
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        msg = f"{folder} is a file and not a folder, so nothing can be written in it; choose another output"
        raise NotADirectoryError(msg)
    if not os.access(folder, os.W_OK | os.X_OK):
        msg = f"{folder} does not allow you to write in it; choose another output"
        raise PermissionError(msg)
