"""Pictures, the report, and the bar: that they show what they should."""

import dataclasses
import html.parser
import io as std_io
import math
import re

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d

import kernelfit
from kernelfit import find_kernel
from kernelfit.analysis import residuals
from kernelfit.cli import progress
from kernelfit.plotting import overview, panels, report
from kernelfit.plotting.report import report_html, write_report
from kernelfit.plotting.text import advice

matplotlib = pytest.importorskip("matplotlib")

matplotlib.use("Agg")
KERNEL = np.array([[0.0, 0.1, 0.2], [0.4, 0.3, 0.0]])


@pytest.fixture(scope="module")
def noisy():
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (50, 64))
    target = convolve2d(image, KERNEL, mode="same") + rng.normal(0, 1, image.shape)
    return image, target, find_kernel(image, target, (2, 3))


@pytest.fixture(scope="module")
def smooth():
    rng = np.random.default_rng(0)
    image = gaussian_filter(rng.normal(size=(60, 70)), 4.0, mode="wrap")
    target = convolve2d(image, KERNEL, mode="same") + rng.normal(0, 1e-4, image.shape)
    return image, target, find_kernel(image, target, (9, 11))


@pytest.fixture
def closed():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def test_map_and_scale_fit_the_kernel(noisy, closed):
    _, _, fit = noisy
    picture = panels.kernel(fit).images[0]
    np.testing.assert_array_equal(picture.get_array(), fit.kernel)
    assert picture.get_cmap().name == "magma" and picture.norm.vmax == fit.kernel.max()
    signed = dataclasses.replace(fit, kernel=fit.kernel - 0.2)
    picture = panels.kernel(signed).images[0]
    assert picture.get_cmap().name == "RdBu_r" and picture.norm.vmin == -picture.norm.vmax


def test_origin_is_marked_where_it_is(noisy, closed):
    image, target, _ = noisy
    fit = find_kernel(image, target, (9, 12), origin=(3, 7))
    ax = panels.kernel(fit)
    assert {(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines} == {(7, 3)}


def test_small_kernels_carry_their_numbers(noisy, closed):
    _, _, fit = noisy
    texts = [float(text.get_text()) for text in panels.kernel(fit).texts]
    np.testing.assert_allclose(texts, fit.kernel.ravel(), atol=0.006)


def test_error_and_kernel_side_by_side(noisy, closed):
    _, _, fit = noisy
    left, right = panels.kernel_and_error(fit)
    assert left.figure is right.figure and left is not right
    np.testing.assert_array_equal(right.images[0].get_array(), fit.stderr)
    share = 100 * fit.stderr.max() / fit.kernel.max()
    assert f"{share:.2g} %" in right.get_title()


def test_cuts_go_through_the_largest_tap(noisy, closed):
    _, _, fit = noisy
    lines = {line.get_label(): line for line in panels.cuts(fit).lines}
    np.testing.assert_array_equal(lines["row 1"].get_ydata(), fit.kernel[1])
    np.testing.assert_array_equal(lines["column 0"].get_ydata(), fit.kernel[:, 0])
    np.testing.assert_array_equal(lines["row 1"].get_xdata(), np.arange(3) - fit.convention.origin[1])


def test_frequency_response(noisy, smooth, closed):
    _, _, fit = noisy
    ax = panels.frequency_response(fit)
    line = next(line for line in ax.lines if line.get_label() == "horizontal")
    at = np.array(line.get_xdata())
    expected = np.abs(np.exp(-2j * np.pi * np.outer(at, np.arange(3))) @ fit.kernel.sum(axis=0))
    np.testing.assert_allclose(line.get_ydata(), expected, atol=1e-12)
    assert "all of it determined" in ax.get_title()
    _, _, fit = smooth
    share = int(re.search(r"(\d+)% determined", panels.frequency_response(fit).get_title())[1])
    assert share < 60


def test_spectral_band_is_the_fits_own(noisy, closed):
    image, target, _ = noisy
    fit = find_kernel(image, target, (2, 3), method="wiener")
    assert f"{fit.spectrum.determined:.0%} determined" in panels.frequency_response(fit).get_title()


@pytest.mark.parametrize("mode", ["same", "valid", "full"])
@pytest.mark.parametrize("operation", ["convolution", "correlation"])
def test_window_is_the_residual(mode, operation):
    rng = np.random.default_rng(1)
    image = rng.normal(size=(30, 37))
    kernel = rng.normal(size=(3, 4))
    words = {"mode": mode, "operation": operation}
    origin = {"origin": (2, 0)} if mode == "same" else {}
    target = kernelfit.apply_kernel(image, kernel, **words, **origin)
    target += rng.normal(0, 0.1, target.shape)
    fit = find_kernel(image, target, (3, 4), **words, **origin)
    whole = fit.residual(image, target)
    inside = whole[np.isfinite(whole).any(axis=1)][:, np.isfinite(whole).any(axis=0)]
    np.testing.assert_allclose(residuals.window(fit, image, target), inside, atol=1e-9)
    part = residuals.window(fit, image, target, side=9)
    assert part.shape == (9, 9)
    rows, cols = [(n - 9) // 2 for n in inside.shape]
    np.testing.assert_allclose(part, inside[rows : rows + 9, cols : cols + 9], atol=1e-9)
    with pytest.raises(ValueError, match="need"):
        residuals.window(fit, image, target[:-1])


def test_window_takes_off_the_background(noisy):
    image, target, _ = noisy
    fit = find_kernel(image, target + np.linspace(0, 50, 64), (2, 3), background=1)
    whole = fit.residual(image, target + np.linspace(0, 50, 64))
    inside = whole[np.isfinite(whole).any(axis=1)][:, np.isfinite(whole).any(axis=0)]
    np.testing.assert_allclose(residuals.window(fit, image, target + np.linspace(0, 50, 64)), inside, atol=1e-9)


def test_autocorrelation_of_white_and_of_correlated_noise(closed):
    rng = np.random.default_rng(2)
    image = rng.normal(size=(120, 130))
    noise = rng.normal(size=image.shape)
    table = residuals.autocorrelation(noise)
    slow = [(noise[: 120 - i] * noise[i:]).sum() / (noise**2).sum() for i in range(3)]
    np.testing.assert_allclose(table[10:13, 10], slow, atol=2e-3)
    assert residuals.largest(table)[0] < 4 / math.sqrt(noise.size)
    for made, title in ((noise, "is white"), (gaussian_filter(noise, 1.0), "NOT white")):
        target = image + made
        fit = find_kernel(image, target, (3, 5))
        assert title in overview.residual_autocorrelation(fit, image, target).get_title()


def test_histogram_counts_outliers(noisy, closed):
    image, target, _ = noisy
    spoiled = target.copy()
    spoiled[20:22, 30:33] += 500
    fit = find_kernel(image, spoiled, (2, 3))
    ax = overview.residual_histogram(fit, image, spoiled)
    assert ax.get_title().startswith("6 of ")
    assert ax.get_yscale() == "log"


def test_strength_path(noisy, closed):
    image, target, plain = noisy
    fit = find_kernel(image, target, (7, 9), solver=kernelfit.Penalized())
    ax = panels.strength_path(fit)
    dashed = next(line for line in ax.lines if line.get_linestyle() == "--")
    assert dashed.get_xdata()[0] == fit.strength and ax.get_xscale() == "log"
    sparse = find_kernel(image, target, (5, 7), solver=kernelfit.Sparse())
    assert panels.strength_path(sparse).get_xlabel() == "number of taps"
    with pytest.raises(ValueError, match="no path"):
        panels.strength_path(plain)


@pytest.mark.slow
def test_one_figure_says_whether_to_believe(noisy, smooth, closed):
    image, target, fit = noisy
    figure = fit.plot(image, target)
    assert figure.get_suptitle().startswith("solved")
    assert len([ax for ax in figure.axes if ax.get_title()]) == 6
    assert len([ax for ax in fit.plot().axes if ax.get_title()]) == 4
    assert smooth[2].plot().get_suptitle().startswith("DOUBTFUL")
    with pytest.raises(ValueError, match="both"):
        fit.plot(image)


@pytest.mark.slow
def test_pictures_of_fits_without_errors_or_signal(noisy, closed):
    image, target, fit = noisy
    blind = dataclasses.replace(fit, root=None, typical_stderr=math.nan)
    blind.plot(image, target)
    flat = np.full_like(target, 3.0)
    find_kernel(image, flat, (2, 3)).plot(image, flat)
    zero = np.zeros_like(target)
    find_kernel(zero, zero, (2, 3)).plot(zero, zero)
    with pytest.raises(ValueError, match="takes them apart"):
        panels.kernel(dataclasses.replace(fit, kernel=np.zeros((2, 3, 3))))


# ---- the report ------------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """The elements of a page, checked for balance; what it fetches; its words."""

    EMPTY = {"meta", "link", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.words = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.links += [value for key, value in attrs if key in ("src", "href")]
        assert tag != "script"
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_report_stands_alone_and_says_it_all(noisy):
    image, target, fit = noisy
    page = Page(report_html(fit, image, target, title="a <b> & c", call="find_kernel(a < b)"))
    assert all(link.startswith("data:") for link in page.links)
    assert len([link for link in page.links if link.startswith("data:image/png")]) == 9
    for words in ("a <b> & c", "Solved", "find_kernel(a < b)", "FWHM along", f"{fit.noise_std:.4g}", "±"):
        assert words in page.words
    for tap in fit.kernel.ravel():
        assert f"{tap:.5g}" in page.words


def test_report_tells_what_to_do(smooth):
    image, target, fit = smooth
    words = Page("".join(report._verdicts({"": fit}, [residuals.window(fit, image, target)]))).words
    assert "Solved" not in words
    for finding in fit.findings:
        headline, meaning, steps = advice(finding)
        assert meaning in words and steps and all(step in words for step in steps)


def test_report_of_correlated_noise_doubts_the_errors_once(noisy):
    image, _, _ = noisy
    target = image + gaussian_filter(np.random.default_rng(3).normal(size=image.shape), 1.5)
    fit = find_kernel(image, target, 3)
    left = residuals.window(fit, image, target)
    heads = ["Coloured noise", "The residual is not white"]
    for found, expected in ((fit.findings, [True, False]), ((), [False, True])):
        words = Page("".join(report._verdicts({"": dataclasses.replace(fit, findings=found)}, [left]))).words
        assert [head in words for head in heads] == expected


@pytest.mark.slow
def test_report_names_background_and_pixels_left_out(noisy):
    image, target, _ = noisy
    spoiled = target + 5.0
    spoiled[10, 12] = np.nan
    fit = find_kernel(image, spoiled, (2, 3), nan="mask")
    rows = dict(report._figures(fit))
    assert rows["weights"] == fit.weighting and rows["note"] in fit.notes
    left = residuals.window(fit, image, spoiled)
    assert np.isnan(left).sum() == 1 and residuals.largest(residuals.autocorrelation(left))[0] < 1
    fit = find_kernel(image, target + 5.0, (2, 3), background=0)
    assert dict(report._figures(fit))["background of degree 0"].startswith(f"{fit.background.coefficients[0]:.5g} ±")


def test_report_is_written_whole_or_not_at_all(noisy, tmp_path, monkeypatch):
    image, target, fit = noisy
    monkeypatch.setattr(report, "report_html", lambda *_, **__: "<p>a page</p>")
    write_report(tmp_path / "r.html", fit, image, target)
    before = (tmp_path / "r.html").read_bytes()
    with pytest.raises(FileExistsError):
        write_report(tmp_path / "r.html", fit, image, target)
    assert (tmp_path / "r.html").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="html"):
        write_report(tmp_path / "r.txt", fit, image, target)


@pytest.mark.parametrize("verdict", kernelfit.Verdict)
def test_every_verdict_has_a_next_step(verdict):
    finding = None if verdict is kernelfit.Verdict.SOLVED else kernelfit.Finding(verdict, "detail")
    headline, meaning, steps = advice(finding)
    assert headline and meaning != verdict.value.partition(": ")[0]  # that of the page
    assert steps and all(len(step) > 10 and not set(step) & set("`[]") for step in steps)


@pytest.mark.slow
def test_notebook_shows_verdict_and_every_tap(noisy, smooth):
    _, _, fit = noisy
    text = fit._repr_html_()
    Page(text)
    assert "Solved" in text and text.count("<rect") == fit.kernel.size + 1
    assert f"row 1, column 0: {fit.kernel[1, 0]:.6g}" in text
    assert "Rank deficient" in smooth[2]._repr_html_() or "Ill conditioned" in smooth[2]._repr_html_()


# ---- the bar ---------------------------------------------------------------------------------------------------------


class Terminal(std_io.StringIO):
    def isatty(self):
        return True


def test_line_has_share_rate_and_time_left():
    text = progress.line("statistics", 3, 12, 2.0, 8_000_000)
    assert "25%" in text and "1 Mpixel/s" in text and "0:06 left" in text
    assert text.count("#") == 6 and text.count(".") >= 18
    assert "100%" in progress.line("statistics", 12, 12, 2.0, 8_000_000)


def test_bar_on_a_terminal_wipes_itself_away(monkeypatch):
    clock = iter(np.arange(0.0, 100.0, 0.5))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    stream = Terminal()
    with progress.Bar(1000, stream) as bar:
        for done in range(1, 4):
            bar("reading", done, 4)
        bar("reading", 4, 4)
    drawn = stream.getvalue().split("\r")
    assert any("reading" in text and "75%" in text for text in drawn)
    assert any("solving" in text for text in drawn)
    assert drawn[-1] == "" and drawn[-2].strip() == ""


def test_bar_in_a_pipe_and_quick_work_draw_nothing():
    pipe, terminal = std_io.StringIO(), Terminal()
    for stream in (pipe, terminal):
        with progress.Bar(1000, stream) as bar:
            bar("reading", 1, 2)
            if stream is pipe:
                bar.note("starting")
        assert stream.getvalue() == ""


def test_who_listens_is_told_instead_of_the_terminal(monkeypatch):
    clock = iter(np.arange(0.0, 100.0, 0.5))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    heard, stream = [], Terminal()
    with progress.told(lambda *words: heard.append(words)), progress.Bar(8_000_000, stream) as bar:
        bar.note("starting")
        for done in (1, 3, 4):
            bar("reading", done, 4)
    with progress.Bar(1000, std_io.StringIO()) as bar:
        bar.note("nobody listens any more")
    assert heard[0] == ("starting", None) and heard[-1] == ("reading: done; solving", None)
    assert ("reading  8 Mpixel/s  0:00 left", 0.75) in heard and not stream.getvalue()


def test_autocorrelation_stands_the_right_way_up(closed):
    """A residual that repeats itself down the columns and to the right, drawn over rows counted downwards."""
    noise = np.random.default_rng(3).normal(size=(120, 130))
    image = np.random.default_rng(4).normal(size=(120, 130))
    target = image + noise + 0.8 * np.roll(noise, (2, 3), (0, 1))
    ax = overview.residual_autocorrelation(find_kernel(image, target, (1, 2)), image, target)
    values, (left, right, bottom, top) = ax.images[0].get_array(), ax.images[0].get_extent()
    rows, cols = values.shape
    for row, col in ((2, 3), (-2, -3)):  # where the axes say that this lag is
        y, x = int((row - top) / (bottom - top) * rows), int((col - left) / (right - left) * cols)
        assert values[y, x] > 0.3
    assert ax.images[0].origin == "upper" and bottom > top and ax.get_ylim()[0] > ax.get_ylim()[1]


@pytest.fixture(scope="module")
def volume():
    rng = np.random.default_rng(0)
    image, taps = rng.uniform(0, 9, (9, 22, 31)), rng.normal(size=(3, 2, 4))
    taps[1, 0, 2] = 5.0
    target = kernelfit.apply_kernel(image, taps, boundary="symm") + 4 + rng.normal(0, 0.1, image.shape)
    return image, target, find_kernel(image, target, taps.shape, boundary="symm", background=0)


def test_cuts_and_projections_of_a_volume(volume, closed):
    _, _, fit = volume
    cuts = kernelfit.plot.orthogonal_cuts(fit)
    shown = [ax.images[0].get_array() for ax in cuts]
    for one, expected in zip(shown, (fit.kernel[1], fit.kernel[:, 0], fit.kernel[:, :, 2]), strict=True):
        np.testing.assert_array_equal(one, expected)
    assert [ax.get_title() for ax in cuts] == ["plane 1 of 3", "row 0 of 2", "column 2 of 4"]
    for axis, ax in enumerate(kernelfit.plot.maximum_projections(fit)):
        np.testing.assert_array_equal(np.abs(ax.images[0].get_array()), np.abs(fit.kernel).max(axis=axis))
    with pytest.raises(ValueError, match="need one of a volume"):
        kernelfit.plot.orthogonal_cuts(find_kernel(np.eye(9), np.eye(9), 3))


@pytest.mark.slow
def test_overview_and_report_of_a_volume(volume, closed):
    image, target, fit = volume
    figure = fit.plot(image, target)
    titles = [ax.get_title() for ax in figure.axes]
    assert any(title.startswith("plane 4: residual, 22 x 31 pixels") for title in titles)
    left = fit.residual(image, target)[4]
    shown = next(ax for ax in figure.axes if ax.get_title().startswith("plane 4")).images[0].get_array()
    np.testing.assert_allclose(shown, left / left.std(), atol=1e-9)
    assert any(title == "error, plane 1" for title in (ax.get_title() for ax in fit.plot().axes))
    page = report_html(fit, image, target, title="Beads", call="find it")
    assert "<h1>Beads</h1>" in page and "3 x 2 x 4 taps of a volume" in page and "find it" in page
    assert page.count("data:image/png;base64") == 1 and "background of degree 0" in page
    masked = find_kernel(image, target, (3, 2, 4), background=0, mask=np.arange(31) < 7)
    picture = next(a for a in masked.plot(image, target).axes if a.get_title().startswith("plane 4")).images[0]
    assert np.isnan(np.asarray(picture.get_array())[:, :7]).all()
