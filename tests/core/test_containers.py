"""Containers of other libraries: the numbers of plain arrays go in, and labels, units and masks come out right."""

import sys
import types

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal

import kernelfit
from helpers import assert_close
from kernelfit import Selection, apply_kernel, deconvolve, find_kernel, kernel_map
from kernelfit.core import containers
from kernelfit.imageio.kernels import write_kernel


def scene(shape=(30, 41), sides=(3, 4), noise=0.0):
    rng = np.random.default_rng(0)
    image, kernel = 100 * rng.random(shape), rng.normal(size=sides)
    target = scipy.signal.convolve2d(image, kernel, mode="same")
    return image, kernel, target + noise * rng.normal(size=target.shape)


# ---- xarray -------------------------------------------------------------------------------------------------------


@pytest.fixture
def xr():
    return pytest.importorskip("xarray")


def labelled(xr, array, dask=False):
    """Latitudes fall, longitudes rise, and each row has a name."""
    rows, cols = array.shape
    coords = {
        "lat": ("lat", 50 - 0.5 * np.arange(rows), {"units": "degrees_north"}),
        "lon": 10 + 0.25 * np.arange(cols),
        "station": ("lat", [f"s{i}" for i in range(rows)]),
        "area": (("lat", "lon"), np.arange(array.size).reshape(array.shape)),
    }
    if dask:
        array = pytest.importorskip("dask.array").from_array(array, chunks=(13, 17))
    return xr.DataArray(array, coords, ("lat", "lon"), name="sst", attrs={"units": "K"})


@pytest.mark.parametrize("dask", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("operation", ["convolution", "correlation"])
@pytest.mark.parametrize("mode", ["same", "valid", "full"])
def test_a_pixel_has_the_coordinates_of_the_one_under_the_origin(xr, mode, operation, dask):
    image, kernel, _ = scene()
    settings = {"mode": mode, "operation": operation, "stride": (2, 3), "offset": (1, 0)}
    whole = labelled(xr, image, dask)
    made = apply_kernel(whole, kernel, **settings)
    np.testing.assert_array_equal(made.values, apply_kernel(image, kernel, **settings))
    assert (made.dims, made.name, made.attrs) == (("lat", "lon"), "sst", {"units": "K"})
    assert made.lat.attrs == {"units": "degrees_north"}
    ramps = [np.broadcast_to(ramp, image.shape) for ramp in (1 + np.arange(30.0)[:, None], 1 + np.arange(41.0))]
    at_origin = np.zeros_like(kernel)
    at_origin[1, 1] = 1.0
    rows, cols = (apply_kernel(ramp, at_origin, **settings) - 1 for ramp in ramps)  # -1 beyond the edge
    middle = tuple(n // 2 for n in rows.shape)
    for there, at, unit in (
        (made.lat.values, rows[:, middle[1]], 50 - 0.5 * rows[:, middle[1]]),
        (made.lon.values, cols[middle[0]], 10 + 0.25 * cols[middle[0]]),
    ):
        assert_close(there[at >= 0], unit[at >= 0], 1e-12)
    assert_close(np.diff(made.lat), np.full(len(made.lat) - 1, -1.0), 1e-12)
    assert_close(np.diff(made.lon), np.full(len(made.lon) - 1, 0.75), 1e-12)
    assert ("station" in made.coords) == ("area" in made.coords) == (mode != "full")
    if mode != "full":
        assert made.station.values[2] == f"s{round(rows[2, 3])}"
        assert made.area.values[2, 3] == round(41 * rows[2, 3] + cols[2, 3])


def test_coordinates_go_round_through_a_fit(xr, tmp_path):
    image, kernel, target = scene()
    whole, made = labelled(xr, image), labelled(xr, target)
    plain = find_kernel(image, target, (3, 4), boundary="fill")
    fit = find_kernel(whole, made, (3, 4), boundary="fill")
    np.testing.assert_array_equal(fit.kernel, plain.kernel)
    assert fit.predict(whole).coords.equals(made.coords)
    left = fit.residual(whole, made)
    assert left.coords.equals(made.coords) and abs(left).max() < 1e-10
    assert abs(made - fit.predict(whole)).max() < 1e-10
    assert deconvolve(made, kernel).coords.equals(made.coords)
    assert fit.residual(whole, target).coords.equals(made.coords)
    assert isinstance(fit.residual(image, target), np.ndarray)
    taps = fit.to_xarray()
    assert taps.dims == ("lat_lag", "lon_lag") and taps.name == "kernel"
    assert_close(taps.lat_lag.values, [0.5, 0.0, -0.5], 1e-12)
    assert_close(taps.lon_lag.values, [-0.25, 0.0, 0.25, 0.5], 1e-12)
    np.testing.assert_array_equal(taps.stderr.values, fit.stderr)
    assert taps.lat_lag.attrs == {"units": "degrees_north"}
    assert plain.to_xarray().dims == ("row_lag", "column_lag")
    np.testing.assert_array_equal(plain.to_xarray().row_lag, plain.lags[0])
    np.testing.assert_array_equal(apply_kernel(whole, taps), apply_kernel(image, fit.kernel))
    fit.save(tmp_path / "fit.npz")
    again = kernelfit.KernelFit.load(tmp_path / "fit.npz")
    assert again.to_xarray().identical(taps) and again.predict(whole).identical(fit.predict(whole))


def test_what_was_cut_or_binned_keeps_its_own_coordinates(xr):
    """A kernel's coordinates are displacements, also where rows and columns were cut off, or pixels averaged."""
    image, kernel, target = scene((42, 60))
    whole = labelled(xr, image)
    cut = labelled(xr, target)[5:, :-7]
    fit = find_kernel(whole, cut)
    assert fit.convention.mode == "crop" and abs(cut - fit.predict(whole)).max() < 1e-10
    assert_close(fit.to_xarray().lat_lag.values, [0.5, 0.0, -0.5], 1e-12)
    small = whole.drop_vars(["station", "area"]).coarsen(lat=2, lon=3).mean()
    fit = find_kernel(whole, small, (2, 3), stride=(2, 3), offset=(1, 1))
    assert fit.predict(whole).lat.equals(small.lat)
    assert_close(fit.to_xarray().lat_lag.values, [0.25, -0.25], 1e-12)


@pytest.mark.slow
def test_maps_have_the_coordinates_of_the_field(xr):
    image, kernel, target = scene((60, 83), (2, 3))
    whole, made = labelled(xr, image), labelled(xr, target)
    table = kernel_map(whole, made, (2, 3), (2, 3)).to_xarray()
    plain = kernel_map(image, target, (2, 3), (2, 3))
    assert table.kernel.dims == ("lat", "lon", "lat_lag", "lon_lag")
    np.testing.assert_array_equal(table.kernel.values, plain.kernels)
    assert_close(table.lat.values, 50 - 0.5 * plain.centers[:, 0, 0], 1e-12)
    assert_close(table.lon.values, 10 + 0.25 * plain.centers[0, :, 1], 1e-12)
    assert set(table.verdict.values.ravel()) == {"solved"}
    assert list(plain.to_xarray().kernel.dims) == ["row", "column", "row_lag", "column_lag"]
    assert_close(plain.to_xarray().row.values, plain.centers[:, 0, 0], 1e-12)
    fit = find_kernel(whole, made, (2, 3), variation=1)
    assert fit.sum_map().coords.equals(whole.drop_vars(["station", "area"]).coords)
    assert_close(fit.width_map((2, 3)).lon.values, [10, 20.25, 30.5], 1e-12)
    assert fit.to_xarray().dims == ("function", "lat_lag", "lon_lag")
    assert_close(fit.at(7, 8).to_xarray().values, fit.at(7, 8).kernel, 1e-12)


def test_channels_volumes_and_signals_with_labels(xr):
    rng = np.random.default_rng(1)
    image = xr.DataArray(rng.random((2, 20, 31)), dims=("band", "y", "x"), coords={"band": ["red", "blue"]})
    mixed = xr.DataArray(
        np.stack([image[0] - image[1], image[1], image.sum("band")]),
        dims=("band", "y", "x"),
        coords={"band": ["a", "b", "c"]},
    )
    fit = find_kernel(image, mixed, (1, 2), channel_axis="band", channels="mixed")
    taps = fit.to_xarray()
    assert taps.dims == ("target_channel", "image_channel", "y_lag", "x_lag")
    assert_close(taps.sel(target_channel="a", image_channel="blue").values, [[-1, 0]], 1e-9)
    assert fit.predict(image).band.values.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="got channel_axis='colour', need .*: 'band', 'y', 'x'"):
        find_kernel(image, mixed, (1, 2), channel_axis="colour", channels="mixed")
    volume = xr.DataArray(rng.random((7, 9, 8)), dims=("z", "y", "x"), coords={"z": 2.0 * np.arange(7)})
    made = apply_kernel(volume, rng.random((2, 3, 1)), mode="valid")
    assert made.z.values.tolist() == [2.0, 4, 6, 8, 10, 12]
    fit = find_kernel(volume, made, (2, 3, 1))
    assert fit.to_xarray().z_lag.values.tolist() == [0.0, 2.0]
    assert fit.predict(volume).z.equals(made.z) and abs(fit.predict(volume) - made).max() < 1e-9
    times = np.datetime64("2020-01-01") + np.arange(300) * np.timedelta64(15, "m")
    x = xr.DataArray(rng.normal(size=300), dims="time", coords={"time": times})
    fit = find_kernel(x, x.shift(time=2, fill_value=0), lags=(0, 3))
    taps = fit.to_xarray()
    assert taps.dims == ("time_lag",)
    assert taps.time_lag.values[int(np.argmax(taps.data))] == np.timedelta64(30, "m")


def test_a_dataset_is_refused(xr):
    image, _, target = scene()
    with pytest.raises(TypeError, match="got image as a Dataset, need one of its arrays \\('sst'\\)"):
        find_kernel(labelled(xr, image).to_dataset(), target, 3)


# ---- astropy ------------------------------------------------------------------------------------------------------


@pytest.fixture
def nddata():
    return pytest.importorskip("astropy.nddata")


def sky():
    wcs = pytest.importorskip("astropy.wcs").WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crpix, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [20.5, 12.0], [10.0, 40.0]
    wcs.wcs.cd = [[-1e-4, 2e-5], [2e-5, 1e-4]]
    wcs.wcs.set()
    return wcs


@pytest.mark.parametrize(
    "kind",
    [
        "StdDevUncertainty",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("VarianceUncertainty", "InverseVariance")),
    ],
)
def test_masks_and_uncertainties_count_as_those_given_as_arrays(nddata, kind):
    units = pytest.importorskip("astropy.units")
    image, _, target = scene()
    rng = np.random.default_rng(2)
    std, mask = rng.uniform(0.5, 2, target.shape), rng.random(target.shape) < 0.03
    target += std * rng.normal(size=target.shape)
    target[mask], std[mask] = 1e6, 0.0
    with np.errstate(divide="ignore"):
        given = {"StdDevUncertainty": 1000 * std, "VarianceUncertainty": std**2, "InverseVariance": std**-2.0}[kind]
    unit = "mJy" if kind == "StdDevUncertainty" else None  # of its own, else that of the pixels
    noisy = getattr(nddata, kind)(given, unit=unit)
    whole = nddata.CCDData(image, unit="adu", wcs=sky(), meta={"OBJECT": "M 31"})
    made = nddata.CCDData(target, unit="Jy", wcs=sky(), mask=mask, uncertainty=noisy)
    weights = np.where(mask, 0, np.where(mask, 1, std) ** -2.0)
    fit, expected = find_kernel(whole, made, (3, 4)), find_kernel(image, target, (3, 4), weights=weights)
    assert_close(fit.kernel, expected.kernel, 1e-9)
    assert_close(fit.stderr, expected.stderr, 1e-9)
    assert fit.n_pixels == expected.n_pixels and 0.9 < fit.noise_std < 1.1
    several = find_kernel([whole, whole], [made, nddata.CCDData(made, uncertainty=noisy)], (3, 4))
    assert_close(several.kernel, expected.kernel, 1e-9)
    chosen = find_kernel(whole, made, (3, 4), selection=Selection(nan="mask"))
    assert_close(chosen.kernel, expected.kernel, 1e-9)
    streamed = kernelfit.accumulate_stream(iter([(whole, made)]), (3, 4)).solve()
    assert_close(streamed.kernel, expected.kernel, 1e-9)
    left = fit.residual(whole, made)
    assert type(left) is nddata.CCDData and left.unit == units.Jy and left.wcs is made.wcs
    np.testing.assert_array_equal(left.mask, mask | ~np.isfinite(fit.predict(image)))
    assert_close(left.data[~left.mask], (target - fit.predict(image))[~left.mask], 1e-9)
    seen = fit.predict(whole)
    assert (seen.unit, seen.header["OBJECT"]) == (units.Jy, "M 31")
    back = deconvolve(made, fit.kernel)
    assert back.unit == units.Jy and back.wcs is made.wcs and back.mask is None
    assert_close(back.data, deconvolve(target, fit.kernel, mask=mask), 1e-9)


@pytest.mark.parametrize(("mode", "first"), [("same", (1, 2)), ("valid", (2, 4)), ("full", (0, 1))])
def test_the_wcs_follows_the_pixels(nddata, mode, first):
    image, kernel, _ = scene()
    whole = nddata.CCDData(image, unit="adu", wcs=sky())
    made = apply_kernel(whole, kernel, mode=mode, stride=(2, 3), offset=(1, 2))
    x, y = 5, 4
    expected = whole.wcs.pixel_to_world_values(first[1] + 3 * x, first[0] + 2 * y)
    assert_close(np.array(made.wcs.pixel_to_world_values(x, y)), np.array(expected), 1e-12)
    assert_close(whole.wcs.wcs.crpix, [20.5, 12.0], 0)


def test_quantities(nddata):
    units = pytest.importorskip("astropy.units")
    image, kernel, target = scene()
    fit = find_kernel(image * units.adu, target * units.Jy, (3, 4), boundary="fill")
    np.testing.assert_array_equal(fit.kernel, find_kernel(image, target, (3, 4), boundary="fill").kernel)
    assert fit.labels.units == ("adu", "Jy") and fit.to_xarray().attrs["units"] == "(Jy) / (adu)"
    left = fit.residual(image * units.adu, 1000 * target * units.mJy)
    assert left.unit == units.Jy and abs(left.value).max() < 1e-9
    assert apply_kernel(image * units.m, kernel * units.s).unit == units.m * units.s
    assert deconvolve(target * units.m, kernel * units.s).unit == units.m / units.s
    with pytest.raises(ValueError, match="got image in s, need adu, in which the kernel was found"):
        fit.predict(image * units.s)
    with pytest.raises(ValueError, match="got targets in Jy and mJy, need one unit"):
        find_kernel([image, image], [target * units.Jy, target * units.mJy], (3, 4))
    masked = pytest.importorskip("astropy.utils.masked").Masked(target * units.Jy, mask=image > 95)
    assert find_kernel(image, masked, (3, 4)).n_pixels == find_kernel(image, target, (3, 4), mask=image > 95).n_pixels


def test_a_masked_pixel_of_the_image_masks_what_it_reaches(nddata):
    image, kernel, _ = scene()
    bad = np.zeros(image.shape, dtype=bool)
    bad[7, 9] = True
    made = apply_kernel(nddata.NDData(image, mask=bad), kernel)
    expected = np.zeros_like(bad)
    expected[6:9, 8:12] = True
    np.testing.assert_array_equal(made.mask, expected)
    assert_close(made.data[~expected], apply_kernel(image, kernel)[~expected], 1e-12)


def test_uncertainties_that_say_too_little_or_too_much(nddata):
    image, _, target = scene()
    std = np.ones_like(target)
    noted = find_kernel(nddata.NDData(image, uncertainty=nddata.StdDevUncertainty(std)), target, (3, 4))
    assert any("image's uncertainty is not used" in note for note in noted.notes)
    sure = nddata.NDData(target, uncertainty=nddata.StdDevUncertainty(std))
    for keywords in ({"weights": std}, {"noise": "poisson"}, {"selection": Selection(weights=std)}):
        with pytest.raises(ValueError, match="both say how noisy each pixel is; need one or the other"):
            find_kernel(image, sure, (3, 4), **keywords)
    sure.uncertainty.array[4, 5] = 0
    with pytest.raises(ValueError, match=r"got target with 1 uncertainties that are zero.*the first at \(4, 5\)"):
        find_kernel(image, sure, (3, 4))
    vague = nddata.NDData(target, uncertainty=nddata.UnknownUncertainty(std))
    with pytest.raises(ValueError, match="got target with an uncertainty of type 'unknown', need StdDev"):
        find_kernel(image, vague, (3, 4))


@pytest.mark.parametrize(
    ("places", "tables"), [([(3, 1), (5, 1)], True), ([(2, 2), (1, 3)], False), ([(-2, 1), (-4, 1)], True)]
)
def test_distortions_follow_the_pixels(nddata, places, tables):
    kinds = pytest.importorskip("astropy.wcs")
    wcs, rng = sky(), np.random.default_rng(0)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    powers = [
        np.where(np.add.outer(np.arange(4), np.arange(4)) == 3, 1e-5 * rng.normal(size=(4, 4)), 0) for _ in range(4)
    ]
    wcs.sip = kinds.Sip(*powers, [18.0, 11.0])
    if tables:
        values = [rng.normal(size=(9, 12)).astype(np.float32) for _ in range(2)]
        wcs.cpdis1, wcs.det2im2 = (
            kinds.DistortionLookupTable(one, (3.0, 2.0), (11.0, 7.0), (9.0, 8.0)) for one in values
        )
    moved = containers._moved(wcs, places)
    y, x = np.mgrid[2:9, 3:12].astype(float)
    expected = wcs.all_pix2world(places[1][0] + places[1][1] * x.ravel(), places[0][0] + places[0][1] * y.ravel(), 0)
    assert_close(np.array(moved.all_pix2world(x.ravel(), y.ravel(), 0)), np.array(expected), 1e-10)
    plain = np.array(wcs.wcs_pix2world(x.ravel(), y.ravel(), 0)) - np.array(wcs.all_pix2world(x.ravel(), y.ravel(), 0))
    assert np.abs(plain).max() > 1e-6
    assert_close(wcs.sip.crpix, [18.0, 11.0], 0)


@pytest.mark.slow
def test_differences_keep_wcs_and_unit(nddata):
    units = pytest.importorskip("astropy.units")
    rng = np.random.default_rng(5)
    stars = 900.0 * (rng.random((60, 70)) > 0.97)
    blurred = [scipy.ndimage.gaussian_filter(stars, s) + rng.normal(size=stars.shape) for s in (1.6, 1.0)]
    noisy = nddata.StdDevUncertainty(np.ones(stars.shape))
    science = nddata.CCDData(blurred[0], unit="adu", wcs=sky(), meta={"OBJECT": "M 31"}, uncertainty=noisy)
    found = kernelfit.subtract(science, nddata.CCDData(blurred[1], unit="adu", uncertainty=noisy), 9)
    made = found.as_science()
    assert type(made) is nddata.CCDData and made.wcs is science.wcs and made.unit == units.adu
    assert made.header["OBJECT"] == "M 31"
    np.testing.assert_array_equal(made.mask, found.mask)
    np.testing.assert_array_equal(made.uncertainty.array, found.variance)
    assert kernelfit.subtract(blurred[0], blurred[1], 9).as_science() is not None


@pytest.mark.slow
def test_a_kernel_in_fits_is_one_for_others(tmp_path):
    """Photutils places it as a star of one count; astropy lays it on an image as we do."""
    fits = pytest.importorskip("astropy.io.fits")
    image, _, _ = scene()
    y, x = np.mgrid[-3:4, -2:3]
    kernel = np.exp(-(y**2 + (x - 0.3) ** 2) / 3)
    kernel /= kernel.sum()
    fit = find_kernel(image, apply_kernel(image, kernel), kernel.shape, boundary="fill")
    write_kernel(tmp_path / "kernel.fits", fit)
    read, header = fits.getdata(tmp_path / "kernel.fits", header=True)
    assert_close(read, kernel, 1e-9)
    assert header["KFMODE"] == "same"
    convolved = pytest.importorskip("astropy.convolution").convolve(
        image, read, boundary="fill", normalize_kernel=False
    )
    assert_close(convolved, apply_kernel(image, kernel), 1e-9)
    psf = pytest.importorskip("photutils.psf").ImagePSF(read, x_0=20, y_0=14)
    stamp = psf(*np.meshgrid(np.arange(41.0), np.arange(30.0)))
    assert_close(stamp[11:18, 18:23], kernel, 1e-9)


# ---- pandas -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pd():
    return pytest.importorskip("pandas")


def test_series_keep_their_index(pd, tmp_path):
    rng = np.random.default_rng(3)
    x = pd.Series(rng.normal(size=400), pd.date_range("2020", periods=400, freq="h", name="when"), name="rain")
    y = x.rolling(3).mean().fillna(0.0).rename("flow")
    fit, plain = find_kernel(x, y, lags=(0, 4)), find_kernel(x.to_numpy(), y.to_numpy(), lags=(0, 4))
    np.testing.assert_array_equal(fit.kernel, plain.kernel)
    seen = fit.predict(x)
    pd.testing.assert_index_equal(seen.index, x.index)
    np.testing.assert_array_equal(seen, plain.predict(x.to_numpy()))
    assert fit.residual(x, y).name == "flow"
    assert fit.to_dataframe().shape[0] == 5
    longer = apply_kernel(x, [1.0, 2.0, 3.0], mode="full")
    assert longer.index[0] == pd.Timestamp("2019-12-31 23:00") and len(longer) == 402 and longer.index.name == "when"
    gaps = x.astype("Float64")
    gaps.iloc[[5, 50]] = pd.NA
    some = find_kernel(x, gaps, lags=(0, 2), nan="mask")
    assert some.n_pixels == 396 and abs(some.kernel[0] - 1) < 1e-9
    with pytest.raises(ValueError, match="whose index differs"):
        find_kernel(x, y.set_axis(y.index[::-1]), lags=(0, 4))
    fit.save(tmp_path / "fit.npz")
    pd.testing.assert_series_equal(kernelfit.KernelFit.load(tmp_path / "fit.npz").predict(x), seen)


def test_times_of_a_zone_and_the_default_index(pd):
    rng = np.random.default_rng(5)
    when = pd.date_range("2026-03-28", periods=300, freq="h", tz="Europe/Berlin", name="when")  # an hour is missing
    x = pd.Series(rng.normal(size=300), when)
    fit = find_kernel(x, x.shift(1, fill_value=0.0), lags=(0, 2))
    assert fit.to_xarray().when_lag.values.astype("timedelta64[h]").astype(int).tolist() == [0, 1, 2]
    longer = apply_kernel(x, [1.0, 2.0, 3.0], mode="full").index
    assert longer.equals(pd.date_range("2026-03-27 23:00", periods=302, freq="h", tz="Europe/Berlin"))
    late = x.set_axis(when.tz_convert("Asia/Tokyo"))  # the same moments
    np.testing.assert_array_equal(find_kernel(x, late, lags=(0, 2)).kernel, find_kernel(x, x, lags=(0, 2)).kernel)
    plain = x.reset_index(drop=True)
    for other in (plain.set_axis(range(5, 305)), x):
        with pytest.raises(ValueError, match=r"whose index differs .*need the same"):
            find_kernel(plain, other, lags=(0, 2))
        with pytest.raises(ValueError, match="whose index differs"):
            find_kernel([plain, plain], [plain, other], lags=(0, 2))
    find_kernel(plain, x.to_numpy(), lags=(0, 2))


def test_columns_of_tables_are_channels(pd):
    rng = np.random.default_rng(4)
    x = pd.DataFrame(rng.normal(size=(300, 2)), columns=["left", "right"], index=np.arange(300) * 0.5)
    y = pd.DataFrame({"u": x["left"].shift(1, fill_value=0), "v": x["right"] - x["left"], "w": x["right"]})
    fit = find_kernel(x, y, lags=(0, 2), channels="mixed")
    plain = find_kernel(x.to_numpy(), y.to_numpy(), lags=(0, 2), channels="mixed", channel_axis=1)
    np.testing.assert_array_equal(fit.kernel, plain.kernel)
    seen = fit.predict(x)
    assert list(seen.columns) == ["u", "v", "w"]
    pd.testing.assert_frame_equal(seen[2:], y[2:])
    one = find_kernel(x, y["v"], lags=(0, 2), channels="mixed")
    assert one.kernel.shape == (1, 2, 3)
    pd.testing.assert_series_equal(one.predict(x)[2:], y["v"][2:], check_names=False)
    assert abs(one.residual(x, y["v"])[2:]).max() < 1e-9
    assert one.to_xarray().sel(image_channel="right").index_lag.values.tolist() == [0.0, 0.5, 1.0]
    separate = find_kernel(x, x, lags=(0, 1), channels="separate")
    assert separate.predict(x).columns.equals(x.columns)
    assert find_kernel(pd.DataFrame(scene()[0]), scene()[2], (3, 4)).kernel.shape == (3, 4)


# ---- tensors, and what lies elsewhere -------------------------------------------------------------------------------


class Tensor:
    """As much of a tensor of PyTorch as is looked at."""

    def __init__(self, array, device="cpu", requires_grad=False):
        self.array, self.requires_grad = array, requires_grad
        self.device, self.shape, self.dtype = types.SimpleNamespace(type=device), array.shape, array.dtype

    def resolve_conj(self):
        return self

    def resolve_neg(self):
        return self

    def numpy(self):
        if self.array.dtype == np.float16:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


@pytest.fixture
def tensors(monkeypatch):
    monkeypatch.setattr(Tensor, "__module__", "torch")
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(from_numpy=Tensor))


def test_tensors_go_in_and_come_out(tensors):
    image, kernel, target = scene()
    made = apply_kernel(Tensor(image), Tensor(kernel))
    assert type(made) is Tensor
    np.testing.assert_array_equal(made.array, apply_kernel(image, kernel))
    fit = find_kernel(Tensor(image), Tensor(target), (3, 4), mask=Tensor(image > 99))
    np.testing.assert_array_equal(fit.kernel, find_kernel(image, target, (3, 4), mask=image > 99).kernel)
    assert type(fit.predict(Tensor(image))) is type(fit.residual(Tensor(image), Tensor(target))) is Tensor
    assert type(fit.predict(image)) is np.ndarray and type(fit.kernel) is np.ndarray
    assert type(deconvolve(Tensor(target), kernel)) is Tensor
    assert type(apply_kernel(Tensor(image[0]), kernel[0])) is Tensor


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"requires_grad": True}, r"requires grad, .*; pass target\.detach\(\)"),
        ({"device": "cuda"}, r"need one in main memory; pass target\.cpu\(\)"),
    ],
)
def test_tensors_that_cannot_be_read_are_refused(tensors, fields, text):
    image, _, target = scene()
    with pytest.raises(TypeError, match=text):
        find_kernel(image, Tensor(target, **fields), (3, 4))
    with pytest.raises(TypeError, match=r"unsupported ScalarType.*pass target\.to_dense\(\) or target\.float\(\)"):
        find_kernel(image, Tensor(target.astype(np.float16)), (3, 4))


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("cupy", r"cupy\.asnumpy\(image\)"),
        ("jaxlib._jax", r"numpy\.asarray\(image\)"),
        ("numba.cuda", r"a copy of image in main memory"),
        ("tensorflow.python", r"image\.numpy\(\)"),
        ("unknown", r"a copy of image in main memory"),
    ],
)
def test_arrays_that_lie_elsewhere_are_refused(module, remedy):
    device = {"__dlpack_device__": lambda self: (2, 0)} if module == "unknown" else {"__cuda_array_interface__": {}}
    fields = {"__module__": module, "shape": (30, 41), "dtype": np.dtype(float), **device}
    image, target = type("Array", (), fields)(), scene()[2]
    with pytest.raises(TypeError, match=f"got image as {module.split('.')[0]}.Array, need an array of NumPy.*{remedy}"):
        find_kernel(image, target, (3, 4))
    with pytest.raises(TypeError, match=remedy):
        apply_kernel(image, np.ones((2, 3)))
    with pytest.raises(TypeError, match=remedy):
        kernelfit.audit(image, target, np.ones((2, 3)))


def test_statistics_keep_the_labels(tmp_path):
    xarray = pytest.importorskip("xarray")
    rng = np.random.default_rng(0)
    coordinates = {"lat": 0.5 * np.arange(20), "lon": 10 - 0.25 * np.arange(23)}
    image = xarray.DataArray(rng.random((20, 23)), dims=("lat", "lon"), coords=coordinates)
    target = 2 * image + 0.1 * rng.random((20, 23))
    stats = kernelfit.accumulate(image, target, (2, 3))
    stats.save(tmp_path / "stats.npz")
    again = kernelfit.NormalStats.load(tmp_path / "stats.npz")
    wanted = kernelfit.find_kernel(image, target, (2, 3)).to_xarray()
    for one in (stats, again, again * 0.5 + stats):
        found = one.solve().to_xarray()
        assert found.dims == wanted.dims == ("lat_lag", "lon_lag")
        for name in found.dims:
            np.testing.assert_allclose(found[name], wanted[name])
    bands = xarray.concat([image, image**2], "band")
    several = kernelfit.accumulate(bands, 2 * bands, (2, 3), channel_axis="band", channels="separate")
    assert several.solve().to_xarray().dims[-2:] == ("lat_lag", "lon_lag")
    assert kernelfit.accumulate(image.values, target.values, (2, 3)).labels is None
