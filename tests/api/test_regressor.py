"""KernelRegressor is an estimator of scikit-learn, and its numbers are those of find_kernel."""

import numpy as np
import pytest

from helpers import assert_close
from kernelfit import Penalized, apply_kernel, find_kernel

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone  # noqa: E402
from sklearn.linear_model import LinearRegression  # noqa: E402
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from kernelfit.sklearn import KernelRegressor  # noqa: E402


def exceptions(estimator):
    """Return the checks that do not hold, and why."""
    return {"check_sample_weight_equivalence_on_dense_data": "30 signals of 27 rows: fewer than taps are refused"}


@pytest.mark.slow
@parametrize_with_checks([KernelRegressor()], expected_failed_checks=exceptions)
def test_it_keeps_the_rules_of_an_estimator(estimator, check):
    check(estimator)


def signals(n=400, noise=0.1):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3))
    kernel = rng.normal(size=(2, 3, 4))
    y = np.stack([sum(np.convolve(x[:, c], row[c])[:n] for c in range(3)) for row in kernel], axis=1)
    return x, y + [2, -1] + noise * rng.normal(size=y.shape), kernel


def test_one_tap_is_a_linear_regression():
    x, y, _ = signals()
    ours, theirs = KernelRegressor().fit(x, y), LinearRegression().fit(x, y)
    assert_close(ours.coef_[..., 0], theirs.coef_, 1e-9)
    assert_close(ours.intercept_, theirs.intercept_, 1e-9)
    assert_close(ours.predict(x), theirs.predict(x), 1e-9)
    assert ours.score(x, y) == pytest.approx(theirs.score(x, y), abs=1e-12)
    weight = np.random.default_rng(1).uniform(0.5, 2, len(x))
    ours, theirs = (one.fit(x, y[:, 0], sample_weight=weight) for one in (KernelRegressor(), LinearRegression()))
    assert_close(ours.coef_[:, 0], theirs.coef_, 1e-9)
    assert ours.score(x, y[:, 0], weight) == pytest.approx(theirs.score(x, y[:, 0], weight), abs=1e-12)


def test_lags_of_several_signals():
    x, y, kernel = signals(noise=0.0)
    model = KernelRegressor(lags=(0, 3)).fit(x, y)
    assert_close(model.coef_, kernel, 1e-9)
    assert_close(model.intercept_, [2, -1], 1e-9)
    assert_close(model.predict(x)[3:], y[3:], 1e-9)
    assert np.isfinite(model.predict(x)).all()
    assert model.score(x, y) == pytest.approx(1.0, abs=1e-12)  # the first three rows, which lack lags, do not count
    one = KernelRegressor(lags=(0, 3), fit_intercept=False).fit(x, y[:, 1] + 1)
    assert one.coef_.shape == (3, 4) and one.intercept_ == 0.0 and one.predict(x).shape == (400,)
    expected = find_kernel(x, y, lags=(0, 3), channel_axis=1, channels="mixed", background=0, robust="huber")
    robust = KernelRegressor(lags=(0, 3), options={"robust": "huber"}).fit(x, y)
    assert_close(robust.coef_, expected.kernel, 1e-12)
    with pytest.raises(ValueError, match="need"):
        KernelRegressor(500).fit(x, y)


@pytest.mark.slow
def test_searches_and_pipelines():
    x, y, _ = signals(noise=2.0)
    model = make_pipeline(StandardScaler(), KernelRegressor(lags=(0, 3)))
    scores = cross_val_score(model, x, y[:, 0], cv=TimeSeriesSplit(3))
    assert (scores > 0.2).all()
    search = GridSearchCV(
        KernelRegressor(lags=(0, 3)),
        {"lags": [(0, 1), (0, 3)], "solver": [None, Penalized(strength=10.0)]},
        cv=TimeSeriesSplit(2),
    )
    assert search.fit(x, y).best_params_["lags"] == (0, 3)
    assert clone(search.best_estimator_).get_params()["lags"] == (0, 3)


def test_images():
    rng = np.random.default_rng(2)
    images, kernel = rng.random((5, 20, 31)), rng.normal(size=(2, 3))
    targets = np.stack([apply_kernel(image, kernel) for image in images]) + 0.01 * rng.normal(size=images.shape)
    model = KernelRegressor((2, 3)).fit(images, targets)
    assert_close(model.coef_, find_kernel(list(images), list(targets), (2, 3)).kernel, 1e-12)
    assert model.predict(images).shape == images.shape and np.isfinite(model.predict(images)).all()
    assert (cross_val_score(model, images, targets, cv=5) > 0.99).all()
    lists = [images[0], images[1, :15]], [targets[0], apply_kernel(images[1, :15], kernel)]
    some = KernelRegressor(lags=((0, 1), (-1, 1))).fit(*lists)
    assert [one.shape for one in some.predict(lists[0])] == [(20, 31), (15, 31)]
    assert some.score(*lists) > 0.99
    for keywords, given in (({"fit_intercept": True}, {}), ({}, {"sample_weight": np.ones(5)})):
        with pytest.raises(ValueError, match="with images, need none"):
            KernelRegressor((2, 3), **keywords).fit(images, targets, **given)
    with pytest.raises(ValueError, match=r"got images of \[1\] dimensions, need a list of images"):
        model.fit(images[0], targets[0])
