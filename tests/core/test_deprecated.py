"""Names that have changed still work, with a warning, and files that hold them are read."""

import numpy as np
import pytest

import kernelfit


def test_old_names_warn_and_give_the_same():
    rng = np.random.default_rng(3)
    image = rng.normal(size=(30, 41))
    kernel = rng.normal(size=(3, 5))
    target = kernelfit.apply_kernel(image, kernel, mode="valid") + 0.1 * rng.normal(size=(28, 37))
    fit = kernelfit.find_kernel(image, target, (3, 5), solver=kernelfit.Penalized("gradient"))
    stats = kernelfit.accumulate(image, target, (3, 5))
    renamed = [
        (fit, "freedom", fit.df_model),
        (fit, "spare", fit.df_resid),
        (fit.path, "freedom", fit.path.df_model),
        (stats, "terms", stats.supports),
        (kernelfit.compare_kernels(fit, kernel), "freedom", 15),
        (kernelfit.check_noise(image, target, fit), "uneven", 1.0),
    ]
    for record, old, value in renamed:
        with pytest.warns(DeprecationWarning, match=f"'{old}' is now called"):
            found = getattr(record, old)
        assert np.all(found == value) or old == "uneven" and found > 0


@pytest.mark.parametrize("kind", ["fit", "statistics"])
def test_files_with_old_names_are_read(tmp_path, kind):
    """The header of a file of an earlier version, made from one of today's."""
    rng = np.random.default_rng(4)
    image, target = rng.normal(size=(2, 30, 41))
    if kind == "fit":
        whole = kernelfit.find_kernel(image, target, (3, 5), solver=kernelfit.Penalized("gradient"))
    else:
        whole = kernelfit.accumulate(image, target, (3, 5))
    path = tmp_path / "now.npz"
    whole.save(path)
    with np.load(path) as file:
        arrays = {name.replace("path_df_model", "path_freedom"): file[name] for name in file.files}
    header = str(arrays["header"]).replace('"kernelfit": 2', '"kernelfit": 1')  # which has no checksum
    header = header.replace('"df_model"', '"freedom"').replace('"supports"', '"terms"')
    assert header != str(arrays["header"])
    np.savez(tmp_path / "old.npz", **{**arrays, "header": np.array(header)})
    back = type(whole).load(tmp_path / "old.npz")
    if kind == "fit":
        assert back.df_model == whole.df_model and np.array_equal(back.path.df_model, whole.path.df_model)
    else:
        assert back.supports == whole.supports and np.array_equal(back.gram, whole.gram)
