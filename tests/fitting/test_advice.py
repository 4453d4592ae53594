"""What a verdict proposes is not given already, is not refused beside the rest of the call, and helps."""

import itertools
import re

import numpy as np
import pytest
import scipy.ndimage

from kernelfit import Verdict, find_kernel
from kernelfit.core.findings import Finding
from kernelfit.fitting import advice, requirements

#: What texts say, and the feature that it is.
PROPOSALS = {
    "errors='sandwich'": "sandwich errors",
    "noise='poisson'": "photon noise",
    "noise=(gain": "photon noise",
    "curve='gamma'": "curve",
    "register='similarity'": "register",
    "variation=2": "variation",
    "solver='auto'": "prior",
    "robust='clip'": "robust",
    "background=0": "background",
}
FEATURES = (
    *("weights", "photon noise", "sandwich errors", "robust", "image noise", "background", "variation", "register"),
    *("curve", "fill", "volume", "signals", "complex numbers", "prior", "long response", "saturated", "Dask"),
)
#: What a remedy says is to be left out for it.
WITHOUT = re.compile(r" without ([^,;]*)")
#: Texts that say "in place of" one thing what the other is, and what is plainly said not to be had.
EXCUSED = {
    (Verdict.OFFSET, "background"): ("fit it as well",),  # which is not found beside a background
    (Verdict.UNEVEN_NOISE, "photon noise"): ("noise=(gain",),
    (Verdict.COLOURED_NOISE, "sandwich errors"): ("in place of robust=", "cannot do here"),
}


@pytest.mark.parametrize("verdict", [one for one in Verdict if one is not Verdict.SOLVED])
def test_no_advice_is_given_already_or_refused(verdict):
    for count in (0, 1, 2):
        for some in itertools.combinations(FEATURES, count):
            features = {name: requirements._WORDS[name] for name in some}
            if requirements.refused(features):
                continue
            if verdict is Verdict.COLOURED_NOISE and "sandwich errors" in some:  # which never goes with them
                continue
            text = advice._advised(Finding(verdict, "detail"), features).text
            without = WITHOUT.findall(text)
            left = {name for name in some if not any(features[name] in names for names in without)}
            text = WITHOUT.sub("", text)
            for words, feature in PROPOSALS.items():
                if words not in text or any(part in text for part in EXCUSED.get((verdict, feature), ())):
                    continue
                assert feature not in some, (some, text)
                assert not requirements.refused({*left, feature}), (some, text)


def test_a_call_that_gives_nothing_is_told_all():
    for verdict in Verdict:
        finding = Finding(verdict, "detail")
        assert advice._advised(finding, {}) is finding
    with_own = Finding(Verdict.NONLINEAR, "detail", "take this")
    assert advice._advised(with_own, {"image noise": "image_noise="}) is with_own


def test_several_things_in_the_way_are_all_named():
    features = {"image noise": "image_noise=", "sandwich errors": "errors='sandwich'"}
    text = advice._advised(Finding(Verdict.NONLINEAR, ""), features).text
    assert "'monotone') without image_noise= and errors='sandwich', leave out" in text
    assert (
        "'homography') without image_noise= and errors='sandwich', or take"
        in advice._advised(Finding(Verdict.MISALIGNED, ""), features).text
    )


def coloured(rng, shape=(70, 83)):
    image = scipy.ndimage.gaussian_filter(rng.normal(size=shape), 0.7) * 40 + 200
    kernel = np.array([[0.1, 0.3, 0.1], [0.2, 0.2, 0.1], [0.0, 0.1, -0.1], [0.0, 0.05, 0.0]])
    clean = scipy.ndimage.convolve(image, kernel, mode="mirror", origin=(-1, 0))
    return image, clean + scipy.ndimage.gaussian_filter(rng.normal(0, 6, shape), 1.2)


@pytest.mark.parametrize("settings", [{}, {"background": 1}, {"mask": np.arange(70 * 83).reshape(70, 83) % 11 == 0}])
def test_what_is_said_of_robust_fits_clears_the_verdict(settings):
    image, target = coloured(np.random.default_rng(1))
    fit = find_kernel(image, target, (4, 3), robust="huber", **settings)
    assert fit.verdict is Verdict.COLOURED_NOISE and "weights=fit.weights in place of robust=" in fit.findings[0].text
    again = find_kernel(image, target, (4, 3), weights=fit.weights, errors="sandwich", **settings)
    assert again.verdict is Verdict.SOLVED
    np.testing.assert_allclose(again.kernel, fit.kernel, atol=1e-6)


@pytest.mark.parametrize("channels", ["shared", "separate", "mixed"])
@pytest.mark.parametrize("axis", [0, -1])
def test_weights_of_a_fit_of_channels_are_weights(channels, axis):
    rng = np.random.default_rng(2)
    both = [coloured(rng) for _ in range(2)]
    image, target = (np.stack(planes, axis=axis) for planes in zip(*both, strict=True))
    settings = {"channel_axis": axis, "channels": channels}
    fit = find_kernel(image, target, (4, 3), robust="huber", **settings)
    weights = fit.weights if channels == "shared" else tuple(part.weights for part in fit.parts)
    again = find_kernel(image, target, (4, 3), weights=weights, **settings)
    np.testing.assert_allclose(again.kernel, fit.kernel, atol=1e-6)
    stacked = find_kernel(image, target, (4, 3), weights=np.stack(weights, axis=axis), **settings)
    np.testing.assert_array_equal(again.kernel, stacked.kernel)


def test_declared_noise_is_not_proposed_again():
    rng = np.random.default_rng(3)
    image, target = coloured(rng)
    target = find_kernel(image, target, (4, 3), boundary="mirror").predict(image)
    fit = find_kernel(image, rng.poisson(target * 4) / 4, (4, 3), noise="poisson")
    assert fit.verdict is Verdict.UNEVEN_NOISE and "noise='poisson'" not in fit.findings[0].text
    right = find_kernel(image, rng.poisson(target * 4) / 4, (4, 3), noise=(4, 0))
    assert "(gain, read_noise)" in fit.findings[0].text and right.verdict is Verdict.SOLVED
    weighted = find_kernel(image, target + rng.normal(0, 3, target.shape), (4, 3), weights=1 / target**6)
    assert weighted.verdict is Verdict.UNEVEN_NOISE and "what the weights say" in weighted.findings[0].text


@pytest.mark.slow
def test_advice_reaches_the_parts_and_dask():
    dask = pytest.importorskip("dask.array")
    import kernelfit.scale

    rng = np.random.default_rng(4)
    image, target = coloured(rng)
    colours = find_kernel(
        *(np.stack([one, one[::-1]], axis=-1) for one in (image, target)),
        (4, 3),
        channel_axis=-1,
        channels="separate",
        robust="huber",
    )
    own = next(f for f in colours.parts[0].findings if f.verdict is Verdict.COLOURED_NOISE)
    assert "in place of robust=" in own.text
    noise = rng.normal(size=target.shape)
    blocks = [dask.from_array(one, chunks=(35, 40)) for one in (image, noise)]
    poor = kernelfit.scale.find_kernel(*blocks, (4, 3), background=0)
    told = next(f for f in poor.findings if f.verdict is Verdict.NOISE_DOMINATES)
    assert "solver='auto'" in told.text
    poor = kernelfit.scale.find_kernel(*blocks, (4, 3), solver="auto")
    told = next(f for f in poor.findings if f.verdict is Verdict.NOISE_DOMINATES)
    assert "solver='auto'" not in told.text
