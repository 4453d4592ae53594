"""The sums of a kernel that is a polynomial of the place, against those of all pairs of its sources."""

import numpy as np
import pytest

import kernelfit
from helpers import assert_close
from kernelfit.data import blocks
from kernelfit.data.plan import make_plan
from kernelfit.engines import accumulation
from kernelfit.engines.field_pass import Functions
from kernelfit.engines.passes import Frame


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sides", "degree", "model"),
    [
        ((3, 5), 3, {}),
        ((6, 2), 2, {"boundary": "fill"}),
        pytest.param((1, 4), 2, {"mode": "valid", "operation": "correlation"}, marks=pytest.mark.slow),
        pytest.param((9, 4), 1, {"mode": "full", "boundary": "fill"}, marks=pytest.mark.slow),
        pytest.param((5, 1), 4, {}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("box", [None, blocks.Box(9, 11, 131, 60)])
def test_fewer_sums_give_the_same_equations(sides, degree, model, box, monkeypatch):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(150, 90))
    grow = {"valid": -1, "full": 1}.get(model.get("mode"), 0)
    target = rng.normal(size=tuple(n + grow * (k - 1) for n, k in zip(image.shape, sides, strict=True)))
    asked = kernelfit.Model(sides, variation=degree, background=1, **model)
    observation = make_plan(image, target, asked, kernelfit.Selection()).groups[0][0]
    observation = observation if box is None else blocks.sub_observation(observation, box)
    assert Functions.of(observation, Frame.of(observation)) is not None
    found = accumulation.statistics(observation, "fft", 2)
    monkeypatch.setattr(Functions, "of", lambda *_: None)
    expected = accumulation.statistics(observation, "fft", 2)
    for one, other in zip(found, expected, strict=True):
        assert_close(one.gram, other.gram, 1e-13)
        assert_close(one.moment, other.moment, 1e-12)
        assert one.target_energy == pytest.approx(other.target_energy, rel=1e-13)
        assert one.target_sum == pytest.approx(other.target_sum, rel=1e-10)


def test_it_is_for_one_image_and_for_polynomials_beyond_the_edge():
    image = np.random.default_rng(0).normal(size=(40, 30, 2))
    for model in ({"boundary": "wrap"}, {"boundary": "fill", "fillvalue": 1.0}, {"stride": 2}, {"channels": "mixed"}):
        stride = model.get("stride", 1)
        channels = {"channel_axis": -1, **model} if "channels" in model else model
        source = image if "channels" in model else image[..., 0]
        asked = kernelfit.Model((2, 3), mode="same", variation=1, **channels)
        observation = make_plan(source, source[::stride, ::stride], asked, kernelfit.Selection()).groups[0][0]
        assert Functions.of(observation, Frame.of(observation)) is None
