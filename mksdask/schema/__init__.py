"""The tables by which classes are saved: the names of their values, and what each value may be.

A class declares its table beside its `__init__`. From then on, its objects can be saved:

    _saved = Saved(
        {"n_components": Whole(1), "whiten": FLAG},
        fitted={"components_": ArrayOf("f8", "n_components_", "n_features"), "mean_": ArrayOf("f8", "n_features")},
    )

To read an object, the class is called with the parameters, and the fitted attributes are set. All values are checked
against the table first, so that a file can only make objects that a user could make by the same calls. Axes of the same
name have the same length within an object. If the class has a method `_restored(most)`, it is called at the end. The
method sets attributes that follow from the others, and refuses parts that do not belong together. It may make nothing
larger than `most`, which is about the number of bytes in the file.
"""

from mksdask.schema.classes import Part, Saved, agree
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
]
