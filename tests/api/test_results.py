"""A result as a thing: saved, read again, frozen, put into words."""

from dataclasses import fields, replace

import numpy as np
import pytest

import kernelfit
from kernelfit import Finding, KernelFit, Verdict, find_kernel


@pytest.fixture(params=["plain", "deficient", "valid"])
def fit(request):
    rng = np.random.default_rng(18)
    image = rng.normal(size=(26, 33))
    if request.param == "deficient":
        image = np.repeat(image[:, :1], 33, axis=1)
    if request.param == "valid":
        return find_kernel(image, rng.normal(size=(24, 30)), (3, 4))
    return find_kernel(
        image, rng.normal(size=(26, 33)), (3, 4), boundary="fill", fillvalue=0.5, origin=(2, 3), operation="correlation"
    )


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_a_saved_fit_comes_back(fit, kind, tmp_path):
    path = tmp_path / "fit.npz"
    fit.save(kind(path))
    back = KernelFit.load(kind(path))
    for field in fields(KernelFit):
        got, want = getattr(back, field.name), getattr(fit, field.name)
        assert type(got) is type(want), field.name
        if isinstance(want, np.ndarray):
            assert got.dtype == want.dtype and got.tobytes() == want.tobytes(), field.name
        else:
            assert got == want or (got != got and want != want), field.name
    for name in ("kernel", "stderr"):
        assert getattr(back, name).tobytes() == getattr(fit, name).tobytes()
    names = "rank condition rss r_squared noise_std n_pixels method method_reason convention findings verdict refined"
    for name in names.split():
        got, want = getattr(back, name), getattr(fit, name)
        assert type(got) is type(want) and (got == want or (got != got and want != want)), name  # NaN comes back as NaN
    assert back.covariance().tobytes() == fit.covariance().tobytes()
    assert back.summary() == fit.summary()
    image = np.random.default_rng(19).normal(size=(26, 33))
    np.testing.assert_array_equal(back.predict(image), fit.predict(image))
    assert [entry.name for entry in tmp_path.iterdir()] == ["fit.npz"]


def test_a_saved_fit_is_not_overwritten_unasked(fit, tmp_path):
    path = tmp_path / "fit.npz"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="fit.npz"):
        fit.save(path)
    assert path.read_bytes() == b"precious"
    fit.save(path, overwrite=True)
    assert KernelFit.load(path).kernel.tobytes() == fit.kernel.tobytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["fit.npz"]


@pytest.mark.parametrize(
    "content", ["text", "empty", "other npz", "object npz", "half", "all but the end", "statistics"]
)
def test_a_file_that_is_no_fit_is_refused(content, fit, tmp_path):
    path = tmp_path / "file.npz"
    fit.save(path)
    whole = path.read_bytes()
    path.unlink()
    if content == "text":
        path.write_text("kernel\n1 2 3\n")
    elif content == "empty":
        path.write_bytes(b"")
    elif content == "other npz":
        np.savez(path, kernel=np.eye(3))
    elif content == "object npz":
        np.savez(path, kernel=np.array([{}, None], dtype=object))
    elif content == "half":
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "all but the end":
        path.write_bytes(whole[:-30])
    elif content == "statistics":
        rng = np.random.default_rng(20)
        kernelfit.accumulate(*rng.normal(size=(2, 20, 31)), (3, 4)).save(path)
    with pytest.raises(ValueError, match="file.npz"):
        KernelFit.load(path)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        KernelFit.load(tmp_path / "nothing.npz")


def test_a_fit_is_frozen(fit):
    with pytest.raises(AttributeError):
        fit.rank = 1


def test_findings_are_findings(fit):
    assert isinstance(fit.findings, tuple)
    for finding in fit.findings:
        assert isinstance(finding, Finding) and isinstance(finding.verdict, Verdict) and finding.detail
    assert fit.verdict in [finding.verdict for finding in fit.findings] or (
        fit.verdict is Verdict.SOLVED and not fit.findings
    )


def test_a_summary_is_worth_reading(fit):
    text = fit.summary()
    assert "\n" in text and len(text) < 4000
    assert "3x4" in text or "3 x 4" in text
    for needed in (str(fit.n_pixels), str(fit.rank), fit.method, fit.convention.operation, fit.convention.mode):
        assert needed in text, needed
    for finding in fit.findings:
        assert finding.detail in text


@pytest.mark.slow
def test_what_to_do_in_this_case_is_said_instead_of_what_is_usual(tmp_path):
    """In words, pages, JSON and files, beside channels too."""
    rng = np.random.default_rng(0)
    fit = kernelfit.find_kernel(*rng.random((2, 20, 23)), (2, 3))
    own = kernelfit.Finding(kernelfit.Verdict.COLOURED_NOISE, "the figures", "do something else")
    fit = replace(fit, findings=(own,))
    fit.save(tmp_path / "fit.npz")
    again = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    assert again.findings == (own,)
    for words in (str(own), again.summary(), kernelfit.report.report_html(again, *rng.random((2, 20, 23)))):
        assert "do something else" in words and "take errors=" not in words and "--errors sandwich" not in words
    usual = kernelfit.Finding(kernelfit.Verdict.COLOURED_NOISE, "the figures")
    assert "errors='sandwich'" in str(usual) and usual.text == usual.verdict.value


@pytest.mark.parametrize("method", ["at", "polished"])
def test_what_a_method_made_is_reproduced_by_that_method(method, tmp_path):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, size=(46, 53)).astype(float)
    kernel = np.array([[0.25, 0.5, 0.0], [0.0, 0.0, 0.25]])
    target = kernelfit.apply_kernel(image, kernel, boundary="symm") + 0.01 * rng.normal(size=image.shape)
    varied = find_kernel(image, target, (2, 3), variation=1)
    made = varied.at(10.123456789, 20) if method == "at" else find_kernel(image, target, (2, 3)).polished()
    made.save(tmp_path / "made.npz")
    for one in (made, KernelFit.load(tmp_path / "made.npz")):
        again = eval(one.reproduce(), {"find_kernel": find_kernel, "image": image, "target": target})
        assert f".{method}(" in one.reproduce() and np.array_equal(again.kernel, made.kernel)
    assert made.at(3, 4).reproduce() == made.reproduce()
    if method == "at":
        image, target = image.ravel(), target.ravel()
        drifting = find_kernel(image, target, 3, variation=1).at(70)
        again = eval(drifting.reproduce(), {"find_kernel": find_kernel, "image": image, "target": target})
        assert np.array_equal(again.kernel, drifting.kernel)


@pytest.mark.parametrize("n", [-1, 2.5, True])
def test_only_whole_numbers_of_kernels_are_drawn(fit, n):
    with pytest.raises(ValueError, match="need a whole number of kernels"):
        fit.sample(n)


def test_a_target_of_nothing_is_not_said_to_be_cut_off():
    image = np.random.default_rng(4).integers(1, 255, size=(26, 33)).astype(np.uint8)
    found = {finding.verdict for finding in find_kernel(image, np.zeros_like(image), (3, 4)).findings}
    assert found == {Verdict.NO_SIGNAL}


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.longdouble])
def test_numbers_of_numpy_are_written_out(kind):
    rng = np.random.default_rng(0)
    image = rng.random((30, 33)) * 40 + 100
    target = image + rng.normal(size=image.shape)
    settings = {"image_noise": kind(0.5), "workers": np.int64(1), "errors": np.str_("sandwich")}
    fit = find_kernel(image, target, (2, 3), **settings)
    text = find_kernel(image, target, (2, 3), image_noise=0.5, workers=1, errors="sandwich").reproduce()
    if kind is not np.longdouble:  # which no number of Python's own is
        assert fit.reproduce() == text
    photons = find_kernel(image, target, (2, 3), noise=(kind(2), np.int16(3)))
    names = {"find_kernel": find_kernel, "image": image, "target": target, "noise": (kind(2), np.int16(3))}
    np.testing.assert_array_equal(eval(photons.reproduce(), names).kernel, photons.kernel)
    assert kind is np.longdouble or "np." not in photons.reproduce() and "(2.0, 3)" in photons.reproduce()
