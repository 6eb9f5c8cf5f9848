"""Reads all chunks of a store, and reports what is damaged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mksdask.compute.blocks import computed, map_parts
from mksdask.schema.arguments import checked
from mksdask.storage.atomic import Location, Url, is_sealed
from mksdask.storage.checksums import fault
from mksdask.storage.errors import DamageError
from mksdask.storage.layouts import MISSING, Layout
from mksdask.storage.opening import checked_metadata, members_of

# A task checks at most so many objects, and fewer if that makes less than so many tasks.
OBJECTS_OF_TASK, LEAST_TASKS = 64, 32
LINKED = "is a link that leads out of the store"


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Parameters
    ----------
    store : str
        Path or URL of the store.
    n_chunks : int
        The number of chunks whose checksums are right.
    damage : tuple of DamageError
        What is damaged. Each has the attributes ``array``, ``chunk`` and ``kind``.
    n_unchecked : int
        The number of chunks without a checksum. Nobody can tell whether these are right.
    """

    store: str
    n_chunks: int
    damage: tuple[DamageError, ...]
    n_unchecked: int

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damage


def _checked(
    blocks: Sequence[tuple[int, ...]], location: Location, name: str, layout: Layout
) -> tuple[int, int, list[DamageError]]:
    """Read objects, and count the chunks that are right, those without a checksum, and list the damage."""
    n_right, n_unchecked, damage = 0, 0, []
    for block in blocks:
        key = layout.key(block)
        n_chunks = math.prod(along.stop for along in layout.held(block))
        path = "/".join(part for part in (name, key) if part)
        faults: list[tuple[tuple[int, ...] | None, str]]
        try:
            if location.leads_out(path):
                faults = [(None, LINKED)]
            else:
                content = location.fs.cat_file(f"{location.path}/{path}")
                faults = list(layout.faults(np.frombuffer(content, dtype=np.uint8), block))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            faults = [(None, MISSING)]
        damage += [fault(str(location.store), name, key, part, kind) for part, kind in faults]
        n_good = 0 if any(part is None for part, _ in faults) else n_chunks - len(faults)
        if layout.is_checked:
            n_right += n_good
        else:
            n_unchecked += n_good
    return n_right, n_unchecked, damage


def _batches(layout: Layout) -> Iterator[list[tuple[int, ...]]]:
    blocks = iter(np.ndindex(*layout.counts))
    size = max(1, min(OBJECTS_OF_TASK, math.prod(layout.counts) // LEAST_TASKS))
    while batch := list(itertools.islice(blocks, size)):
        yield batch


@checked
def verify(url: Url, *, follow_links: bool = False) -> Verification:
    """Read all chunks of a store, and report which are missing or damaged.

    Parameters
    ----------
    url : str or path
        A store of this package: an ensemble, a volume, a result, a model, or scratch. A store of zarr that another
        program wrote is checked as far as it has checksums.
    follow_links : bool, default False
        Whether chunks to which links lead out of the store are read. By default they count as damaged.

    Returns
    -------
    Verification
        What is damaged, and how many chunks are right. It also counts the chunks without a checksum.

    Raises
    ------
    FileNotFoundError
        If there is no store.
    ValueError
        If the store will not be opened, because it has a codec or a data type that the package does not write, because
        an array or its metadata is a link out of the store, or because another version of the package wrote it.

    Notes
    -----
    Objects of the store are read and compared with their checksums, but not decompressed. They are read one after the
    other in each task, so a task needs the memory of one object.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from mksdask import create_ensemble
    >>> url = tempfile.mkdtemp() + "/ensemble.zarr"
    >>> create_ensemble(url, np.zeros((4, 8, 8), dtype="uint8"), chunks=2)
    >>> verify(url).is_sound
    True
    """
    location = replace(Location.of(url), follow_links=follow_links)
    metadata, damage = checked_metadata(location)
    if is_sealed(metadata):
        # If these metadata are damaged, nobody knows how the chunks are laid out.
        arrays = {} if any(not each.array for each in damage) else metadata["consolidated_metadata"]["metadata"]
    else:
        arrays = {name: found for name, found in members_of(location) if found.get("node_type") == "array"}
    results: list[Any] = []
    for name, found in sorted(arrays.items()):
        layout = Layout.of(found)
        parts = [(batch,) for batch in _batches(layout)]
        results += map_parts(_checked, parts, name="verify", shared=(location, name, layout))
    n_right = n_unchecked = 0
    for right, unchecked, found in computed(results):
        n_right, n_unchecked, damage = n_right + right, n_unchecked + unchecked, damage + found
    return Verification(str(location.store), n_right, tuple(damage), n_unchecked)
