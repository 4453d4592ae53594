"""Kernels as estimators of scikit-learn, by their public names."""

from .api.regressor import KernelRegressor

__all__ = ["KernelRegressor"]
