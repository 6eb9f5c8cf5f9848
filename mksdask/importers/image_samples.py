"""Many files as one ensemble, of which each file is one sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mksdask.arrays import Array, concatenate_samples
from mksdask.importers.image_sequences import check_alike, picture_of
from mksdask.importers.sources import Choice, Source, lazy_slabs, reading

# A file of a sample that is larger is read slab by slab.
MOST_BYTES = 2**24


@dataclass(frozen=True)
class _Samples:
    """The kernel that reads the samples of an ensemble, each from a file of its own.

    Parameters
    ----------
    files : tuple of path
        The file of each sample.
    opened : callable
        ``opened(path)`` returns the `Source` of a file.
    axes : str
        Axes of a sample, in the order in which they are stored.
    """

    files: tuple[Path, ...]
    opened: Callable[[Path], Source]
    axes: str

    def __call__(self, first: int, last: int) -> Array:
        samples = []
        for file in self.files[first:last]:
            with reading(file):
                source = self.opened(file)
                values = source.data.compute(scheduler="synchronous")
            samples.append(values.transpose([source.axes.index(axis) for axis in self.axes]))
        return np.stack(samples)


@dataclass(frozen=True)
class _PictureSamples:
    """The kernel that reads the samples of an ensemble, each from a file of pictures.

    Parameters
    ----------
    files : tuple of path
        The file of each sample.
    reads : tuple of callable
        The kernel of each file.
    n_rows : int
        Number of rows of a file.
    """

    files: tuple[Path, ...]
    reads: tuple[Any, ...]
    n_rows: int

    def __call__(self, first: int, last: int) -> Array:
        samples = []
        for file, read in zip(self.files[first:last], self.reads[first:last], strict=True):
            with reading(file):
                samples.append(read(0, self.n_rows))
        return np.stack(samples)


def join_samples(opened: Callable[[Path], Source], files: Sequence[Path]) -> Source:
    """Join images of equal shape to an ensemble, of which each is one sample.

    Parameters
    ----------
    opened : callable
        ``opened(path)`` returns the `Source` of a file. If it has an axis of samples itself, its samples follow each
        other.
    files : sequence of path
        The files. Their names without the suffix are the labels of samples.

    Returns
    -------
    Source
        The ensemble, with the axis s first. Nothing is read.

    Raises
    ------
    ValueError
        If an image differs from most of the others in shape, dtype, axes, spacing or units. It is named.
    """
    sources = [opened(file) for file in files]
    heads = []
    for source in sources:
        sizes = {axis: n for axis, n in zip(source.axes, source.data.shape, strict=True) if axis != "s"}
        heads.append(
            (
                tuple(sorted(sizes.items())),
                str(source.data.dtype),
                tuple(sorted((axis, float(step)) for axis, step in source.spacing.items())),
                source.units,
                str(source.missing),
            )
        )
    usual, n = Counter(heads).most_common(1)[0]
    if n < len(heads):
        number = next(i for i, head in enumerate(heads) if head != usual)
        differing = [
            f"{name} {dict(got) if isinstance(got, tuple) else got} instead of "
            f"{dict(most) if isinstance(most, tuple) else most}"
            for name, got, most in zip(
                ("size", "dtype", "spacing", "units", "value of voxels without data"), heads[number], usual, strict=True
            )
            if got != most
        ]
        msg = (
            f"{files[number]} does not belong to the other samples: {', '.join(differing)}; samples of an ensemble are "
            "alike. Leave it out, or crop= to one size"
        )
        raise ValueError(msg)
    axes = sources[0].axes.replace("s", "")
    has_samples = any("s" in source.axes for source in sources)
    counts = [
        source.data.shape[source.axes.index("s")] if "s" in source.axes else 1 if has_samples else 0
        for source in sources
    ]
    first = sources[0]
    if not has_samples and first.data.nbytes <= MOST_BYTES:
        # Several small files are read by one task.
        shape = [first.data.shape[first.axes.index(axis)] for axis in axes]
        data = lazy_slabs(_Samples(tuple(files), opened, axes), (len(files), *shape), first.data.dtype)
    else:
        data = concatenate_samples([_with_samples(source, axes) for source in sources])
    told = list(dict.fromkeys(each for source in sources for each in source.assumed))
    return replace(first, data=data, axes="s" + axes, assumed=tuple(told[:6]), labels=_labels(files, counts))


def _labels(files: Sequence[Path], counts: Sequence[int]) -> tuple[str, ...]:
    """Make labels of samples from the names of files, with a number if a file holds several. 0 stands for one sample.

    Raises
    ------
    ValueError
        If two files have one name.
    """
    labels = []
    for file, n in zip(files, counts, strict=True):
        stem = file.name.removesuffix(file.suffix).removesuffix(".ome")
        labels += [f"{stem}/{i}" for i in range(n)] if n else [stem]
    twice, n = Counter(labels).most_common(1)[0]
    if n > 1:
        msg = f"{n} files are called {twice!r}, and the names of files are the labels of samples; rename them"
        raise ValueError(msg)
    return tuple(labels)


def picture_samples(files: Sequence[Path], choice: Choice) -> Source:
    """Join files of pictures to an ensemble, of which each is one sample.

    Parameters
    ----------
    files : sequence of path
        Files of TIFF, PNG, JPEG, BMP, GIF or WebP. Their names without the suffix are the labels of samples.
    choice : Choice
        What to read of each file.

    Returns
    -------
    Source
        The ensemble, with the axis s first. Only the headers of the files are read.

    Raises
    ------
    ValueError
        If a file differs from most of the others in size, dtype, format, spacing, or number of slices. It is named.
    """
    pictures = [picture_of(file, choice) for file in files]
    check_alike(pictures, "samples")
    first = pictures[0]
    data = lazy_slabs(
        _PictureSamples(tuple(files), tuple(picture.read for picture in pictures), first.shape[0]),
        (len(files), *first.shape),
        first.dtype,
    )
    told = list(dict.fromkeys(each for picture in pictures for each in picture.assumed))
    labels = _labels(files, [0] * len(files))
    return Source(data, "s" + first.axes, first.spacing, first.units, tuple(told[:6]), labels=labels)


def _with_samples(source: Source, axes: str) -> Any:
    """Put the axis of samples first, and the others in the order `axes`."""
    if "s" in source.axes:
        return source.data.transpose([source.axes.index(axis) for axis in "s" + axes])
    return source.data.transpose([source.axes.index(axis) for axis in axes])[None]
