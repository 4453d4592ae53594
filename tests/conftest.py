"""The fixtures of all tests; what they are made of stands in helpers.py."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one process for each core: threads of the oracles' BLAS would only wait
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

import kernelfit

pytest.register_assert_rewrite("helpers")
from helpers import BOUNDARIES, LARGEST_INSIDE, SCENES, mostly_slow  # noqa: E402
from kernelfit.solvers import cholesky  # noqa: E402

settings.register_profile("kernelfit", deadline=None, derandomize=True, max_examples=25, database=None)
settings.load_profile("kernelfit")


def pytest_collection_finish(session):
    """Let two processes with nothing compiled begin with different loops: each finds on disk what the other did."""
    worker = getattr(session.config, "workerinput", {}).get("workerid")
    image, target = np.random.default_rng(0).random((2, 40, 51))
    if worker == "gw0":
        for method in ("direct", "fft"):
            kernelfit.accumulate(image, target, (3, 4), method=method, boundary="symm")
    elif worker == "gw1":
        cholesky.own_factor(np.eye(12))
        kernelfit.find_kernel(image, target, (3, 4), method="wiener", boundary="wrap")


CASES = 4  # of one test in the plain run, spread over all it has
EACH_COUNTS = {"test_package", "test_bad_input", "test_find_command", "test_results"}  # a case is a matter of its own


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what is one more case of a test of which the plain run takes a few."""
    cases = {}
    for item in items:
        if item.path.stem not in EACH_COUNTS and not item.get_closest_marker("slow"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for some in cases.values():
        kept = {i * (len(some) - 1) // max(1, CASES - 1) for i in range(CASES)}
        for item in (item for i, item in enumerate(some) if len(some) > CASES and i not in kept):
            item.add_marker(pytest.mark.more)


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
