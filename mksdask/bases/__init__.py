"""Bases of the local state, which turn samples into the microstructure function m[h; s]."""

from mksdask.bases.base import Basis
from mksdask.bases.fourier import FourierBasis
from mksdask.bases.given import GivenStates
from mksdask.bases.gsh import GSHBasis
from mksdask.bases.legendre import LegendreBasis
from mksdask.bases.primitive import PrimitiveBasis
from mksdask.bases.product import ProductBasis

__all__ = ["Basis", "FourierBasis", "GSHBasis", "GivenStates", "LegendreBasis", "PrimitiveBasis", "ProductBasis"]
