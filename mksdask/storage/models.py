"""Fitted models on zarr: only the numbers and names that the tables of their classes list. Nothing is unpickled.

The description of a model is JSON in the attributes of the store, which are sealed by a sha256. The arrays are stored
beside it. They are not compressed, so that their sizes are known before they are read. Each chunk has a checksum.
"""

from __future__ import annotations

import json
import math
import reprlib
from itertools import product
from typing import Any, TypeVar

import numpy as np
import zarr
from zarr.codecs import BytesCodec

import mksdask
from mksdask.arrays import Array, shown
from mksdask.schema import Part, Place, Reader, Writer
from mksdask.storage.arrays import create_array
from mksdask.storage.atomic import Location, Url, seal
from mksdask.storage.errors import DamageError
from mksdask.storage.layouts import CHECKSUM_BYTES
from mksdask.storage.opening import open_group
from mksdask.storage.sources import provenance, sources_of
from mksdask.storage.staging import staged

CHUNK_BYTES = 2**24
T = TypeVar("T")


def save_model(model: Any, url: Url) -> None:
    """Write a fitted model to a zarr store, completely or not at all.

    Parameters
    ----------
    model : MKSStructureAnalysis, MKSHomogenizationModel or MKSLocalizationModel
        A fitted model, with reducers and linkers of this package, or pipelines of them with `StandardScaler`,
        `PolynomialFeatures` and `LogisticRegression` of scikit-learn.
    url : str or path
        A path, or any URL that fsspec knows. An earlier model there is replaced.

    Raises
    ------
    FileExistsError
        If something is there that is not a model.
    TypeError
        If the model or a part of it is of a class that does not declare what it saves, such as a linker of your own.
        Use `pickle` to keep such a model for yourself.
    sklearn.exceptions.NotFittedError
        If the model is not fitted.

    Notes
    -----
    A loaded model predicts the same numbers as the saved one, to the last bit. What belongs to single calls is not
    saved: the statistics of the last `fit`, the scores of the last `predict`, `scratch`, and the state from which
    `partial_fit` of a localization model continues.

    Examples
    --------
    >>> import tempfile
    >>> from mksdask import MKSHomogenizationModel, PrimitiveBasis, load_model
    >>> from mksdask.datasets.responses import make_elastic_stiffness
    >>> X, y = make_elastic_stiffness(n_samples=(20, 20), grain_size=((3, 3), (9, 9)))
    >>> model = MKSHomogenizationModel(PrimitiveBasis(2), n_components=3, periodic_axes=[0, 1]).fit(X, y)
    >>> url = tempfile.mkdtemp() + "/model.zarr"
    >>> save_model(model, url)
    >>> bool((load_model(url).predict(X) == model.predict(X)).all())
    True
    """
    known = _models()
    if type(model) not in known:
        names = ", ".join(cls.__name__ for cls in known)
        msg = f"model must be one of {names}, got {shown(model)}; pickle keeps others"
        raise TypeError(msg)
    write_state(model, url)


def load_model(url: Url) -> Any:
    """Read a model that `save_model` wrote.

    Parameters
    ----------
    url : str or path
        The store of the model.

    Returns
    -------
    MKSStructureAnalysis, MKSHomogenizationModel or MKSLocalizationModel
        The fitted model.

    Raises
    ------
    ValueError
        If there is no saved model, if it has another format, or if the store is damaged.

    Notes
    -----
    It is safe to load a store that somebody else made. No code in it runs, no path in it is followed, and the memory
    that it takes is bounded by the size of the store.
    """
    return read_state(url, *_models())


def _models() -> tuple[type, ...]:
    # The package imports them here, because this module stands below them.
    return mksdask.MKSStructureAnalysis, mksdask.MKSHomogenizationModel, mksdask.MKSLocalizationModel


def write_state(value: Any, url: Url, kind: str = "model", **attributes: Any) -> None:
    """Write an object whose class declares what it saves, and replace an earlier object of the same kind.

    `attributes` are those of the store, of types that JSON has.

    Raises
    ------
    FileExistsError
        If something else is at `url`.
    TypeError, sklearn.exceptions.NotFittedError
        If a part of the object cannot be saved.
    """
    writer, cls = Writer(), type(value)
    encoded = Part(cls, fitted=True).write(value, Place(cls.__name__, writer))
    description = _canonical(encoded)
    # The description is read once before it is written, so that nothing is saved that could not be loaded.
    n_bytes = len(description) + sum(_stored_bytes(array.shape, array.dtype) for array in writer.arrays)
    reader = Reader(
        "the model cannot be saved as it is",
        "Fit it anew, or use pickle to keep it for yourself",
        n_bytes,
        lambda number, shape, dtype: writer.arrays[number],
    )
    Part(cls, fitted=True).read(json.loads(description), Place(cls.__name__, reader))
    with staged(url, "w", (kind,)) as location:
        members = [str(number) for number in range(len(writer.arrays))]
        # What a call that is killed leaves is known as a part of a store of this package.
        seal(location, {"mksdask": f"partial {kind}", "members": members})
        group = zarr.open_group(location.opened(), mode="a")
        for number, array in enumerate(writer.arrays):
            stored = create_array(
                group,
                str(number),
                shape=array.shape,
                dtype=array.dtype.newbyteorder("="),
                objects=_chunks(array.shape, array.dtype),
                is_compressed=False,
            )
            stored[...] = array
        made = attributes | {"model": encoded, "provenance": provenance(sources_of())}
        seal(location, made | {"mksdask": kind, "members": members}, members=True)


def read_state(url: Url, *classes: type[T], kind: str = "model") -> T:
    """Read an object of one of some classes that `write_state` wrote.

    Raises
    ------
    ValueError
        If there is no such object, if a link leads out of the store, or if the store is damaged.
    """
    what = "model" if len(classes) > 1 else classes[0].__name__
    complaint, remedy = f"{url} is damaged, or was changed", "Save the model again"
    location = Location.of(url)
    try:
        group = open_group(location)
        attrs: dict[str, Any] = dict(group.attrs)
        sizes = {
            key.removeprefix(f"{location.path}/"): int(found["size"])
            for key, found in location.fs.find(location.path, detail=True).items()
        }
        description = _canonical(attrs.get("model"))
    except DamageError:
        raise
    except Exception as error:
        if not _is_of_store(error):
            raise
        if location.exists():
            why = f", or one that is damaged ({type(error).__name__}: {error}); save it again"
        else:
            why = ": there is nothing at this place; look at its name"
        msg = f"{url} holds no saved {what}{why}"
        raise ValueError(msg) from error
    for key in sizes:
        location.check_link(key)
    if attrs.get("mksdask") != kind:
        other = ", but something else of this package" if "mksdask" in attrs else ""
        msg = f"{url} holds no saved {what}{other}; make one with save_model, or mksdask fit"
        raise ValueError(msg)
    encoded = attrs["model"]
    found = encoded.get("class") if isinstance(encoded, dict) else encoded
    if found not in [cls.__name__ for cls in classes]:
        msg = f"{url} holds no saved {what}, but {reprlib.repr(found)}; choose another url"
        raise ValueError(msg)
    n_bytes = len(description) + sum(size for key, size in sizes.items() if not key.endswith("zarr.json"))

    def take(number: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return _read_array(group, sizes, number, shape, dtype)

    return Part(*classes, fitted=True).read(encoded, Place(str(found), Reader(complaint, remedy, n_bytes, take)))


def _is_of_store(error: Exception) -> bool:
    """Whether an error comes from a damaged store. zarr raises errors of many kinds if metadata are wrong."""
    is_there = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
    return is_there or not isinstance(error, MemoryError | OSError)


def _canonical(encoded: Any) -> bytes:
    """Write JSON in the one spelling of which the sha256 is taken."""
    return json.dumps(encoded, sort_keys=True, separators=(",", ":")).encode()


def _chunks(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Choose chunks of whole rows, of about `CHUNK_BYTES`."""
    rest = tuple(max(1, n) for n in shape[1:])
    rows = max(1, CHUNK_BYTES // (math.prod(rest) * dtype.itemsize))
    return (max(1, min(shape[0], rows)), *rest)


def _stored_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def _read_array(
    group: zarr.Group, sizes: dict[str, int], number: int, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Array:
    """Read an array of a store. `sizes` holds the bytes of each object of the store.

    Raises
    ------
    ValueError
        If the array is not stored in the way in which `write_state` wrote it. Then no memory is allocated for it.
    """
    chunks = _chunks(shape, dtype)
    size = math.prod(chunks) * dtype.itemsize + CHECKSUM_BYTES
    counts = [-(-n // step) for n, step in zip(shape, chunks, strict=True)]
    if math.prod(counts) > len(sizes):
        msg = f"array {number} of shape {shape} needs {math.prod(counts)} chunks, more than the store has"
        raise ValueError(msg)
    for block in product(*map(range, counts)) if 0 not in counts else ():
        key = f"{number}/c/{'/'.join(map(str, block))}"
        if sizes.get(key) != size:
            got = "missing" if key not in sizes else f"of {sizes[key]} bytes"
            msg = f"chunk {key} is {got}, expected {size} bytes"
            raise ValueError(msg)
    # The checksums have been taken off by the store through which the group is read.
    try:
        stored: Any = group[str(number)]
        found = stored.shape, stored.chunks, stored.dtype, stored.compressors, stored.filters, stored.shards
        is_plain = isinstance(stored.serializer, BytesCodec)
        values = np.asarray(stored[...]) if is_plain and found == (shape, chunks, dtype, (), (), None) else None
    except Exception as error:
        if not _is_of_store(error):
            raise
        msg = f"array {number} cannot be read ({type(error).__name__}: {error})"
        raise ValueError(msg) from error
    if values is None:
        msg = (
            f"array {number} is stored in another way than save_model stores it: shape, chunks, dtype and codecs are "
            f"{found}"
        )
        raise ValueError(msg)
    # A dtype that was read from a store may be written in another way, and the names of computations hold it as text.
    return values.view(np.dtype(values.dtype.str)) if values.size else values.astype(np.dtype(values.dtype.str))
