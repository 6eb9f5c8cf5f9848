"""Kinds of values that can be saved, such as numbers, texts, lists and arrays."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from mksdask.arrays import is_text, names
from mksdask.schema.places import Place

NUMBERS = "b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16"


class Kind(ABC):
    """What a saved value may be.

    `str(kind)` describes it for error messages.
    """

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def _takes(self, value: Any) -> bool:
        """Whether a value of a model is of this kind. The values inside it are not checked."""

    @abstractmethod
    def _accepts(self, encoded: Any) -> bool:
        """Whether JSON is of this kind. The values inside it are not checked."""

    def _encode(self, value: Any, place: Place) -> Any:
        """Turn a value that `_takes` allows into JSON."""
        return value

    def _decode(self, encoded: Any, place: Place) -> Any:
        """Make the value from JSON that `_accepts` allows."""
        return encoded

    def write(self, value: Any, place: Place) -> Any:
        """Check a value, and turn it into JSON.

        Raises
        ------
        TypeError
            If the value is of another kind.
        """
        plain = value.item() if isinstance(value, np.generic) else value
        if not self._takes(plain):
            raise place.refusal(value, str(self))
        return self._encode(plain, place)

    def read(self, encoded: Any, place: Place) -> Any:
        """Check JSON, and make the value from it.

        Raises
        ------
        ValueError
            If the JSON is of another kind.
        """
        if not self._accepts(encoded):
            raise place.refusal(encoded, str(self))
        return self._decode(encoded, place)

    def __or__(self, other: Kind) -> Kind:
        return Either(self, other)


class Either(Kind):
    """One of several kinds. The first that takes a value, or accepts JSON, is used."""

    def __init__(self, *kinds: Kind) -> None:
        self._kinds = kinds

    def __str__(self) -> str:
        return " or ".join(map(str, self._kinds))

    def _takes(self, value: Any) -> bool:
        return any(kind._takes(value) for kind in self._kinds)

    def _accepts(self, encoded: Any) -> bool:
        return any(kind._accepts(encoded) for kind in self._kinds)

    def _encode(self, value: Any, place: Place) -> Any:
        return next(kind for kind in self._kinds if kind._takes(value))._encode(value, place)

    def _decode(self, encoded: Any, place: Place) -> Any:
        return next(kind for kind in self._kinds if kind._accepts(encoded))._decode(encoded, place)


class Plain(Kind):
    """A value of a type that JSON has."""

    def __init__(self, text: str, *types: type) -> None:
        self._text, self._types = text, types

    def __str__(self) -> str:
        return self._text

    def _takes(self, value: Any) -> bool:
        # In Python, True is an integer. Here it is not.
        return isinstance(value, self._types) and (bool in self._types or not isinstance(value, bool))

    def _accepts(self, encoded: Any) -> bool:
        return self._takes(encoded)


FLAG = Plain("True or False", bool)
TEXT = Plain("text", str)
NOTHING = Plain("None", type(None))


class Choice(Plain):
    """One of some words."""

    def __init__(self, *options: str) -> None:
        super().__init__(" or ".join(map(repr, options)), str)
        self._options = options

    def _takes(self, value: Any) -> bool:
        return super()._takes(value) and value in self._options


def _range_text(low: float, high: float, most: float) -> str:
    return f" from {low:g}" * (low > -most) + f" to {high:g}" * (high < most)


class Number(Plain):
    """A finite number: an integer or a float."""

    def __init__(self, low: float = -sys.float_info.max, high: float = sys.float_info.max) -> None:
        super().__init__(f"a finite number{_range_text(low, high, sys.float_info.max)}", int, float)
        self._low, self._high = low, high

    def _takes(self, value: Any) -> bool:
        return super()._takes(value) and self._low <= value <= self._high

    def _decode(self, encoded: Any, place: Place) -> Any:
        # NumPy would make arrays of objects from larger integers.
        return float(encoded) if abs(encoded) > 2**53 else encoded


POSITIVE = Number(sys.float_info.min)


class Whole(Plain):
    """A whole number.

    If it is `sized`, it is the size of something in memory. It may not exceed the number of bytes in the file by much.
    """

    def __init__(self, low: int = -(2**63), high: int = 2**63 - 1, *, sized: bool = False) -> None:
        super().__init__(f"a whole number{_range_text(low, high, 2**63 - 1)}", int)
        self._low, self._high, self._sized = low, high, sized

    def _takes(self, value: Any) -> bool:
        return super()._takes(value) and self._low <= value <= self._high

    def _decode(self, encoded: Any, place: Place) -> Any:
        if self._sized and abs(encoded) > place.book.most:
            raise place.refusal(encoded, f"{place.book.most} at most, which is about the number of bytes in the store")
        return encoded


class _Row(Kind):
    """A list or a tuple. A tuple is read as a tuple again."""

    @abstractmethod
    def _kinds_of(self, n: int) -> tuple[Kind, ...] | None:
        """Return the kinds of n values, or None if n values are not allowed."""

    def _takes(self, value: Any) -> bool:
        is_row = isinstance(value, list | tuple | range) or (isinstance(value, np.ndarray) and value.ndim > 0)
        return is_row and self._kinds_of(len(value)) is not None

    def _accepts(self, encoded: Any) -> bool:
        items = _items(encoded)
        return isinstance(items, list) and self._kinds_of(len(items)) is not None

    def _encode(self, value: Any, place: Place) -> Any:
        items = value.tolist() if isinstance(value, np.ndarray) else value
        pairs = enumerate(zip(self._kinds_of(len(items)) or (), items, strict=True))
        out = [kind.write(item, place.at(f"[{position}]")) for position, (kind, item) in pairs]
        return {"tuple": out} if isinstance(value, tuple) else out

    def _decode(self, encoded: Any, place: Place) -> Any:
        items = _items(encoded)
        pairs = enumerate(zip(self._kinds_of(len(items)) or (), items, strict=True))
        out = [kind.read(item, place.at(f"[{position}]")) for position, (kind, item) in pairs]
        return tuple(out) if isinstance(encoded, dict) else out


def _items(encoded: Any) -> Any:
    return encoded["tuple"] if isinstance(encoded, dict) and set(encoded) == {"tuple"} else encoded


class Listed(_Row):
    """A list or tuple of values of one kind."""

    def __init__(self, kind: Kind, least: int = 0, most: int = sys.maxsize) -> None:
        self._kind, self._least, self._most = kind, least, most

    def __str__(self) -> str:
        count = f" of {self._least} to {self._most}" if self._most < sys.maxsize else f" of {self._least} or more"
        return f"a list{count}, each {self._kind}"

    def _kinds_of(self, n: int) -> tuple[Kind, ...] | None:
        return (self._kind,) * n if self._least <= n <= self._most else None


class Record(_Row):
    """A list or tuple with one value of each of some kinds."""

    def __init__(self, *kinds: Kind) -> None:
        self._kinds = kinds

    def __str__(self) -> str:
        return f"({', '.join(map(str, self._kinds))})"

    def _kinds_of(self, n: int) -> tuple[Kind, ...] | None:
        return self._kinds if n == len(self._kinds) else None


class Named(Kind):
    """A dict whose keys are names, and whose values are of one kind."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def __str__(self) -> str:
        return f"names, each with {self._kind}"

    def _takes(self, value: Any) -> bool:
        return isinstance(value, dict) and all(isinstance(name, str) for name in value)

    def _accepts(self, encoded: Any) -> bool:
        return isinstance(encoded, dict)

    def _encode(self, value: Any, place: Place) -> Any:
        return {name: self._kind.write(item, place.at(f"[{name!r}]")) for name, item in value.items()}

    def _decode(self, encoded: Any, place: Place) -> Any:
        return {name: self._kind.read(item, place.at(f"[{name!r}]")) for name, item in encoded.items()}


class Dtype(Kind):
    """One of several dtypes, which are given as text, such as "f4 f8"."""

    def __init__(self, dtypes: str) -> None:
        self._dtypes = dtypes.split()

    def __str__(self) -> str:
        return f"a dtype {' or '.join(self._dtypes)}"

    def _takes(self, value: Any) -> bool:
        try:
            return isinstance(value, str | type | np.dtype) and np.dtype(value).str[1:] in self._dtypes
        except TypeError:
            return False

    def _accepts(self, encoded: Any) -> bool:
        return isinstance(encoded, str) and encoded in self._dtypes

    def _encode(self, value: Any, place: Place) -> Any:
        return np.dtype(value).str[1:]

    def _decode(self, encoded: Any, place: Place) -> Any:
        return np.dtype(encoded)


class ArrayOf(Kind):
    """An array.

    Parameters
    ----------
    dtypes : str
        The dtypes that it may have, such as "f4 f8".
    *axes : str or None
        Name of each axis. Axes of the same name have the same length within an object, which is at least 1. An axis
        whose name is None may have any length, also 0.
    finite : bool, default True
        Whether all values must be finite.
    """

    def __init__(self, dtypes: str, *axes: str | None, finite: bool = True) -> None:
        self._dtypes, self._axes, self._finite = dtypes.split(), axes, finite

    def __str__(self) -> str:
        return f"an array of {' or '.join(self._dtypes)} of shape ({', '.join(axis or 'any' for axis in self._axes)})"

    def _takes(self, value: Any) -> bool:
        return isinstance(value, np.ndarray) and value.dtype.str[1:] in self._dtypes and value.ndim == len(self._axes)

    def _accepts(self, encoded: Any) -> bool:
        if not isinstance(encoded, dict) or set(encoded) != {"array", "dtype", "order", "shape"}:
            return False
        shape = encoded["shape"]
        if not isinstance(shape, list) or len(shape) != len(self._axes):
            return False
        return (
            all(_SIZE._accepts(size) for size in (encoded["array"], *shape))
            and encoded["dtype"] in self._dtypes
            and encoded["order"] in ("C", "F")
        )

    def _encode(self, value: Any, place: Place) -> Any:
        # The order in memory is kept, because it decides in which order products are summed.
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        place.book.arrays.append(value.T if order == "F" else value)
        shown = {"dtype": value.dtype.str[1:], "order": order, "shape": list(value.shape)}
        return {"array": len(place.book.arrays) - 1} | shown

    def _decode(self, encoded: Any, place: Place) -> Any:
        shape = tuple(encoded["shape"])
        for name, size in zip(self._axes, shape, strict=True):
            if name is not None and (not size or place.sizes.setdefault(name, size) != size):
                raise place.refusal(encoded, f"{self} with {name} = {place.sizes.get(name, 'one or more')}")
        is_turned = encoded["order"] == "F"
        stored = shape[::-1] if is_turned else shape
        found = place.book.array(encoded["array"], stored, np.dtype(encoded["dtype"]), place.path)
        if self._finite and not np.isfinite(found).all():
            raise place.refusal(found, "one without NaN and infinite values")
        return found.T if is_turned else found


_SIZE = Whole(0)


class _Labels(Kind):
    """A 1D array of text, such as names along an axis."""

    def __str__(self) -> str:
        return "an array of text"

    def _takes(self, value: Any) -> bool:
        return isinstance(value, np.ndarray) and value.ndim == 1 and is_text(value)

    def _accepts(self, encoded: Any) -> bool:
        items = encoded.get("names") if isinstance(encoded, dict) and len(encoded) == 1 else None
        return isinstance(items, list) and all(isinstance(item, str) for item in items)

    def _encode(self, value: Any, place: Place) -> Any:
        return {"names": value.tolist()}

    def _decode(self, encoded: Any, place: Place) -> Any:
        return names(encoded["names"])


LABELS = _Labels()
