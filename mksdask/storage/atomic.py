"""Where stores are, their metadata and their marks: only stores of this package are ever replaced or removed.

The attribute ``mksdask`` is the mark of a store: it says what the store is. The attribute ``members`` lists its arrays.
The attribute ``metadata_sha256`` is the seal: it covers all other metadata of the group and of its arrays.
A user may have named a store, or its name may be the same in each call. Such a store is replaced or removed only if it
has the right mark, and if it holds nothing that the package did not write.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
from zarr.storage import FsspecStore, LocalStore

from mksdask.storage.links import files_in, link_out, refuse_link
from mksdask.storage.locks import locked

Url: TypeAlias = str | os.PathLike[str]
# Marks of complete stores. While a store is being written or removed, its mark begins with "partial ".
Kinds: TypeAlias = tuple[str, ...]
MICROSTRUCTURES: Kinds = ("ensemble", "volume")
RESULTS: Kinds = ("result",)
SCRATCH: Kinds = ("scratch",)
EXPORTS: Kinds = ("OME-Zarr image",)

# The format of all stores. It changes when stores that were written before cannot be read any more.
FORMAT = 3
SEAL = "metadata_sha256"
# How many files of a store of others are sampled for its stamp, and how many bytes at each of their ends.
SAMPLES, SAMPLE_BYTES = 32, 4096

# A task that is killed while it writes an object leaves a file with such a name.
LEFTOVER = r"\.[0-9a-f]+\.partial"
# A URL that was made into a path has lost a slash. One letter is a drive of Windows.
_CUT_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_METADATA = re.compile(rf"zarr\.json|zarr{LEFTOVER}")
_CHUNK = re.compile(rf"c((?:/[0-9]+)*)({LEFTOVER})?")
# A folder of a store on an object store that holds another generation of it, and all names that may lie there.
GENERATION = re.compile(r"g-[0-9a-f]{8}")
_OF_GENERATION = re.compile(rf"{GENERATION.pattern}(/zarr\.json|/[^/]+(/zarr\.json|/c(/[0-9]+)*)?)?")


@dataclass(frozen=True)
class Location:
    """A path or an fsspec URL. For a link, it is the path to which the link leads."""

    fs: Any
    path: str
    is_local: bool
    inside: str = ""  # what holds the path, such as the URL of a zip file
    root: str = ""  # the place of the store, if the path is that of a generation in it
    follow_links: bool = False  # whether links in the store may lead out of it

    @classmethod
    def of(cls, url: Url) -> Location:
        """Parse a path or a URL, and follow links.

        Raises
        ------
        FileNotFoundError
            If the path is a link into a folder that does not exist, so that nothing can be written through it.
        ValueError
            If it looks like a URL, but is none; or if it needs a package that is not installed.
        """
        text = os.fspath(url)
        if "\0" in text:
            msg = f"{text!r} is no path and no URL, because it holds a NUL character"
            raise ValueError(msg)
        if "://" not in text:
            if _CUT_URL.match(text) or "::" in text:
                msg = f"{text} looks like a URL, but has no '://'; give a path, or a URL as a text such as 's3://…'"
                raise ValueError(msg)
            # A path means what it says, and only in a text does ~ mean the home folder.
            text = os.path.abspath(os.path.expanduser(url) if isinstance(url, str) else text)  # noqa: PTH100, PTH111
            fs, path = fsspec.filesystem("file"), Path(text).as_posix()
        else:
            try:
                fs, path = fsspec.core.url_to_fs(text)
            except ImportError as error:
                protocol, told = text.partition("://")[0], " ".join(str(error).split())
                msg = f"{text} needs a package for {protocol}:// that is not installed: {told}; or give a path"
                raise ValueError(msg) from error
        protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
        path = path.rstrip("/") or path
        if "file" in protocols and os.path.islink(path):  # noqa: PTH114
            link, path = path, os.path.realpath(path)
            if not Path(path).parent.is_dir() or os.path.islink(path):  # noqa: PTH114
                msg = f"{link} is a link to {path}, and there is no such folder; make the folder, or remove the link"
                raise FileNotFoundError(msg)
        found = cls(fs, path, "file" in protocols, "::" * ("::" in text) + text.partition("::")[2])
        if found.is_local:
            return found
        generation = attributes_of(found).get("generation")
        return found.generation(generation) if isinstance(generation, str) and is_generation(generation) else found

    @property
    def store(self) -> Any:
        """The path or URL, as messages tell it and `Location.of` reads it."""
        return self.path if self.is_local else self.fs.unstrip_protocol(self.path) + self.inside

    def opened(self, *, read_only: bool = False) -> LocalStore | FsspecStore:
        """Open what is here for zarr, which would cut a path that it got as a text at a # or ?."""
        if self.is_local:
            return LocalStore(self.path, read_only=read_only)
        return FsspecStore.from_url(str(self.store), read_only=read_only)

    @property
    def place(self) -> Location:
        """The place that the user named, which may hold several generations."""
        return self.at(self.root or self.path)

    def generation(self, name: str) -> Location:
        """Choose a folder of the store at this place."""
        return replace(self, path=f"{self.path}/{name}", root=self.path)

    def sibling(self, tag: str) -> Location:
        """Choose a new name beside this one."""
        return self.at(f"{self.path}.{tag}-{uuid.uuid4().hex[:8]}")

    def at(self, path: str) -> Location:
        """Choose another path of the same file system."""
        return Location(self.fs, path, self.is_local, self.inside)

    def locked(self) -> AbstractContextManager[Callable[[], None]]:
        """Keep other calls from changing the store here in place; see `mksdask.storage.locks.locked`."""
        return locked(self.fs, self.place.path, is_local=self.is_local)

    def leads_out(self, key: str) -> bool:
        """Whether a name in the store leads out of it by a link, and such links are not followed."""
        return self.is_local and not self.follow_links and link_out(self.path, key) is not None

    def check_link(self, key: str) -> None:
        """Refuse a name in the store that leads out of it by a link, unless such links are followed."""
        if self.is_local and not self.follow_links:
            refuse_link(self.path, key)

    def exists(self) -> bool:
        """Whether there is anything at this location."""
        return bool(self.fs.exists(self.path))

    def stamp(self) -> str:
        """Read the stamp of a store of this package. For others, make one of sizes, times and samples of all files."""
        return str(attributes_of(self).get("stamp") or self.modified())

    def modified(self) -> str:
        """Make a stamp of the names, sizes and times of all files here, and of samples of some of them."""
        self.fs.invalidate_cache()
        is_file = self.fs.isfile(self.path)
        found = {self.path: self.fs.info(self.path)} if is_file else self.fs.find(self.path, detail=True)
        times = ("mtime", "ETag", "LastModified", "created")
        digest = hashlib.sha256()
        for name, info in sorted(found.items()):
            known = [name.removeprefix(self.path), info["size"], *(str(info.get(time)) for time in times)]
            digest.update(json.dumps(known).encode())
        sampled = [*sorted(found)][:: max(1, len(found) // SAMPLES)]
        # A link may lead to a folder, or to nothing.
        sampled = [name for name in sampled if not found[name].get("islink") or self.fs.isfile(name)]
        for starts, ends in ((0, SAMPLE_BYTES), (-SAMPLE_BYTES, None)):
            for content in self.fs.cat_ranges(sampled, [starts] * len(sampled), [ends] * len(sampled)):
                digest.update(content)
        return digest.hexdigest()[:32]

    def newest(self) -> int:
        """Find when a file here was changed last, in nanoseconds. Return 0 if the file system does not tell."""
        if not self.is_local:
            return 0
        newest = 0
        for name in files_in(self.path, follow_links=self.follow_links):
            # A link may lead to nothing.
            with suppress(OSError):
                newest = max(newest, Path(self.path, name).stat().st_mtime_ns)
        return newest

    def remove(self) -> None:
        """Remove what is there, if anything. Use it only for what the same call has made under a new name."""
        if self.fs.exists(self.path):
            if not self.is_local:
                # What is left is marked as ours until the end.
                remove_keys(self, [key for key in keys_of(self) if key != "zarr.json"])
            self.fs.rm(self.path, recursive=True)

    def write(self, key: str, content: bytes) -> None:
        """Write an object in one step."""
        path = f"{self.path}/{key}"
        if not self.is_local:
            self.fs.pipe_file(path, content)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        new = Path(path).with_suffix(f".{uuid.uuid4().hex}.partial")
        try:
            new.write_bytes(content)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)


def keys_of(location: Location) -> list[str]:
    """List the names of all objects below a location."""
    location.fs.invalidate_cache()
    return [name.removeprefix(location.path).strip("/") for name in location.fs.find(location.path)]


def remove_keys(location: Location, keys: list[str]) -> None:
    """Remove objects: chunks first, and then metadata, because these show what the chunks are."""
    for is_metadata in (False, True):
        if found := [f"{location.path}/{key}" for key in keys if key.endswith("zarr.json") == is_metadata]:
            location.fs.rm(found)


def metadata_of(location: Location, name: str = "", key: str = "zarr.json") -> dict[str, Any] | None:
    """Read the zarr.json of a group, an array or a member. Return None if there is none, and {} if it is not JSON."""
    path = "/".join(part for part in (location.path, name, key) if part)
    try:
        found = json.loads(location.fs.cat_file(path))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, KeyError):
        # The names of a zip file are keys.
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def attributes_of(location: Location) -> dict[str, Any]:
    """Read the attributes of the group or array at a location. Return {} if there is none."""
    found = (metadata_of(location) or {}).get("attributes")
    return found if isinstance(found, dict) else {}


def seal(location: Location, attributes: Mapping[str, Any], *, members: bool = False, fresh: bool = False) -> None:
    """Write the attributes of a group in one step, together with a sha256 of all its metadata.

    Parameters
    ----------
    location : Location
        The store.
    attributes : mapping
        The attributes. ``members`` lists the arrays. A new ``stamp`` is added if there is none: it distinguishes the
        store from an earlier one at the same place. ``writes`` counts how often the metadata were sealed.
    members : bool, default False
        Whether to read the metadata of the arrays. Default: the group keeps what it has of them.
    fresh : bool, default False
        Whether to write the metadata of a new group, which keeps nothing of what is there.
    """
    metadata: dict[str, Any] = {"zarr_format": 3, "node_type": "group"}
    metadata |= {} if fresh else metadata_of(location) or {}
    if members:
        arrays = {name: found for name in attributes["members"] if (found := metadata_of(location, name))}
        metadata["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": arrays}
    metadata["attributes"] = {"stamp": uuid.uuid4().hex} | dict(attributes) | {"format": FORMAT}
    metadata["attributes"]["writes"] = int(attributes.get("writes", 0)) + 1
    # A round trip through JSON makes the metadata equal to those that are read.
    metadata["attributes"][SEAL] = sha256_of(json.loads(json.dumps(metadata)))
    location.write("zarr.json", json.dumps(metadata, indent=2).encode())


def sha256_of(metadata: Mapping[str, Any]) -> str:
    """Compute the sha256 of the metadata of a group and its arrays, without the seal."""
    attributes = {name: value for name, value in metadata["attributes"].items() if name != SEAL}
    text = json.dumps(dict(metadata) | {"attributes": attributes}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def is_sealed(metadata: Mapping[str, Any]) -> bool:
    """Whether metadata are those of a store of this package. One changed byte does not make them those of another."""
    attributes = metadata.get("attributes")
    return isinstance(attributes, dict) and (SEAL in attributes or {"mksdask", "format"} <= attributes.keys())


def is_generation(name: str) -> bool:
    """Whether the name of a folder in a store on an object store is that of a generation."""
    return GENERATION.fullmatch(name) is not None


def check_ours(location: Location, kinds: Kinds) -> None:
    """Refuse to replace or remove anything that is not a store of one of `kinds`. An empty place passes.

    Raises
    ------
    FileExistsError
        If something else is there. The message names the path and says what was found.
    """
    if location.exists() and (found := holds_instead(location, kinds)):
        msg = f"{location.path} {found}, so it will not be replaced or removed; move it away, or choose another place"
        raise FileExistsError(msg)


def holds_instead(location: Location, kinds: Kinds) -> str | None:
    """Say what is at a location instead of a store of one of `kinds`, or what a store holds that is not part of it.

    Return None if it is such a store, and holds nothing else.
    """
    if not location.fs.isdir(location.path):
        return "exists and is not a store of this package but a file"
    metadata, contents = metadata_of(location), contents_of(location)
    if location.root:
        # The place of the generations may hold what is left of a store before them.
        found = holds_instead(location.place, kinds)
        if found:
            return found
    elif not location.is_local:
        contents = [(name, is_folder) for name, is_folder in contents if not _OF_GENERATION.fullmatch(name)]
    if metadata is None:
        names = [name for name, is_folder in contents if not is_folder]
        listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        what = f"a folder that holds {listed}" if names else "an empty folder"
        return f"exists and is not a store of this package but {what}"
    mark = attributes_of(location).get("mksdask")
    if metadata.get("zarr_format") != 3 or not isinstance(mark, str):
        return "exists and is not a store of this package: its zarr.json does not have the mark"
    if not is_marked(location, kinds):
        return f"is marked as {mark!r}, which is not {' or '.join(map(repr, kinds)) or 'expected here'}"
    if metadata.get("node_type") == "array":
        ranks = {"": len(metadata["shape"])}
    else:
        # The mark and the list may have been copied to the store of a user, who gave other names to its arrays.
        members = attributes_of(location).get("members")
        known = map(str, members) if isinstance(members, list) else ()
        arrays = {name: metadata_of(location, name) or {} for name in known}
        ranks = {name: len(found["shape"]) for name, found in arrays.items() if found.get("node_type") == "array"}
    strange = [name for name, is_folder in contents if not _is_of_arrays(name, is_folder, ranks)]
    return f"holds {strange[0]}, which this package did not write" if strange else None


def is_marked(location: Location, kinds: Kinds) -> bool:
    """Whether a store, or a part of a store, has the mark of one of `kinds`."""
    return str(attributes_of(location).get("mksdask")).removeprefix("partial ") in kinds


def contents_of(location: Location) -> list[tuple[str, bool]]:
    """List the names of everything below a location, and whether each is a folder. Links do not count as folders."""
    location.fs.invalidate_cache()
    found = location.fs.find(location.path, withdirs=True, detail=True)
    names = {name.removeprefix(location.path).strip("/"): info["type"] == "directory" for name, info in found.items()}
    return sorted((name, is_folder) for name, is_folder in names.items() if name)


def remove_leftovers(location: Location) -> None:
    """Remove the unfinished objects of tasks that were killed."""
    for name in location.fs.find(location.path):
        if re.search(rf"/(zarr|c|[0-9]+){LEFTOVER}$", name):
            location.fs.rm(name)


def holds_only(location: Location, ranks: Mapping[str, int]) -> bool:
    """Whether a store holds only metadata and chunks of arrays whose names and numbers of axes are given."""
    return all(_is_of_arrays(name, is_folder, ranks) for name, is_folder in contents_of(location))


def _is_of_arrays(name: str, is_folder: bool, ranks: Mapping[str, int]) -> bool:  # noqa: FBT001
    """Whether a name belongs to metadata or to a chunk of arrays whose numbers of axes are given."""
    if not is_folder and _METADATA.fullmatch(name):
        return True
    array, _, key = ("", "", name) if "" in ranks else name.partition("/")
    if array not in ranks:
        return False
    if not key or _METADATA.fullmatch(key):
        return is_folder == (not key)
    chunk = _CHUNK.fullmatch(key)
    if chunk is None:
        return False
    # The files of chunks lie as many levels deep as the array has axes.
    depth, is_leftover = chunk[1].count("/"), chunk[2] is not None
    if is_folder:
        return depth < ranks[array] and not is_leftover
    return depth == ranks[array] or is_leftover


def remove_store(url: Url | Location, kinds: Kinds) -> None:
    """Remove a store of one of `kinds`, if there is one.

    Raises
    ------
    FileExistsError
        If something else is there, or if the store holds something that the package did not write.
    """
    location = url if isinstance(url, Location) else Location.of(url)
    if not location.exists():
        return
    check_ours(location, kinds)
    mark, place = attributes_of(location)["mksdask"], location.place
    # The mark is changed first, and the metadata are removed last. If the removal is killed, what remains is still
    # marked as a part of a store.
    if not mark.startswith("partial ") and (metadata_of(location) or {}).get("node_type") == "group":
        seal(location, attributes_of(location) | {"mksdask": f"partial {mark}"})
    if location.root:
        members = attributes_of(place).get("members", [])
        seal(place, {"mksdask": f"partial {mark.removeprefix('partial ')}", "members": members}, fresh=True)
    if not location.is_local:
        remove_keys(place, [key for key in keys_of(place) if key != "zarr.json"])
    else:
        chunks = [name for name in location.fs.find(location.path) if not name.endswith("/zarr.json")]
        if chunks:
            location.fs.rm(chunks)
    place.remove()


def check_apart(output: Url, *inputs: Url) -> None:
    """Refuse an output that is an input, lies in an input, or holds an input.

    Raises
    ------
    ValueError
        If it does. The message names both.
    """
    place = Location.of(output).place
    for url in inputs:
        other = Location.of(url).place
        if _lies_in(place, other) or _lies_in(other, place):
            where = "is" if _lies_in(place, other) and _lies_in(other, place) else "lies in or around"
            msg = f"the output {os.fspath(output)} {where} the input {os.fspath(url)}; choose another output"
            raise ValueError(msg)


def _lies_in(inner: Location, outer: Location) -> bool:
    if inner.is_local and outer.is_local:
        path, folder = (Path(os.path.realpath(place.path)) for place in (inner, outer))
        parts = (path, *path.parents)
        return folder in parts or (folder.exists() and any(part.exists() and part.samefile(folder) for part in parts))
    return inner.fs == outer.fs and f"{inner.path}/".startswith(f"{outer.path}/")


def check_outside(location: Location) -> None:
    """Refuse to write inside a store of this package.

    Raises
    ------
    ValueError
        If the location lies inside a store. The message names the store.
    """
    # A folder on the way may be a link into a store.
    path = os.path.realpath(location.path) if location.is_local else location.place.path
    while "/" in path.strip("/"):
        path = path.rpartition("/")[0]
        try:
            found = attributes_of(location.at(path)).get("mksdask")
        except OSError:
            # The user may lack the permission to read a folder above.
            return
        if found is not None:
            msg = f"{location.path} lies inside the store {path}; choose a place outside of it"
            raise ValueError(msg)
