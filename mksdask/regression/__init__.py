"""Regression from scores to properties, the linkages p_eff = F(μ)."""

from mksdask.regression.design import next_samples
from mksdask.regression.kernel_regressor import KernelRegressor
from mksdask.regression.polynomial import LeadingScaler, LeastSquares, polynomial_regression

__all__ = ["KernelRegressor", "LeadingScaler", "LeastSquares", "next_samples", "polynomial_regression"]
