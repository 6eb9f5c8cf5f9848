"""Links in stores: what lies outside of a store is read only by request.

A store of another person may link to any file that its reader may read, such as a private one. Links to places in the
same store are followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def link_out(root: str | os.PathLike[str], key: str) -> str | None:
    """Find out where a link in a store leads.

    Parameters
    ----------
    root : str or path
        The store, which may be a link itself.
    key : str
        Name of a file or a folder in it, with slashes.

    Returns
    -------
    str or None
        The place that the name stands for, if it is there and outside of the store.
    """
    path = os.fspath(root)
    for part in key.split("/"):
        path = f"{path}/{part}"
        if part == ".." or os.path.islink(path):  # noqa: PTH114
            home, place = os.path.realpath(root), os.path.realpath(f"{root}/{key}")
            is_inside = f"{place}/".startswith(f"{home}/")
            return None if is_inside or not os.path.exists(place) else place  # noqa: PTH110
    return None


def refuse_link(root: str | os.PathLike[str], key: str) -> None:
    """Refuse a name in a store that leads out of the store.

    Raises
    ------
    ValueError
        If it does. The message names the link, where it leads, and the option that follows it.
    """
    if (place := link_out(root, key)) is not None:
        msg = (
            f"{os.fspath(root)} holds {key}, which leads by a link to {place}, outside of the store, and such links "
            "are followed only by request; if you trust its author, pass follow_links=True, or --follow-links to the "
            "command. Otherwise get a copy in which no link leads out of it"
        )
        raise ValueError(msg)


def files_in(root: str | os.PathLike[str], *, follow_links: bool) -> Iterator[str]:
    """Yield the names of all files below a folder, with slashes, and of links to folders if these are not followed."""
    seen = set()
    for folder, inner, names in os.walk(root, followlinks=follow_links):
        place, links = Path(folder), [name for name in inner if Path(folder, name).is_symlink()]
        if follow_links:
            # Links may form a circle.
            seen.add(os.path.realpath(folder))
            inner[:] = [name for name in inner if name not in links or os.path.realpath(place / name) not in seen]
        for name in (*names, *([] if follow_links else links)):
            yield (place / name).relative_to(root).as_posix()
