"""Pixels -> statistics: both engines against plain loops for every convention; inputs, bits, addition, files."""

import dataclasses
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import kernelfit
import naive
from helpers import assert_close, assert_same_bits, assert_same_stats, grid, observe, planned, smooth_image
from kernelfit import accumulate
from kernelfit.compiled import spectral_products, threads
from kernelfit.compiled.jit import LANES
from kernelfit.engines import accumulation, passes
from kernelfit.engines.cost_model import Segments, resolve

METHODS = ("direct", "fft")


def test_equals_plain_loops(scene, method):
    target = scene.target
    expected = naive.products(*naive._split(scene.design, target))
    assert_same_stats(accumulate(scene.image, target, scene.shape, method=method, **scene.convention), expected)


@pytest.mark.parametrize("shape", [(1, 1), (4, 3)], ids=str)
def test_keywords_have_the_documented_defaults(shape):
    rng = np.random.default_rng(2)
    image = rng.normal(size=(13, 17))
    target = rng.normal(size=(13, 17))
    spelled = accumulate(
        image,
        target,
        shape,
        mode="same",
        boundary=None,
        fillvalue=0.0,
        origin=naive.default_origin(shape),
        operation="convolution",
    )
    assert_same_bits(accumulate(image, target, shape), spelled)


def test_an_int_stands_for_both_sides():
    rng = np.random.default_rng(3)
    image, target = rng.normal(size=(2, 12, 19))
    assert_same_bits(
        accumulate(image, target, 3, boundary="wrap", origin=1),
        accumulate(image, target, (3, 3), boundary="wrap", origin=(1, 1)),
    )
    assert accumulate(image, target, 3, boundary="wrap", origin=0).convention.origin == (0, 0)


@pytest.mark.parametrize("mode", ["same", "valid", "full"])
def test_mode_is_read_from_the_shapes(mode):
    rng = np.random.default_rng(4)
    image = rng.normal(size=(15, 12))
    target = rng.normal(size=naive.target_shape(image.shape, (4, 3), mode))
    inferred = accumulate(image, target, (4, 3), boundary="symm")
    assert inferred.convention.mode == mode
    assert_same_bits(inferred, accumulate(image, target, (4, 3), boundary="symm", mode=mode))


def test_what_the_statistics_carry():
    rng = np.random.default_rng(5)
    image, target = rng.normal(size=(2, 14, 11))
    stats = accumulate(image, target, (4, 3), boundary="fill", fillvalue=1.5, operation="correlation", origin=(3, 0))
    assert stats.supports == ((4, 3),)
    assert stats.gram.shape == (12, 12) and stats.gram.dtype == np.float64
    assert stats.moment.shape == (12,) and stats.moment.dtype == np.float64
    np.testing.assert_array_equal(stats.gram, stats.gram.T)
    convention = stats.convention
    assert (convention.mode, convention.boundary, convention.fillvalue) == ("same", "fill", 1.5)
    assert (convention.origin, convention.operation) == ((3, 0), "correlation")


# ---- sizes that cross every block, band and segment edge ------------------------------------------------------------


@pytest.mark.slow
@grid("mode, operation", [("same", "convolution"), ("full", "correlation"), ("valid", "convolution")], 3)
def test_wide_image(mode, operation, boundary):
    if mode == "valid" and boundary["boundary"] is not None:
        pytest.skip("valid looks at no boundary: one is enough at this size")
    image = smooth_image(60, 1100, seed=6)
    target = smooth_image(*naive.target_shape(image.shape, (7, 4), mode), seed=7)
    convention = {"mode": mode, "operation": operation, **boundary}
    expected = naive.normal_stats_dense(image, target, (7, 4), **convention)
    for method in METHODS:
        assert_same_stats(accumulate(image, target, (7, 4), method=method, **convention), expected)


@grid(
    "image_shape, shape, boundary_name",
    [
        ((31, 257), (5, 3), None),
        ((300, 1100), (7, 4), "wrap"),
        ((1100, 130), (3, 8), None),
        ((257, 31), (4, 6), "wrap"),
        ((127, 130), (3, 3), "symm"),
        ((90, 600), (9, 13), "mirror"),
        ((128, 256), (6, 1), "wrap"),
        ((129, 255), (1, 6), "fill"),
        ((64, 513), (64, 2), "wrap"),
        ((513, 20), (2, 20), "nearest"),
        ((5, 2100), (5, 4), None),
        ((2100, 5), (4, 5), "wrap"),
    ],
    3,
    ids=str,
)
def test_sizes_around_the_blocks(image_shape, shape, boundary_name):
    image, target = smooth_image(*image_shape, seed=8), smooth_image(*image_shape, seed=9)
    convention = {"mode": "same", "boundary": boundary_name, "operation": "correlation"}
    expected = naive.normal_stats_dense(image, target, shape, **convention)
    for method in METHODS:
        assert_same_stats(accumulate(image, target, shape, method=method, **convention), expected)


@grid("method", METHODS, 2)
@pytest.mark.parametrize(
    "image_shape, shape, operation",
    [
        ((1, 700), (1, 66), "convolution"),
        ((4, 230), (1, 5), "correlation"),
        ((260, 7), (9, 1), "convolution"),
        ((70, 330), (5, 8), "convolution"),
        ((290, 41), (6, 4), "correlation"),
    ],
    ids=str,
)
def test_the_residual_of_any_kernels_is_that_of_the_dense_problem(image_shape, shape, operation, method):
    """Two sources and two targets, and kernels far from the solution."""
    rng = np.random.default_rng(21)
    images, targets = rng.normal(size=(2, 2, *image_shape)) + 0.5
    kernels = rng.normal(size=(2, 2, *shape))
    settings = {"mode": "same", "boundary": "symm", "fillvalue": 0.0, "origin": None, "operation": operation}
    one, other = (observe(x, y, shape, **settings) for x, y in zip(images, targets, strict=True))
    observation = dataclasses.replace(one, sources=one.sources + other.sources, targets=one.targets + other.targets)
    moments, energies = accumulation.residual_moments(observation, kernels, method, 2)
    convention = {"mode": "same", "boundary": "symm", "operation": operation}
    matrix = np.concatenate([naive.design_dense(x, shape, **convention)[0] for x in images], axis=1)
    left = targets.reshape(2, -1) - kernels.reshape(2, -1) @ matrix.T
    assert_close(moments, left @ matrix, 1e-12)
    assert_close(energies, (left**2).sum(axis=1), 1e-12)


@grid("boundary_name", ["wrap", None, "fill"], 3)
@pytest.mark.parametrize("operation", ["convolution", "correlation"])
@pytest.mark.parametrize(
    "image_shape, shape",
    [
        ((1, 40), (1, 7)),
        ((1, 700), (1, 66)),
        ((3, 161), (1, 33)),
        ((4, 30), (1, 2)),
        ((4, 30), (1, 1)),
        ((5, 61), (1, 12)),  # a row more than there is a short way for
        ((300, 2), (9, 1)),
        ((150, 4), (64, 1)),
        ((90, 5), (31, 1)),
    ],
    ids=str,
)
def test_signals(image_shape, shape, operation, boundary_name):
    """Kernels of one row or one column, and images of a few."""
    rng = np.random.default_rng(20)
    image, target = rng.normal(size=(2, *image_shape)) + 0.5
    convention = {"mode": "same", "boundary": boundary_name, "operation": operation}
    expected = naive.normal_stats_dense(image, target, shape, **convention)
    for method in METHODS:
        stats = accumulate(image, target, shape, method=method, **convention)
        assert_same_stats(stats, expected)
        np.testing.assert_array_equal(stats.gram, stats.gram.T)


@pytest.mark.parametrize("where", ["image", "target", "both"])
def test_a_large_offset_costs_no_digits(where, method):
    rng = np.random.default_rng(10)
    image, target = rng.normal(size=(2, 210, 333))
    image = image + (1e6 if where != "target" else 0.0)
    target = target + (1e6 if where != "image" else 3.0)
    expected = naive.normal_stats_dense(image, target, (3, 5), mode="same", boundary="nearest")
    assert_same_stats(accumulate(image, target, (3, 5), boundary="nearest", method=method), expected)


def test_zero_target_is_exactly_zero(method):
    image = np.random.default_rng(11).normal(size=(40, 61))
    stats = accumulate(image, np.zeros((40, 61)), (4, 5), boundary="wrap", method=method)
    assert not stats.moment.any() and stats.target_energy == 0.0 and stats.target_sum == 0.0
    assert stats.n_pixels == 40 * 61


def test_small_integers_give_exact_sums():
    """The direct engine adds exactly representable products: nothing is left to rounding."""
    rng = np.random.default_rng(12)
    image = rng.integers(-9, 10, size=(90, 131)).astype(float)
    target = rng.integers(-9, 10, size=(90, 131)).astype(float)
    expected = naive.normal_stats_dense(image, target, (4, 5), mode="same", boundary="symm")
    stats = accumulate(image, target, (4, 5), boundary="symm", method="direct")
    np.testing.assert_array_equal(stats.gram, expected.gram)
    np.testing.assert_array_equal(stats.moment, expected.moment)
    assert (stats.target_energy, stats.target_sum) == (expected.target_energy, expected.target_sum)


# ---- inputs: any layout and any real type, never changed ------------------------------------------------------------

TYPES = (
    "bool",
    "uint8",
    "int8",
    "int16",
    ">i2",
    "uint16",
    "int32",
    ">u4",
    "int64",
    "uint64",
    "float16",
    "float32",
    ">f4",
    ">f8",
)


@pytest.mark.parametrize("dtype", TYPES)
def test_any_real_type(dtype, method):
    rng = np.random.default_rng(13)
    low = -100 if np.dtype(dtype).kind in "if" else 0
    high = 2 if dtype == "bool" else 128 if np.dtype(dtype).itemsize == 1 else 1000
    image, target = rng.integers(low, high, size=(2, 70, 157)).astype(dtype)
    kept = image.copy(), target.copy()
    words = {"boundary": "mirror", "saturated": None, "method": method}
    stats = accumulate(image, target, (3, 4), **words)
    expected = accumulate(image.astype(float), target.astype(float), (3, 4), **words)
    assert_same_stats(stats, expected, 1e-13)
    truth = naive.normal_stats_dense(image.astype(float), target.astype(float), (3, 4), mode="same", boundary="mirror")
    assert_same_stats(stats, truth)
    for now, before in zip((image, target), kept, strict=True):
        assert now.dtype == before.dtype and now.tobytes() == before.tobytes()


def test_uint8_products_do_not_wrap(method):
    image = np.full((30, 43), 255, dtype=np.uint8)
    image[::3, ::2] = 254
    target = np.full((30, 43), 255, dtype=np.uint8)
    expected = naive.normal_stats_dense(image, target, (3, 4), mode="same", boundary="wrap")
    assert_same_stats(accumulate(image, target, (3, 4), boundary="wrap", method=method), expected)


def layouts(values, tmp_path, name):
    """The same numbers in every way an array can lie in memory."""
    rows, cols = values.shape
    yield "fortran", np.asfortranarray(values)
    strided = np.full((2 * rows, 3 * cols), 1e300)
    strided[::2, ::3] = values
    yield "strided", strided[::2, ::3]
    yield "reversed", values[::-1, ::-1].copy()[::-1, ::-1]
    field = np.zeros((rows, cols), dtype=[("flag", "u1"), ("value", "f8")])
    field["value"] = values
    yield "unaligned", field["value"]
    read_only = values.copy()
    read_only.setflags(write=False)
    yield "read-only", read_only
    path = tmp_path / f"{name}.raw"
    values.tofile(path)
    yield "memmap", np.memmap(path, dtype=values.dtype, mode="r", shape=values.shape)
    yield "list", values.tolist()
    yield "subclass", values.view(type("Tagged", (np.ndarray,), {}))


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)], ids=["image", "target", "both"])
def test_any_memory_layout(which, method, tmp_path):
    arrays = [smooth_image(61, 190, seed=14), smooth_image(61, 190, seed=15)]
    expected = accumulate(*arrays, (4, 3), boundary="nearest", method=method)
    variants = [dict(layouts(a, tmp_path, str(i))) for i, a in enumerate(arrays)]
    for layout in variants[0]:
        given = [variants[i][layout] if i in which else a for i, a in enumerate(arrays)]
        assert_same_stats(accumulate(*given, (4, 3), boundary="nearest", method=method), expected, 1e-14)
        for now, before in zip(given, arrays, strict=True):
            np.testing.assert_array_equal(np.asarray(now), before, err_msg=layout)


def test_memmap_file_is_untouched(method, tmp_path):
    rng = np.random.default_rng(16)
    paths = [tmp_path / "image.raw", tmp_path / "target.raw"]
    for path in paths:
        rng.integers(0, 256, size=(300, 420), dtype=np.uint8).tofile(path)
    before = [path.read_bytes() for path in paths]
    maps = [np.memmap(path, dtype=np.uint8, mode="r+", shape=(300, 420)) for path in paths]
    stats = accumulate(*maps, (3, 5), boundary="symm", saturated=None, method=method)
    del maps
    assert [path.read_bytes() for path in paths] == before
    arrays = [np.frombuffer(data, dtype=np.uint8).reshape(300, 420) for data in before]
    assert_same_stats(stats, naive.normal_stats_dense(*arrays, (3, 5), mode="same", boundary="symm"))


def test_one_array_may_be_both(method):
    image = smooth_image(50, 77, seed=17)
    stats = accumulate(image, image, (3, 4), boundary="wrap", method=method)
    assert_same_stats(stats, naive.normal_stats_dense(image, image, (3, 4), mode="same", boundary="wrap"))


# ---- the same bits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary_name", [None, "fill", "mirror"])
@pytest.mark.parametrize("size, shape", [((700, 333), (5, 4)), ((90, 1500), (3, 6))], ids=str)
def test_any_number_of_workers_gives_the_same_bits(size, shape, boundary_name, method):
    image, target = smooth_image(*size, seed=18), smooth_image(*size, seed=19)
    alone = accumulate(image, target, shape, boundary=boundary_name, method=method, workers=1)
    for workers in (2, 3, 5, None):
        assert_same_bits(
            accumulate(image, target, shape, boundary=boundary_name, method=method, workers=workers), alone
        )


def test_any_number_of_workers_gives_the_same_kernel():
    image = smooth_image(400, 310, seed=20)
    target = smooth_image(400, 310, seed=21)
    kernels = [
        kernelfit.find_kernel(image, target, (3, 5), workers=workers).kernel.tobytes() for workers in (1, 2, 3, 5)
    ]
    assert len(set(kernels)) == 1


@pytest.mark.slow
def test_eight_threads_at_once():
    observations = []
    for i, (method, name) in enumerate(itertools.product(METHODS, (None, "fill", "wrap", "symm"))):
        size, shape = (150 + 10 * i, 260 - 7 * i), (3 + i % 3, 5 - i % 4)
        observations.append(
            (
                (smooth_image(*size, seed=i), smooth_image(*size, seed=50 + i), shape),
                {"method": method, "boundary": name},
            )
        )
    alone = [accumulate(*pair, **keywords) for pair, keywords in observations]
    start = threading.Barrier(8)

    def work(first):
        start.wait(timeout=60)
        order = [(first + step) % len(observations) for step in range(len(observations))]
        return [(i, accumulate(*observations[i][0], workers=1 + i % 2, **observations[i][1])) for i in order]

    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(work, range(8)):
            for i, stats in results:
                assert_same_bits(stats, alone[i])


def test_repeating_gives_the_same_bits_and_independent_arrays(method):
    image, target = smooth_image(200, 150, seed=22), smooth_image(200, 150, seed=23)
    first = accumulate(image, target, (4, 5), method=method)
    gram = first.gram.copy()
    accumulate(target, image, (4, 5), method=method)  # must not reuse what it handed out
    np.testing.assert_array_equal(first.gram, gram)
    assert_same_bits(accumulate(image, target, (4, 5), method=method), first)


# ---- the choice of method -------------------------------------------------------------------------------------------


def test_choice_is_pure_named_and_followed():
    for size, shape in [((64, 90), (1, 1)), ((300, 410), (3, 5)), ((300, 410), (24, 31)), ((60, 2000), (9, 8))]:
        choice = kernelfit.choose_method(size, shape)
        assert choice == kernelfit.choose_method(size, shape)
        assert choice.method in METHODS and choice.reason
    assert kernelfit.choose_method((2048, 2048), (3, 3)).method == "direct"
    assert kernelfit.choose_method((2048, 2048), (41, 40)).method == "fft"


@pytest.mark.parametrize("shape", [(2, 3), (9, 14)], ids=str)
def test_auto_is_one_of_the_two(shape):
    image, target = smooth_image(130, 210, seed=34), smooth_image(130, 210, seed=35)
    chosen = kernelfit.choose_method(image.shape, shape).method
    assert_same_bits(
        accumulate(image, target, shape, boundary="symm"),
        accumulate(image, target, shape, boundary="symm", method=chosen),
    )
    assert kernelfit.find_kernel(image, target, shape, boundary="symm").method == chosen


@pytest.mark.slow
@grid("shape", [(8, 9), (9, 8), (25, 23), (2, 7)], 4, ids=str)
def test_edges_by_transforms(shape, monkeypatch):
    """Strips along the edges are worth transforming for large kernels only; here they are always."""
    from kernelfit.engines import edge_correction

    monkeypatch.setattr(edge_correction, "TRANSFORM_NS", 1e-3)
    monkeypatch.setattr(edge_correction, "SPECTRAL_NS", 1e-3)
    image, target = np.random.default_rng(3).random((2, 140, 150))
    stats = accumulate(image, target, shape, method="fft")
    inner = np.lib.stride_tricks.sliding_window_view(image, shape)[..., ::-1, ::-1]
    design = inner.reshape(-1, shape[0] * shape[1])
    np.testing.assert_allclose(stats.gram, design.T @ design, rtol=1e-12)
    assert (stats.gram == stats.gram.T).all()


@pytest.mark.slow
def test_measured_plans_change_no_bit_of_estimated_ones():
    """FFTW takes what it has measured for plans that are to be estimated, too; and what it knows is the user's."""
    import pyfftw

    from kernelfit.compiled import fft

    image, target = np.random.default_rng(4).normal(size=(2, 150, 700))
    shapes = [(3, 5), (2, 9), (7, 16), (1, 40), (5, 64)]

    def grams():
        fft._pool.clear()  # plan anew
        return [accumulate(image, target, shape, method="fft").gram for shape in shapes]

    kept = pyfftw.export_wisdom()
    pyfftw.forget_wisdom()
    try:
        fresh = grams()
        previous = kernelfit.set_fft(effort="measure")
        try:
            grams()
        finally:
            kernelfit.set_fft(**previous)
        known = pyfftw.export_wisdom()
        assert known != (b"", b"", b"")
        for gram, again in zip(fresh, grams(), strict=True):
            np.testing.assert_array_equal(gram, again)
        for now, then in zip(pyfftw.export_wisdom(), known, strict=True):
            assert set(now.splitlines()) == set(then.splitlines())
    finally:
        pyfftw.forget_wisdom()
        pyfftw.import_wisdom(kept)


@pytest.mark.parametrize("length", [48, 75, 126, 400, 576, 1100])
def test_transforms_planned_together_are_those_planned_alone(length):
    """What one plan finds out is there for the next, but changes no bit: else results would depend on their order."""
    import pyfftw

    from kernelfit.compiled import fft

    rows, halo = 19, 6
    pixels = np.random.default_rng(length).normal(size=(halo + rows, length))
    made = fft.RowTransforms(rows, length, 2, 1, halo, "pyfftw", "estimate")
    made.image[...], made.result[...] = pixels, pixels[halo:]
    made.forward(0)
    made.forward(1)
    kept = pyfftw.export_wisdom()
    try:
        first, last = made._used
        for rows_of, values in (
            (pixels[halo:], first[halo:]),
            (pixels[:halo], first[:halo]),
            (pixels[halo:], last[:rows]),
        ):
            pyfftw.forget_wisdom()
            source = fft.aligned(rows_of.shape, float)
            result = fft.aligned((len(values), values.strides[0] // 16))[:, : length // 2 + 1]
            alone = pyfftw.FFTW(source, result, flags=("FFTW_ESTIMATE",), axes=(1,))
            source[...] = rows_of
            alone.execute()
            np.testing.assert_array_equal(values, result)
    finally:
        pyfftw.forget_wisdom()
        pyfftw.import_wisdom(kept)


@pytest.mark.parametrize("kernel", [(5, 4), (8, 9), (7, 3), (1, 6)])
@pytest.mark.parametrize("n_bands", [1, 3])
def test_tiles_below_each_other_share_what_they_know(kernel, n_bands, monkeypatch):
    """In bands of many low tiles, which begin in the middle of the image, and go on at the top of the next columns."""
    monkeypatch.setattr(threads, "N_BANDS", n_bands)
    monkeypatch.setattr(passes, "_HEIGHT", 11)
    monkeypatch.setattr(passes, "segment", lambda *_, **__: Segments(64, 29))
    rng = np.random.default_rng(kernel)
    image, target = rng.normal(size=(97, 83)), rng.normal(size=(97, 83))
    for boundary in ("symm", None):
        keywords = {"mode": "same", "boundary": boundary}
        expected = accumulate(image, target, kernel, method="direct", **keywords)
        found = accumulate(image, target, kernel, method="fft", workers=2, **keywords)
        assert_same_stats(found, expected)
        more = {"fillvalue": 0.0, "origin": None, "operation": "convolution"}
        observation = observe(image, target, kernel, **keywords, **more)
        taps = rng.normal(size=(1, 1, *kernel))
        moments = [accumulation.residual_moments(observation, taps, method, 2) for method in ("direct", "fft")]
        for one, other in zip(*moments, strict=True):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-11 * np.abs(one).max())


@pytest.mark.parametrize("n_sources", [1, 2, 3, 4, 7, 8, 11])
@pytest.mark.parametrize("first", [0, 1])
def test_products_of_many_lines_are_those_of_numpy(n_sources, first):
    """However many of eight sources are left over."""
    rng, length, rows, n = np.random.default_rng(n_sources), 13, 5, n_sources + 2
    spectra = rng.normal(size=(n, rows + 3, passes.n_vectors(length) * LANES + 8))
    sums = passes.spectral_sums(n_sources, n, length, 1)
    for _ in range(2):
        passes.add_spectra(spectra, first, n_sources, rows, 1, sums)
    found = passes.complex_spectra(sums, lines=True).view(complex)[..., :7]
    lines = spectra[:, :rows].view(complex)[..., :7]
    expected = 2 * np.einsum("arf,srf->saf", lines.conj(), lines[:n_sources])[:, :, None]
    expected[:, :first] = 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel_rows", [1, 3, 4, 5, 9, 12, 13, 18])
@pytest.mark.parametrize("frequencies", [1, 4, 11])
def test_products_of_spectra_are_those_of_numpy(kernel_rows, frequencies):
    """Whatever share of a vector, or of eight lags and of eight rows, is left over."""
    rng = np.random.default_rng([kernel_rows, frequencies])
    length, rows = 2 * frequencies - 1, 21
    width = passes.n_vectors(length) * LANES
    spectra = rng.normal(size=(3, rows + kernel_rows - 1 + 7, width + 8))
    one, other, target = (s.view(complex)[:, :frequencies] for s in spectra)
    sums = passes.spectral_sums(1, 3, length, kernel_rows)
    for _ in range(2):
        spectral_products.spectral_lag_sums(spectra, 1, 0, rows, sums[0])
    found = passes.complex_spectra(sums, lines=kernel_rows == 1)[0].view(complex)[..., :frequencies]
    assert not found[0].any()
    for i in range(kernel_rows):
        for array, factor in ((1, other), (2, target)):
            expected = 2 * (factor[:rows].conj() * one[i : i + rows]).sum(axis=0)
            np.testing.assert_allclose(found[array, i], expected, rtol=0, atol=1e-12)
    taps = rng.normal(size=(2, kernel_rows, 3))
    kernel = passes.tap_spectra(taps, length)
    by_numpy = np.fft.rfft(taps, n=length, norm="forward").conj()
    expected = sum(
        by_numpy[0, i] * one[i : i + rows] + by_numpy[1, i] * other[i : i + rows] for i in range(kernel_rows)
    )
    spectral_products.spectral_correlate(spectra, 2, 2, kernel, rows)
    np.testing.assert_allclose(target[:rows], expected, rtol=0, atol=1e-12)
    n, groups = rows // 3, 3
    products = np.zeros((n, -(-n // 8) * 8, width))
    for _ in range(2):
        spectral_products.spectral_products(spectra[1::-1].copy(), n, groups, products)
    for p in range(n):
        for q in range(p, n):
            expected = 2 * (one[p : n * groups : n].conj() * other[q : n * groups : n]).sum(axis=0)
            np.testing.assert_allclose(products.view(complex)[p, q - p, :frequencies], expected, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_long_row_comes_to_the_same_twice():
    """What the segments of one call leave in the transforms plays no part in those of the next."""
    rng = np.random.default_rng(31)
    convention = {"mode": "same", "boundary": "wrap", "operation": "correlation"}
    for _ in range(3):
        image, target = rng.normal(size=(2, 1, 30000)) + 2.0
        expected = naive.normal_stats_dense(image, target, (1, 9), **convention)
        assert_same_stats(accumulate(image, target, (1, 9), method="fft", **convention), expected)


def test_the_engine_is_chosen_by_how_many_images_and_targets_there_are():
    for size, shape, n, m, expected in [
        ((1, 20000), (1, 41), 16, 8, "fft"),
        ((1, 20000), (1, 2), 2, 2, "direct"),
        ((256, 256), (9, 9), 6, 6, "fft"),
        ((256, 256), (2, 3), 2, 1, "direct"),
    ]:
        image, target = np.zeros((n, *size)), np.zeros((m, *size))
        plan = planned(image, target, shape, channel_axis=0, channels="mixed", boundary="fill")
        assert resolve(plan.groups[0][0], "auto").method == expected
        assert resolve(plan.groups[0][0], "direct") == ("direct", "as asked")
