"""Classes that can be saved, and their tables of names and kinds."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from sklearn.utils.validation import check_is_fitted

from mksdask.schema.kinds import Kind
from mksdask.schema.places import Place


class Part(Kind):
    """An object inside another object. Its class must have a table, and be one of `bases` or derive from one.

    Parameters
    ----------
    *bases : type
        Classes.
    fitted : bool or None, default False
        Whether the fitted attributes are saved, beside the parameters. None means that they are if those of the outer
        object are.
    """

    def __init__(self, *bases: type, fitted: bool | None = False) -> None:
        self._bases, self._fitted = bases, fitted

    def __str__(self) -> str:
        # A model is named only where a model is meant, although it may be a regressor too.
        found = [saved for saved in _BY_NAME.values() if issubclass(saved.cls, self._bases)]
        known = sorted(saved.name for saved in found if not saved.is_model or saved.cls in self._bases)
        return f"{'a fitted' if self._fitted else 'a'} {' or '.join(known)}"

    def _takes(self, value: Any) -> bool:
        return type(value) in _BY_CLASS and isinstance(value, self._bases)

    def _accepts(self, encoded: Any) -> bool:
        name = encoded.get("class") if isinstance(encoded, dict) else None
        return isinstance(name, str) and name in _BY_NAME and issubclass(_BY_NAME[name].cls, self._bases)

    def _place(self, place: Place) -> Place:
        return place.of_part(fitted=place.fitted if self._fitted is None else self._fitted)

    def _encode(self, value: Any, place: Place) -> Any:
        return _BY_CLASS[type(value)].encode(value, self._place(place))

    def _decode(self, encoded: Any, place: Place) -> Any:
        return _BY_NAME[encoded["class"]].decode(encoded, self._place(place))


class Saved:
    """The table of a class: what it saves.

    Parameters
    ----------
    parameters : mapping of str to Kind
        Parameters of the constructor. Attributes of the same names hold their values.
    fitted : mapping of str to Kind, optional
        Attributes that `fit` sets.
    make : callable, optional
        Makes the object from the parameters, which it takes by name. Default: the class.
    restore : callable, optional
        ``restore(found, most)`` is called in place of the method `_restored`. Classes of other packages need this.
    is_model : bool, default False
        Whether `save_model` takes objects of the class.
    """

    cls: type

    def __init__(
        self,
        parameters: Mapping[str, Kind],
        *,
        fitted: Mapping[str, Kind] | None = None,
        make: Callable[..., Any] | None = None,
        restore: Callable[[Any, int], None] | None = None,
        is_model: bool = False,
    ) -> None:
        self.parameters, self.fitted = dict(parameters), dict(fitted or {})
        self.is_model = is_model
        self._make, self._restore = make, restore

    def __set_name__(self, owner: type, name: str) -> None:
        self.of(owner)

    def of(self, cls: type) -> None:
        """Use this table for a class. If it is used for a second class, objects of that are read as the first class."""
        if not hasattr(self, "cls"):
            self.cls = cls
            _BY_NAME[cls.__name__] = self
        _BY_CLASS[cls] = self

    @property
    def name(self) -> str:
        """Name of the class in files."""
        return self.cls.__name__

    def _tables(self, place: Place) -> dict[str, dict[str, Kind]]:
        return {"parameters": self.parameters} | ({"fitted": self.fitted} if self.fitted and place.fitted else {})

    def encode(self, value: Any, place: Place) -> dict[str, Any]:
        """Turn an object into JSON.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the object must be fitted and is not.
        TypeError
            If a value is not of the declared kind.
        """
        tables = self._tables(place)
        if "fitted" in tables:
            check_is_fitted(value, list(self.fitted))
        found: dict[str, Any] = {"class": self.name}
        for title, table in tables.items():
            found[title] = {
                name: kind.write(getattr(value, name), place.at(f".{name}")) for name, kind in table.items()
            }
        return found

    def decode(self, encoded: Any, place: Place) -> Any:
        """Make the object from JSON.

        Raises
        ------
        ValueError
            If keys are missing or unknown, if a value is not of the declared kind, or if values contradict each other.
        """
        tables = self._tables(place)
        _check_keys(encoded, {"class", *tables}, place)
        values: dict[str, dict[str, Any]] = {}
        for title, table in tables.items():
            _check_keys(encoded[title], table, place.at(f" ({title})"))
            values[title] = {
                name: kind.read(encoded[title][name], place.at(f".{name}")) for name, kind in table.items()
            }
        try:
            found = (self._make or self.cls)(**values["parameters"])
            for name, value in values.get("fitted", {}).items():
                setattr(found, name, value)
            restore = self._restore or getattr(self.cls, "_restored", None)
            if restore is not None and ("fitted" in tables or not self.fitted):
                restore(found, place.book.most)
        except Exception as error:
            # A class may raise any error for values that do not belong together. The file is wrong in each case.
            text = f"{place.path} contradicts itself: {error}"
            raise place.book.complaint(text) from error
        return found


_BY_NAME: dict[str, Saved] = {}
_BY_CLASS: dict[type, Saved] = {}


def _check_keys(encoded: Any, wanted: Collection[str], place: Place) -> None:
    if not isinstance(encoded, dict) or set(encoded) != set(wanted):
        got = f"the keys {', '.join(sorted(encoded))}" if isinstance(encoded, dict) else reprlib.repr(encoded)
        raise place.book.refusal(place.path, got, f"the keys {', '.join(sorted(wanted))}")


def agree(name: str, found: Any, expected: Any) -> None:
    """Refuse a value that contradicts the others.

    Raises
    ------
    ValueError
        If `found` does not equal `expected`.
    """
    if found != expected:
        msg = f"{name} is {found}, expected {expected}"
        raise ValueError(msg)
