"""Microstructure to local field, by influence kernels."""

from mksdask.localization.model import MKSLocalizationModel

__all__ = ["MKSLocalizationModel"]
