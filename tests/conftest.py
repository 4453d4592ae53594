"""The fixtures of all tests; what they are made of stands in helpers.py."""

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("helpers")
from helpers import BOUNDARIES, LARGEST_INSIDE, SCENES, mostly_slow  # noqa: E402

settings.register_profile("kernelfit", deadline=None, derandomize=True, max_examples=25, database=None)
settings.load_profile("kernelfit")


@pytest.fixture(params=mostly_slow(SCENES, 7), ids=str)
def scene(request):
    return request.param


@pytest.fixture(params=mostly_slow([s for s in SCENES if s.mode == "same" and s.boundary == "mirror"], 3), ids=str)
def few_scenes(request):
    """A cheaper list for laws that do not depend on the boundary."""
    return request.param


@pytest.fixture(params=["direct", "fft"])
def method(request):
    return request.param


@pytest.fixture(params=BOUNDARIES, ids=lambda b: f"{b[0]}({b[1]:g})")
def boundary(request):
    """{"boundary": ..., "fillvalue": ...}"""
    return dict(zip(("boundary", "fillvalue"), request.param, strict=True))


@pytest.fixture(
    params=[s for s in SCENES if s.boundary is not None and s.image_shape == s.shape and s.mode == "same"]
    + [s for s in SCENES if s.boundary is None and (s.image_shape, s.shape) in LARGEST_INSIDE[:2]],
    ids=str,
)
def tight_scene(request):
    """As many target pixels as taps."""
    return request.param
