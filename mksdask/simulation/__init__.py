"""The physics: elasticity, spinodal decomposition."""
