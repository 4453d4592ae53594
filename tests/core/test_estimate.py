"""What an estimate tells of itself."""

import numpy as np
import scipy.stats

import kernelfit


def test_intervals_are_those_of_student_where_few_pixels_are_to_spare():
    rng = np.random.default_rng(0)
    image, target = rng.normal(size=(2, 6, 7))
    fit = kernelfit.find_kernel(image, target, (2, 3))
    assert fit.df_resid == 25 - 6
    for level in (0.5, 0.95):
        reach = scipy.stats.t.ppf(0.5 + level / 2, 19) * fit.stderr
        np.testing.assert_allclose(fit.confidence(level), (fit.kernel - reach, fit.kernel + reach), rtol=1e-9)
    prior = kernelfit.find_kernel(image, target, (2, 3), solver=kernelfit.Penalized("ridge", 0.1))
    reach = scipy.stats.norm.ppf(0.975) * prior.stderr
    np.testing.assert_allclose(prior.confidence(0.95), (prior.kernel - reach, prior.kernel + reach), rtol=1e-9)
