"""Errors of stores whose numbers cannot be used. They name the store, and can be sent between processes."""

from __future__ import annotations


class DamageError(ValueError):
    """A part of a store is missing, or is not what was written.

    Parameters
    ----------
    store : str
        Path or URL of the store.
    array : str
        Name of the array. It is empty for the metadata of the store.
    chunk : str
        The chunk, as its key in the array, or the metadata.
    kind : str
        What is wrong.
    remedy : str
        What to do.
    place : str
        Which task has found it.
    """

    def __init__(self, store: str, array: str, chunk: str, kind: str, remedy: str = "", place: str = "") -> None:
        super().__init__(store, array, chunk, kind, remedy, place)
        self.store, self.array, self.chunk, self.kind, self.remedy = store, array, chunk, kind, remedy
        self.place = place

    def __str__(self) -> str:
        of = f"of its array {self.array!r} " if self.array else ""
        remedy = self.remedy or (
            f"its numbers cannot be used. List all that is damaged by mksdask verify {self.store}, and make the store "
            "again or restore it from a copy"
        )
        place = f" ({self.place})" if self.place else ""
        return f"{self.store} is damaged: {self.chunk} {of}{self.kind}{place}; {remedy}"

    def with_place(self, place: str) -> DamageError:
        """Return the same error, which says what task has found it."""
        return DamageError(self.store, self.array, self.chunk, self.kind, self.remedy, place)


class ChangedError(ValueError):
    """A store is not the one that was opened.

    Parameters
    ----------
    store : str
        Path or URL of the store.
    place : str
        The task that has found it.
    """

    def __init__(self, store: str, place: str = "") -> None:
        super().__init__(store, place)
        self.store, self.place = store, place

    def __str__(self) -> str:
        place = f" ({self.place})" if self.place else ""
        return (
            f"{self.store} was changed, replaced or removed after it was opened{place}, so a result would be of "
            "neither its old nor its new numbers; open it again, and repeat the call when nobody writes to it"
        )

    def with_place(self, place: str) -> ChangedError:
        """Return the same error, which says what task has found it."""
        return ChangedError(self.store, place)
