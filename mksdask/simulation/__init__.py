"""Simulation of the physics of voxel samples: elasticity, conduction, and spinodal decomposition; and their bounds."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
