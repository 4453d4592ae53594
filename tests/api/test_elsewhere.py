"""Sums that other engines add up, and pixels that lie in object stores."""

import functools
import http.server
import multiprocessing
import operator
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

import kernelfit
from helpers import assert_close, assert_same_bits

SHAPE = (3, 4)


def pairs(n=6):
    rng = np.random.default_rng(11)
    images = rng.normal(size=(n, 41, 53))
    taps = rng.normal(size=SHAPE)
    return [(a, kernelfit.apply_kernel(a, taps) + 0.1 * rng.normal(size=a.shape)) for a in images]


def expected():
    return sum(kernelfit.accumulate(*pair, SHAPE) for pair in pairs())


def test_sums_add_up_in_any_way():
    parts = [kernelfit.accumulate(*pair, SHAPE) for pair in pairs()]
    for total in (sum(parts), functools.reduce(operator.add, parts), sum(parts[:3]) + sum(parts[3:])):
        assert_close(total.gram, expected().gram, 1e-13)
        assert total.n_pixels == 6 * parts[0].n_pixels
    together = kernelfit.find_kernel(*map(list, zip(*pairs(), strict=True)), SHAPE)
    assert_close(sum(parts).solve().kernel, together.kernel, 1e-12)


@pytest.mark.slow
def test_two_processes():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        work = functools.partial(kernelfit.accumulate, shape=SHAPE, workers=1)
        assert_same_bits(sum(pool.map(work, *zip(*pairs(), strict=True))), expected())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_joblib():
    joblib = pytest.importorskip("joblib")
    work = joblib.delayed(kernelfit.accumulate)
    parts = joblib.Parallel(n_jobs=2)(work(*pair, SHAPE, workers=1) for pair in pairs())
    assert_same_bits(sum(parts), expected())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False)

    def work(image, target):  # one of this module could not be imported where it runs
        return kernelfit.accumulate(image, target, SHAPE, workers=1)

    assert_same_bits(sum(ray.get([ray.remote(work).remote(*pair) for pair in pairs()])), expected())
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_spark(monkeypatch):
    sql = pytest.importorskip("pyspark.sql")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)  # else whatever is called python3
    session = sql.SparkSession.builder.master("local[2]").getOrCreate()
    work = session.sparkContext.parallelize(pairs(), 2).map(lambda pair: kernelfit.accumulate(*pair, SHAPE, workers=1))
    assert_close(work.reduce(operator.add).gram, expected().gram, 1e-13)
    session.stop()


def stored(array, place, zarr):
    zarr.create_array(place, data=array, chunks=(20, 17), overwrite=True)


@pytest.mark.filterwarnings("ignore")
def test_pixels_in_memory_of_fsspec():
    zarr, fsspec = pytest.importorskip("zarr"), pytest.importorskip("fsspec")
    image, target = pairs(1)[0]
    for name, array in (("image", image), ("target", target)):
        stored(array, f"memory://kernelfit/{name}.zarr", zarr)
    lazy = [zarr.open_array(f"memory://kernelfit/{name}.zarr", mode="r") for name in ("image", "target")]
    assert_same_bits(kernelfit.accumulate(*lazy, SHAPE), kernelfit.accumulate(image, target, SHAPE))
    fit = kernelfit.accumulate_stream([lazy], SHAPE).solve()
    assert_close(fit.kernel, kernelfit.find_kernel(image, target, SHAPE).kernel, 1e-12)
    fsspec.filesystem("memory").rm("kernelfit", recursive=True)


class Counting(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and says what was asked for."""

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *words):
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_pixels_behind_http(tmp_path):
    zarr = pytest.importorskip("zarr")
    pytest.importorskip("aiohttp")
    image, target = pairs(1)[0]
    for name, array in (("image", image), ("target", target)):
        stored(array, str(tmp_path / f"{name}.zarr"), zarr)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Counting, directory=str(tmp_path))
    ) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        lazy = [zarr.open_array(f"{at}/{name}.zarr", mode="r") for name in ("image", "target")]
        fit = kernelfit.find_kernel(*lazy, SHAPE)
        server.shutdown()
    assert fit.kernel.tobytes() == kernelfit.find_kernel(image, target, SHAPE).kernel.tobytes()
    chunks = [path for path in server.asked if "/c/" in path]
    assert len(chunks) == len(set(chunks)) == 2 * 3 * 4
