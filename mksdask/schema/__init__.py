"""What classes save: a table of names, and what each value may be.

A class declares its table beside its `__init__`, and is known by it from then on:

    _saved = Saved(
        {"n_components": Whole(1), "whiten": FLAG},
        fitted={"components_": ArrayOf("f8", "n_components_", "n_features"), "mean_": ArrayOf("f8", "n_features")},
    )

An object is read by calling the class with the parameters, and setting the fitted attributes. All values are checked
against the table before that, so that a file can only make what a user could make by the same calls. Axes of one name
have one length in an object. If the class has a method `_restored(most)`, it is called at the end: it sets what follows
from the rest, and refuses parts that do not belong together. Nothing that it makes may be larger than `most`, which is
about the number of bytes in the file.
"""

from mksdask.schema.classes import Part, Saved, agree, models
from mksdask.schema.kinds import (
    FLAG,
    LABELS,
    NOTHING,
    NUMBERS,
    POSITIVE,
    TEXT,
    ArrayOf,
    Choice,
    Dtype,
    Kind,
    Listed,
    Named,
    Number,
    Record,
    Whole,
)
from mksdask.schema.places import FEW, Place, Reader, Writer

__all__ = [
    "FEW",
    "FLAG",
    "LABELS",
    "NOTHING",
    "NUMBERS",
    "POSITIVE",
    "TEXT",
    "ArrayOf",
    "Choice",
    "Dtype",
    "Kind",
    "Listed",
    "Named",
    "Number",
    "Part",
    "Place",
    "Reader",
    "Record",
    "Saved",
    "Whole",
    "Writer",
    "agree",
    "models",
]
