"""Bad input: every mistake has its own error, which says what came, what is needed and what to do."""

import pathlib

import numpy as np
import pytest

import kernelfit
from kernelfit import accumulate, apply_kernel, find_kernel

IMAGE = np.random.default_rng(1).normal(size=(20, 31))
TARGET = np.random.default_rng(2).normal(size=(20, 31))


@pytest.fixture(params=[find_kernel, accumulate], ids=lambda f: f.__name__)
def door(request):
    """Both doors that take a pair."""
    return request.param


def refused(error, *pieces):
    """Expect error, with every piece somewhere in its text."""
    return _Refused(error, pieces)


class _Refused:
    def __init__(self, error, pieces):
        self.raises, self.pieces = pytest.raises(error), pieces

    def __enter__(self):
        self.caught = self.raises.__enter__()

    def __exit__(self, *exc):
        answer = self.raises.__exit__(*exc)
        if not answer:  # another error: let it through as it is
            return answer
        text = str(self.caught.value)
        for piece in self.pieces:
            assert piece.lower() in text.lower(), f"{piece!r} is not in: {text}"
        assert text.strip() == text and "\n" not in text, "one line, please"
        return answer


# ---- shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target_shape", [(19, 31), (16, 31), (31, 20), (22, 30), (1, 1)], ids=str)
def test_shapes_that_fit_no_mode(door, target_shape):
    """The three target shapes that would fit are printed."""
    with refused(ValueError, "20x31", "{}x{}".format(*target_shape), "same", "17x29", "valid", "23x33", "full"):
        door(IMAGE, np.ones(target_shape), (4, 3))


@pytest.mark.parametrize("mode, fits", [("valid", "17x29"), ("full", "23x33")])
def test_shapes_that_do_not_fit_the_declared_mode(door, mode, fits):
    with refused(ValueError, mode, fits):
        door(IMAGE, TARGET, (4, 3), mode=mode)


@pytest.mark.parametrize("boundary", ["wrap", "symm", "mirror", "nearest"])
@pytest.mark.parametrize("shape", [(21, 3), (3, 32)], ids=str)
def test_kernel_larger_than_the_image(door, boundary, shape):
    with refused(ValueError, "{}x{}".format(*shape), "20x31", boundary):
        door(IMAGE, TARGET, shape, boundary=boundary)


@pytest.mark.parametrize("boundary", ["wrap", "symm", "mirror", "nearest"])
def test_kernel_as_large_as_the_image_is_allowed(boundary):
    rng = np.random.default_rng(3)
    image = rng.normal(size=(4, 7))
    assert find_kernel(image, rng.normal(size=(4, 7)), (4, 7), boundary=boundary).kernel.shape == (4, 7)


@pytest.mark.parametrize("shape", [(21, 3), (3, 32)], ids=str)
def test_kernel_larger_than_the_image_with_nothing_assumed(door, shape):
    with refused(ValueError, "0 interior pixels", f"{shape[0] * shape[1]} taps", "boundary"):
        door(IMAGE, TARGET, shape)


@pytest.mark.parametrize(
    "shape, pixels",
    [((10, 16), 11 * 16), ((10, 17), 11 * 15), ((11, 16), 10 * 16), ((20, 30), 2), ((20, 31), 1)],
    ids=str,
)
def test_too_few_interior_pixels(door, shape, pixels):
    taps = shape[0] * shape[1]
    if pixels >= taps:
        assert door(IMAGE, TARGET, shape).n_pixels == pixels
        return
    with refused(ValueError, f"{pixels} interior pixels cannot determine {taps} taps", "boundary"):
        door(IMAGE, TARGET, shape)


def test_too_few_pixels_of_a_valid_target(door):
    with refused(ValueError, "4", "25", "pixels", "taps"):
        door(np.ones((6, 6)), np.ones((2, 2)), 5)


def test_too_few_pixels_beside_a_fill(door):
    with refused(ValueError, "12", "15", "pixels", "taps"):
        door(IMAGE[:3, :4], TARGET[:3, :4], (3, 5), boundary="fill")


@pytest.mark.parametrize("shape", [0, -3, (0, 3), (3, -1)], ids=str)
def test_kernel_without_taps(door, shape):
    with refused(ValueError, "shape"):
        door(IMAGE, TARGET, shape)


@pytest.mark.parametrize("shape", [(3,), (3, 3, 3), 5.0, (3, 2.5), "5", None, "ab"], ids=repr)
def test_shape_that_is_no_shape(door, shape):
    with refused((TypeError, ValueError), "shape"):
        door(IMAGE, TARGET, shape)


# ---- what an image may be -------------------------------------------------------------------------------------------


def in_either_place(bad, name):
    return (bad, TARGET) if name == "image" else (IMAGE, bad)


@pytest.mark.parametrize("name", ["image", "target"])
@pytest.mark.parametrize(
    "dtype",
    [object, str, bytes, "datetime64[s]", [("value", "f8")]],
    ids=lambda d: str(np.dtype(d)),
)
def test_pixels_that_are_no_numbers(door, dtype, name):
    bad = np.zeros((20, 31), dtype=dtype)
    with refused(TypeError, name, "dtype", str(bad.dtype)):
        door(*in_either_place(bad, name), 3)


@pytest.mark.parametrize("name", ["image", "target"])
@pytest.mark.parametrize("shape", [(), (31,), (20, 31, 3), (1, 20, 31)], ids=str)
def test_wrong_number_of_dimensions(door, shape, name):
    with refused(ValueError, name, f"{len(shape)}", "2"):
        door(*in_either_place(np.ones(shape), name), 3)


@pytest.mark.parametrize("name", ["image", "target"])
@pytest.mark.parametrize("shape", [(0, 31), (20, 0), (0, 0)], ids=str)
def test_empty(door, shape, name):
    with refused(ValueError, name, "empty"):
        door(*in_either_place(np.ones(shape), name), 3)


@pytest.mark.parametrize("bad", [None, "image.png", [[1, 2], [3]], {"a": 1}], ids=repr)
def test_something_else_entirely(door, bad):
    with refused((TypeError, ValueError), "image"):
        door(bad, TARGET, 3)


# ---- NaN and infinity -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", [None, "fill"])
@pytest.mark.parametrize("name", ["image", "target"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", ">f8"])
def test_not_finite(door, name, value, dtype, boundary, method):
    """Which array, how many, where the first one is, and the remedy that is coming."""
    bad = (IMAGE if name == "image" else TARGET).astype(dtype)
    bad[7, 30 - 13] = bad[15, 4] = bad[7, 18] = value
    with refused(ValueError, name, "3 ", "(7, 17)", "mask"):
        door(*in_either_place(bad, name), (3, 4), boundary=boundary, method=method)


@pytest.mark.parametrize("where", [(0, 0), (19, 30), (0, 30), (19, 0), (10, 15)], ids=str)
def test_one_nan_in_the_image(door, where):
    """Every image pixel is looked at, for no boundary drops it altogether."""
    bad = IMAGE.copy()
    bad[where] = np.nan
    with refused(ValueError, "image", "1 ", str(where), "mask"):
        door(bad, TARGET, (3, 4))


@pytest.mark.parametrize("where", [(0, 0), (19, 30), (10, 15)], ids=str)
def test_one_nan_in_a_target_that_is_used_whole(door, where):
    bad = TARGET.copy()
    bad[where] = np.nan
    with refused(ValueError, "target", "1 ", str(where), "mask"):
        door(IMAGE, bad, (3, 4), boundary="wrap")


def test_nan_in_a_big_image(method):
    rng = np.random.default_rng(4)
    image, target = rng.normal(size=(2, 1300, 900))
    image[1299, 899] = np.inf
    with refused(ValueError, "image", "1 ", "(1299, 899)", "mask"):
        accumulate(image, target, (3, 4), boundary="nearest", method=method)


def test_nan_and_inf_that_cancel_are_still_seen(method):
    """Opposite infinities side by side, against a target of zeros: none may slip through as a number."""
    image, target = IMAGE.copy(), TARGET.copy()
    image[5, 5], image[5, 6] = np.inf, -np.inf
    with refused(ValueError, "image", "2 "):
        accumulate(image, np.zeros_like(target), (3, 4), boundary="wrap", method=method)


# ---- keywords -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keyword, known",
    [
        ("mode", ("same", "valid", "full")),
        ("boundary", ("fill", "wrap", "symm", "mirror", "nearest", "None")),
        ("operation", ("convolution", "correlation")),
        ("method", ("auto", "direct", "fft")),
    ],
)
@pytest.mark.parametrize("value", ["nonsense", ""])
def test_unknown_keyword_values_list_the_known_ones(door, keyword, known, value):
    with refused(ValueError, keyword, repr(value), *known):
        door(IMAGE, TARGET, 3, **{keyword: value})


@pytest.mark.parametrize("keyword", ["mode", "boundary", "operation"])
def test_unknown_keyword_values_of_apply_kernel(keyword):
    with refused(ValueError, keyword, "'nonsense'"):
        apply_kernel(IMAGE, np.ones((3, 4)), **{keyword: "nonsense"})


@pytest.mark.parametrize("value", ["0", None, [0.0], 1j, np.zeros(2), object()], ids=lambda v: type(v).__name__)
def test_fillvalue_that_is_no_number(door, value):
    with refused(TypeError, "fillvalue"):
        door(IMAGE, TARGET, 3, boundary="fill", fillvalue=value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_fillvalue_that_is_not_finite(door, value):
    with refused(ValueError, "fillvalue", "finite"):
        door(IMAGE, TARGET, 3, boundary="fill", fillvalue=value)


@pytest.mark.parametrize("value", [2, np.float32(2), np.int64(2), np.array(2.0)], ids=lambda v: type(v).__name__)
def test_fillvalue_of_any_real_type(value):
    stats = accumulate(IMAGE, TARGET, 3, boundary="fill", fillvalue=value)
    assert type(stats.convention.fillvalue) is float and stats.convention.fillvalue == 2.0


@pytest.mark.parametrize("origin", [(1,), (1, 1, 1), 1.0, (0.5, 1), "1"], ids=repr)
def test_origin_that_is_no_tap(door, origin):
    with refused((TypeError, ValueError), "origin"):
        door(IMAGE, TARGET, (4, 3), boundary="fill", origin=origin)


@pytest.mark.parametrize("mode, target_shape", [("valid", (17, 29)), ("full", (23, 33))])
@pytest.mark.parametrize("declared", [True, False])
def test_origin_where_the_shapes_fix_it(door, mode, target_shape, declared):
    with refused(ValueError, "origin", mode):
        door(IMAGE, np.ones(target_shape), (4, 3), boundary="fill", origin=(3, 0), mode=mode if declared else None)


@pytest.mark.parametrize("workers", [0, -1, -8])
def test_too_few_workers(door, workers):
    with refused(ValueError, "workers", str(workers)):
        door(IMAGE, TARGET, 3, workers=workers)


@pytest.mark.parametrize("workers", [1.5, "2", [1]], ids=repr)
def test_workers_that_are_no_count(door, workers):
    with refused((TypeError, ValueError), "workers"):
        door(IMAGE, TARGET, 3, workers=workers)


def test_unknown_keywords(door):
    with pytest.raises(TypeError, match="boundery"):
        door(IMAGE, TARGET, 3, boundery="fill")


def test_conventions_are_keywords_only(door):
    with pytest.raises(TypeError, match="positional"):
        door(IMAGE, TARGET, 3, "same")


# ---- the forward operator has its own door --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image, kernel, error, word",
    [
        (IMAGE[0], np.ones((2, 3)), ValueError, "image"),
        (IMAGE, np.ones(3), ValueError, "kernel"),
        (IMAGE, np.ones((0, 3)), ValueError, "kernel"),
        (IMAGE[:0], np.ones((2, 3)), ValueError, "image"),
        (IMAGE.astype(str), np.ones((2, 3)), TypeError, "image"),
        (IMAGE, np.full((2, 3), "a"), TypeError, "kernel"),
    ],
)
def test_bad_input_of_apply_kernel(image, kernel, error, word):
    with refused(error, word):
        apply_kernel(image, kernel)


def test_valid_needs_a_kernel_that_fits():
    with refused(ValueError, "21x3", "20x31"):
        apply_kernel(IMAGE, np.ones((21, 3)), mode="valid")


def test_origin_of_apply_kernel():
    with refused(ValueError, "origin", "full"):
        apply_kernel(IMAGE, np.ones((4, 3)), origin=(3, 0), mode="full")


def test_residual_needs_a_matching_pair():
    fit = find_kernel(IMAGE, TARGET, (3, 4))
    with refused(ValueError, "target", "31", "30"):
        fit.residual(IMAGE, TARGET[:, :-1])


def test_choose_method_judges_too():
    with refused(TypeError, "shape"):
        kernelfit.choose_method((20, 31), "nonsense")
    with refused(ValueError, "shape"):
        kernelfit.choose_method((20, 31), (0, 4))


def test_nothing_was_changed_by_all_this():
    np.testing.assert_array_equal(IMAGE, np.random.default_rng(1).normal(size=(20, 31)))
    np.testing.assert_array_equal(TARGET, np.random.default_rng(2).normal(size=(20, 31)))


@pytest.mark.parametrize("call", [
    lambda image, **words: kernelfit.find_kernel(image, image, 3, **words),
    lambda image, **words: kernelfit.kernel_map(image, image, 3, 2, **words),
    lambda image, **words: kernelfit.accumulate_stream([(image, image)], 3, **words),
], ids=["find_kernel", "kernel_map", "accumulate_stream"])  # fmt: skip
def test_progress_is_judged_before_any_work(call):
    with pytest.raises(TypeError, match="got progress=1, need a function of"):
        call(np.random.default_rng(0).random((20, 30)), progress=1)


@pytest.mark.parametrize("door", ["accumulate_stream", "scale.accumulate"])
@pytest.mark.parametrize("words, complaint", [
    ({"every": "a"}, "got every='a', need a number of seconds"),
    ({"every": None}, "got every=None, need a number of seconds"),
    ({"every": True}, "got every=True, need a number of seconds"),
    ({"every": (1, 2)}, r"got every=\(1, 2\), need a number of seconds"),
    ({"checkpoint": 3}, "got checkpoint=3, need the name of a file, or None"),
    ({"checkpoint": ("a", "b")}, "need the name of a file, or None"),
])  # fmt: skip
def test_checkpoints_are_judged_before_any_work(door, words, complaint):
    image = np.random.default_rng(0).random((20, 30))
    if door == "scale.accumulate":
        pytest.importorskip("dask")
        call = kernelfit.scale.accumulate
    else:
        call = lambda image, target, *more, **words: kernelfit.accumulate_stream([(image, target)], *more, **words)  # noqa: E731
    with pytest.raises(TypeError, match=complaint):
        call(image, image, 3, **words)


@pytest.mark.parametrize("origin", ["", "3", [], (), (1, 2)])
def test_an_origin_of_signals_is_one_whole_number(origin):
    rng = np.random.default_rng(0)
    with pytest.raises((TypeError, ValueError), match="need one whole number"):
        kernelfit.find_kernel(rng.random(50), rng.random(50), 5, origin=origin)


@pytest.mark.parametrize("shape", [0, -1, (0, 9), (9, -3)])
def test_a_method_is_chosen_for_an_image_with_pixels(shape):
    with pytest.raises(ValueError, match="at least one pixel"):
        kernelfit.choose_method(shape, 5)


@pytest.mark.parametrize("made", [None, 3])
def test_a_stream_that_makes_no_pairs_is_refused(made):
    with pytest.raises(TypeError, match="need an iterable of"):
        kernelfit.accumulate_stream(lambda: made, (3, 4))


RAGGED = [[1.0, 2.0], [3.0]]


@pytest.mark.parametrize("call", [
    lambda: apply_kernel(np.ones((9, 9)), RAGGED), lambda: apply_kernel(RAGGED, np.ones((1, 2))),
    lambda: apply_kernel(np.ones(9), RAGGED), lambda: find_kernel(RAGGED, RAGGED, 1),
    lambda: find_kernel(np.ones(9), RAGGED, 3), lambda: kernelfit.accumulate_stream([(RAGGED, RAGGED)], 3),
    lambda: kernelfit.accumulate_stream([(np.ones(9), RAGGED)], 3), lambda: kernelfit.deconvolve(np.ones(9), RAGGED),
])  # fmt: skip
def test_rows_of_unlike_lengths_are_no_array(call):
    with pytest.raises(ValueError, match="no rectangular array|dimensions"):
        call()


def test_statistics_of_complex_numbers_that_determine_nothing():
    """Errors that are infinite stay so, and warn nobody."""
    image = np.zeros((9, 11), complex)
    fit = kernelfit.accumulate(image, image + 1j, (2, 3), background=1).solve()
    assert not fit.verdict.ok
    assert not np.isfinite(fit.background.stderr).all() or np.isfinite(fit.background.coefficients).all()


@pytest.mark.parametrize("name", ["photo.png", pathlib.Path("photo.png"), b"photo.png", ["a.png", "b.png"]], ids=str)
def test_the_name_of_a_file_is_no_image(name):
    with pytest.raises(TypeError, match="image of dtype .* need numbers; read the file first"):
        kernelfit.find_kernel(name, np.zeros((30, 40)), (3, 5))
    with pytest.raises(TypeError, match="target of dtype .* need numbers; read the file first"):
        kernelfit.find_kernel(np.ones((30, 40)), name, (3, 5))
    with pytest.raises(TypeError, match="image of dtype object, need numbers; give one"):
        kernelfit.find_kernel(None, np.zeros((30, 40)), (3, 5))


def test_an_error_does_not_print_a_whole_array():
    image, target = np.zeros((2, 30, 40))
    with pytest.raises(TypeError, match="^got shape of type ndarray, need an int or a pair") as caught:
        kernelfit.find_kernel(image, (3, 5), target)
    assert len(str(caught.value)) < 200


HUGE = 10**400


@pytest.mark.parametrize(
    "settings",
    [
        {"boundary": "fill", "fillvalue": HUGE},
        {"boundary": "fill", "fillvalue": -HUGE},
        {"image_noise": HUGE},
        {"noise": (HUGE, 1)},
        {"noise": (1, HUGE)},
        {"method": "wiener", "balance": HUGE},
        {"method": "wiener", "taper": HUGE},
    ],
)
def test_whole_numbers_beyond_all_floats(settings):
    image = np.random.default_rng(0).random((20, 23))
    with pytest.raises(ValueError, match="^got .*need"):
        find_kernel(image, image, (3, 4), **settings)
    with pytest.raises(ValueError, match="need a finite strength"):
        kernelfit.ConjugateGradient("identity", HUGE)


def test_an_end_beyond_all_floats_is_none():
    image = np.random.default_rng(0).random((20, 23))
    fit = find_kernel(image, image, (3, 4), saturated=(None, HUGE))
    np.testing.assert_array_equal(fit.kernel, find_kernel(image, image, (3, 4)).kernel)


@pytest.mark.parametrize("scale", [1e300, 1e-300, 1e160])
def test_weights_too_large_or_small_are_named(scale):
    rng = np.random.default_rng(0)
    image, weights = rng.random((20, 23)), rng.random((20, 23)) + 1
    with pytest.raises(ValueError, match="got weights of up to .*divide all of them by one number"):
        find_kernel(image, image[::-1], (3, 4), weights=weights * scale)
    good = [find_kernel(image, image[::-1], (3, 4), weights=weights * s).kernel for s in (1, 2.0**200, 2.0**-200)]
    np.testing.assert_allclose(good[1:], good[:1] * 2, rtol=1e-10)


@pytest.mark.parametrize(
    "variation", [10**9, HUGE, kernelfit.Polynomial(10**5), kernelfit.Spline(10**6), kernelfit.Spline((2, HUGE))]
)
def test_variation_finer_than_the_pixels(variation):
    image = np.random.default_rng(0).random((20, 23))
    with pytest.raises(ValueError, match="for images of 20 x 23 pixels, .*need a lower degree, or fewer knots"):
        find_kernel(image, image, (3, 4), variation=variation)
