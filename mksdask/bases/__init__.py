"""Bases of the local state: the microstructure function m[h; s]."""

from mksdask.bases.base import Basis
from mksdask.bases.primitive import PrimitiveBasis

__all__ = ["Basis", "PrimitiveBasis"]
