"""The localization model: from microstructures to local fields, by influence kernels."""

from mksdask.localization.model import MKSLocalizationModel

__all__ = ["MKSLocalizationModel"]
