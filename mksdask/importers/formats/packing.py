"""Values as files of climate science pack them: scaled integers, and numbers that stand for values not measured."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mksdask.arrays import Array


@dataclass(frozen=True)
class Packing:
    """How the values of an array are unpacked: first the fill values are found, and then the others are scaled.

    Parameters
    ----------
    dtype : str
        Data type of the unpacked values.
    stored : str
        Data type of the stored values, which the file may state to be unsigned.
    scale, offset : float or None
        An unpacked value is ``stored · scale + offset``.
    fills : tuple of float or int
        Stored values that stand for values that were not measured.
    valid : tuple of float or int, or None
        Least and largest stored value of what was measured.
    """

    dtype: str
    stored: str
    scale: float | None = None
    offset: float | None = None
    fills: tuple[float | int, ...] = ()
    valid: tuple[float | int, float | int] | None = None

    @classmethod
    def of(cls, attrs: Mapping[str, Any], dtype: Any) -> Packing:
        """Read the attributes of the conventions CF.

        They are `scale_factor`, `add_offset`, `_FillValue`, `missing_value`, `_Unsigned`, `valid_range`, `valid_min`
        and `valid_max`.
        """
        found = np.dtype(dtype)
        stored = found.newbyteorder("=")
        if str(_text(attrs.get("_Unsigned"))).lower() == "true" and stored.kind == "i":
            stored = np.dtype(f"u{stored.itemsize}")
        scale, offset = (
            None if attrs.get(key) is None else _number(attrs[key]) for key in ("scale_factor", "add_offset")
        )
        if stored.kind not in "iuf":
            return cls(stored.str, stored.str)
        stated = [attrs[key] for key in ("_FillValue", "missing_value") if attrs.get(key) is not None]
        fills = tuple(dict.fromkeys(fill for each in stated for fill in _fills(each, stored)))
        unpacked = stored
        if scale is not None or offset is not None:
            is_narrow = stored.itemsize <= 2 or (stored.kind == "f" and stored.itemsize == 4)
            unpacked = np.dtype("f4" if is_narrow else "f8")
        elif len(fills) > 1 and stored.kind != "f":
            # Only one integer can stand for all of them.
            unpacked = np.dtype("f4" if stored.itemsize <= 2 else "f8")
        return cls(unpacked.str, stored.str, scale, offset, fills, _valid(attrs, stored))

    @property
    def missing(self) -> float | None:
        """The unpacked value of what was not measured. None if all was."""
        if np.dtype(self.dtype).kind == "f":
            return float("nan") if self.fills or self.valid else None
        return self.fills[0] if self.fills else None

    def unpack(self, values: Array) -> Array:
        """Unpack values.

        Raises
        ------
        ValueError
            If there is a value that was not measured, and no value of the data type can stand for it.
        """
        values = np.asarray(values)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if values.dtype.itemsize == np.dtype(self.stored).itemsize and values.dtype.kind == "i":
            values = values.view(self.stored)
        is_outside = None if self.valid is None else (values < self.valid[0]) | (values > self.valid[1])
        if np.dtype(self.dtype).kind != "f":
            return values if is_outside is None or not is_outside.any() else self._marked(values, is_outside)
        out = values.astype(self.dtype)
        if self.scale is not None:
            out *= self.scale
        if self.offset is not None:
            out += self.offset
        for fill in self.fills:
            out[values == fill] = np.nan
        if is_outside is not None:
            out[is_outside] = np.nan
        return out

    def _marked(self, values: Array, is_outside: Array) -> Array:
        """Put the value of what was not measured in place of whole numbers that are not valid."""
        if not self.fills:
            low, high = self.valid or (0, 0)
            msg = (
                f"its value {values[is_outside][0]} is outside of the valid ones, from {low} to {high}, which the file "
                "states, and it states no _FillValue; write one into the file, or correct what is valid"
            )
            raise ValueError(msg)
        return np.where(is_outside, values.dtype.type(self.fills[0]), values)


def _valid(attrs: Mapping[str, Any], dtype: np.dtype[Any]) -> tuple[Any, Any] | None:
    """Read the least and the largest stored value that is valid."""
    bounds = attrs.get("valid_range")
    low, high = (attrs.get("valid_min"), attrs.get("valid_max")) if bounds is None else np.atleast_1d(bounds)[:2]
    if low is None and high is None:
        return None
    least, largest = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return (
        least if low is None else np.atleast_1d(low).astype(dtype)[0].item(),
        largest if high is None else np.atleast_1d(high).astype(dtype)[0].item(),
    )


def _fills(stated: Any, dtype: np.dtype[Any]) -> list[Any]:
    """Read numbers that stand for what was not measured. In zarr, xarray writes their bytes as text."""
    text = _text(stated)
    if isinstance(text, str):
        try:
            return [np.dtype(dtype).type(text).item()]
        except ValueError:
            return np.frombuffer(base64.b64decode(text), dtype=dtype).tolist()
    return np.atleast_1d(stated).astype(dtype).tolist()


def _number(value: Any) -> float:
    return float(np.atleast_1d(value)[0])


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
