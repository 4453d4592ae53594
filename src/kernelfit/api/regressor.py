"""A kernel as an estimator of scikit-learn."""

import dataclasses
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..solvers.least_squares import Solver
from .find import find_kernel
from .results import KernelFit

try:
    from sklearn.base import BaseEstimator, RegressorMixin
    from sklearn.metrics import r2_score
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise ImportError("got no scikit-learn, need it for KernelRegressor; pip install 'kernelfit[sklearn]'") from None

Array = npt.NDArray[np.float64]


class KernelRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Predict signals from those before them, or images from others, by a kernel.

    ``y[t] = intercept + sum_c sum_p kernel[c, p] X[t - lag[p], c]``: each row of `X` is a moment, each column a signal.
    With a kernel of two sides each row is an image, ``y[i] = kernel * X[i]``.

    Parameters
    ----------
    shape : int or (int, int), optional
        Number of taps, centred on the moment itself, default 1: a linear regression. Rows and columns of a kernel for
        images.
    solver : solver or "auto", optional
        As in `find_kernel`; a parameter like any other for a search, ``{"solver": [Penalized(0.01), Penalized(0.1)]}``.
    lags : (int, int), optional
        First and last lag, both included, in place of `shape`; a pair of these for images.
    boundary : {None, "fill", "wrap", "symm", "mirror", "nearest"}, optional
        What lies before the first row and after the last. With None (default) a fit and a score use the rows alone
        whose lags are all there, and `predict` continues the signals by their mirror image.
    fit_intercept : bool, optional
        Whether there is a constant; by default for signals. Images have none.
    options : dict, optional
        Further keywords of `find_kernel`, such as ``{"robust": "huber"}``.

    Attributes
    ----------
    result_ : KernelFit
        The kernel with errors, residual and verdict.
    coef_ : ndarray, shape (features, taps), (targets, features, taps) or (rows, cols)
        The kernel; without the axis of the targets where `y` has one dimension.
    intercept_ : float or ndarray, shape (targets,)
        The constant.
    n_features_in_ : int
        Number of signals; for images not there.

    Notes
    -----
    The rows are moments in order: split them by ``KFold(n)`` or ``TimeSeriesSplit(n)``, never shuffled. Where a fold is
    cut out of the middle, the moments on either side of the cut follow one another in the training rows, and as many
    rows as there are lags are wrong there; ``TimeSeriesSplit`` has no such seam. The checks of scikit-learn that take
    rows for independent (subsets and orders of rows) hold for ``shape=1`` alone, as do all others but one of more
    features than rows.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import TimeSeriesSplit, cross_val_score
    >>> from kernelfit.sklearn import KernelRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(600, 2))
    >>> y = X[:, 0] + 0.5 * np.roll(X[:, 1], 2) + 3
    >>> model = KernelRegressor(lags=(0, 3)).fit(X, y)
    >>> model.coef_.round(6) + 0.0
    array([[1. , 0. , 0. , 0. ],
           [0. , 0. , 0.5, 0. ]])
    >>> cross_val_score(model, X, y, cv=TimeSeriesSplit(3)).round(6)
    array([1., 1., 1.])
    """

    def __init__(
        self,
        shape: int | tuple[int, ...] = 1,
        solver: Solver | str | None = None,
        *,
        lags: Any = None,
        boundary: str | None = None,
        fit_intercept: bool | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.shape = shape
        self.solver = solver
        self.lags = lags
        self.boundary = boundary
        self.fit_intercept = fit_intercept
        self.options = options

    def _of_images(self) -> bool:
        sides = self.shape if self.lags is None else self.lags
        nested = self.lags is not None and any(np.ndim(one) for one in self.lags)
        return nested or (self.lags is None and isinstance(sides, tuple | list) and len(sides) == 2)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803  as scikit-learn calls it
        """Find the kernel.

        Parameters
        ----------
        X : array_like, shape (moments, features), or images
            Signals in columns; or a list of images, or an array of shape (images, rows, cols).
        y : array_like, shape (moments,) or (moments, targets), or images
            What became of them.
        sample_weight : array_like, shape (moments,), optional
            Inverse variance of each row of `y`, of signals.

        Returns
        -------
        KernelRegressor
            This one.

        Raises
        ------
        ValueError
            If there are fewer rows than taps, or as `find_kernel`.
        """
        given: dict[str, Any] = {"boundary": self.boundary, "solver": self.solver, **(self.options or {})}
        given |= {"shape": self.shape} if self.lags is None else {"lags": self.lags}
        if self._of_images():
            if self.fit_intercept or sample_weight is not None:
                word = "fit_intercept=True" if self.fit_intercept else "sample_weight"
                raise ValueError(f"got {word} with images, need none; take what is constant off, or mask, before")
            self.result_: KernelFit = find_kernel(_images(X), _images(y), **given)
            self.coef_: Array = self.result_.kernel
            self.intercept_: Any = 0.0
            return self
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64, ensure_min_samples=2)
        self._flat = np.ndim(y) == 1
        target = np.asarray(y, dtype=np.float64).reshape(len(X), -1)
        if sample_weight is not None:
            sample_weight = np.asarray(sample_weight, dtype=np.float64)
            if not sample_weight.any():
                raise ValueError("got sample weights that are all zero, need at least one non-zero number among them")
            given["weights"] = np.broadcast_to(sample_weight[:, None], target.shape)
        background = None if self.fit_intercept is False else 0
        self.result_ = find_kernel(X, target, channel_axis=1, channels="mixed", background=background, **given)
        self.coef_ = self.result_.kernel[0] if self._flat else self.result_.kernel
        surface = self.result_.background
        constant = np.zeros(target.shape[1]) if surface is None else np.asarray(surface.coefficients).reshape(-1)
        self.intercept_ = float(constant[0]) if self._flat else constant
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Return what the kernel makes of signals or images.

        Parameters
        ----------
        X : array_like, shape (moments, features), or images
            As in `fit`; at least as many moments as taps.

        Returns
        -------
        ndarray, shape (moments,) or (moments, targets), or images
            A value for each row; images as a list if they were one.
        """
        return self._predicted(X, "symm")

    def _predicted(self, X: Any, beyond: str | None) -> Any:  # noqa: N803
        """Return predictions, with an assumption of what lies beyond the edge where the fit made none."""
        check_is_fitted(self, "result_")
        conv = self.result_.convention
        result = dataclasses.replace(
            self.result_, convention=dataclasses.replace(conv, boundary=conv.boundary or beyond), labels=None
        )
        if self._of_images():
            made = [result.predict(image) for image in _images(X)]
            return made if isinstance(X, list | tuple) else np.stack(made)
        found = result.predict(validate_data(self, X, reset=False, dtype=np.float64))
        return found[:, 0] if self._flat else found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """Return the coefficient of determination of what is predicted without an assumption.

        Parameters
        ----------
        X, y : array_like
            As in `fit`.
        sample_weight : array_like, shape (moments,), optional
            How much each row of signals counts.

        Returns
        -------
        float
            ``R^2``, 1 at best; of several targets the mean. Rows whose lags are not all there do not count.
        """
        seen = self._predicted(X, None)
        if self._of_images():
            seen, y = (np.concatenate([np.ravel(one) for one in images]) for images in (seen, _images(y)))
        y, known = np.asarray(y), np.isfinite(seen).reshape(len(seen), -1).all(axis=1)
        weight = None if sample_weight is None else np.asarray(sample_weight)[known]
        return float(r2_score(y[known], seen[known], sample_weight=weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _images(value: Any) -> list[Any]:
    """Return images as a list."""
    images = list(value)
    if not images or any(np.ndim(one) != 2 for one in images):
        raise ValueError(
            f"got images of {sorted({np.ndim(one) for one in images})} dimensions, need a list of images of two, or an "
            "array of shape (images, rows, columns)"
        )
    return [np.asarray(one) for one in images]
