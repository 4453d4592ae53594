"""The call that makes a filter, in SciPy, OpenCV, Pillow and scikit-image."""

from typing import Any

import numpy as np
import numpy.typing as npt

from . import filter_table as table
from .filter_families import OPENCV_TABLES, Family, Setting, opencv_reach, scipy_reach
from .filter_shapes import Grid

Array = npt.NDArray[np.float64]
_CLIPPED = "  # cut off at 0 and 255"
_ROUGHLY = "  # three boxes, not quite a Gaussian"
#: Filters that Pillow has a name for: the middle of their kernel, over the scale.
_PILLOW = {
    "BLUR": (((1, 1, 1, 1, 1), (1, 0, 0, 0, 1), (1, 0, 0, 0, 1), (1, 0, 0, 0, 1), (1, 1, 1, 1, 1)), 16),
    "DETAIL": (((0, -1, 0), (-1, 10, -1), (0, -1, 0)), 6),
    "EDGE_ENHANCE": (((-1, -1, -1), (-1, 10, -1), (-1, -1, -1)), 2),
    "EDGE_ENHANCE_MORE": (((-1, -1, -1), (-1, 9, -1), (-1, -1, -1)), 1),
    "FIND_EDGES": (((-1, -1, -1), (-1, 8, -1), (-1, -1, -1)), 1),
    "SHARPEN": (((-2, -2, -2), (-2, 32, -2), (-2, -2, -2)), 16),
    "SMOOTH": (((1, 1, 1), (1, 5, 1), (1, 1, 1)), 13),
    "SMOOTH_MORE": (((1, 1, 1, 1, 1), (1, 5, 5, 5, 1), (1, 5, 44, 5, 1), (1, 5, 5, 5, 1), (1, 1, 1, 1, 1)), 100),
}


def _n(value: float) -> str:
    return f"{value:.6g}"


def _any(taps: Array, origin: tuple[int, int], turned: bool, errors: Array) -> dict[str, str]:
    """Return calls that lay any kernel on an image; `taps` are a convolution's, `origin` is the tap over the pixel."""
    rows, cols = taps.shape
    if not (0 <= origin[0] < rows and 0 <= origin[1] < cols):
        return {}
    middle = (rows // 2, cols // 2)
    moved = tuple(m - o for m, o in zip(middle, origin, strict=True))
    if turned:  # the kernel is laid as it is: the tap over the pixel is the opposite one
        own = (rows - 1 - origin[0], cols - 1 - origin[1])
        back = tuple(o - m for m, o in zip(middle, own, strict=True))
        at = f", origin={back}" if any(back) else ""
        calls = {"scipy": f"scipy.ndimage.correlate(image, kernel{at})"}
        weights = "kernel"
    else:
        at = f", origin={tuple(-m for m in moved)}" if any(moved) else ""
        calls = {"scipy": f"scipy.ndimage.convolve(image, kernel{at})"}
        own, weights = (rows - 1 - origin[0], cols - 1 - origin[1]), "kernel[::-1, ::-1]"
    calls["opencv"] = f"cv2.filter2D(image, -1, {weights}, anchor=({own[1]}, {own[0]}))"
    for reach in (1, 2):
        low, high = (tuple(o + d for o in origin) for d in (-reach, reach + 1))
        if min(low) < 0 or high[0] > rows or high[1] > cols:
            continue
        near = taps[low[0] : high[0], low[1] : high[1]]
        clipped = _CLIPPED if near.sum() < 0.5 * np.abs(near).sum() else ""
        if np.abs(near).sum() < (1 - 1e-9) * np.abs(taps).sum():
            continue
        for name, (weights_of, scale) in _PILLOW.items():
            known = np.array(weights_of) / scale
            if known.shape == near.shape and bool((np.abs(near - known) <= 4 * errors.max()).all()):
                return {**calls, "pillow": f"image.filter(ImageFilter.{name}){clipped}"}
        listed = ", ".join(_n(v) for v in near[:, ::-1].ravel().tolist())  # Pillow counts its rows from below
        side = 2 * reach + 1
        return {**calls, "pillow": f"image.filter(ImageFilter.Kernel(({side}, {side}), [{listed}], scale=1)){clipped}"}
    return calls


def _gaussian(sigmas: tuple[float, ...], reach: tuple[int, ...]) -> dict[str, str]:
    (rows, cols), (down, across) = (sigmas[0], sigmas[-1]), (reach[0], reach[-1])
    sigma = _n(rows) if len(sigmas) == 1 else f"({_n(rows)}, {_n(cols)})"
    usual = (down, across) == (scipy_reach(rows), scipy_reach(cols))
    radius = "" if usual else f", radius={down if down == across else (down, across)}"
    second = "" if len(sigmas) == 1 else f", sigmaY={_n(rows)}"
    size = f"({2 * across + 1}, {2 * down + 1})"
    if (down, across) == (opencv_reach(rows), opencv_reach(cols)):
        size = "(0, 0)"
    blur = _n(rows) if len(sigmas) == 1 else f"({_n(cols)}, {_n(rows)})"
    calls = {
        "scipy": f"scipy.ndimage.gaussian_filter(image, {sigma}{radius})",
        "opencv": f"cv2.GaussianBlur(image, {size}, {_n(cols)}{second})",
        "pillow": f"image.filter(ImageFilter.GaussianBlur({blur})){_ROUGHLY}",
    }
    if usual:
        calls["scikit-image"] = f"skimage.filters.gaussian(image, {sigma}, preserve_range=True)"
    elif down == across:
        cut = f"truncate={_n(down / rows)}"
        if len(sigmas) == 1:
            calls["scikit-image"] = f"skimage.filters.gaussian(image, {sigma}, {cut}, preserve_range=True)"
    return calls


def _along(sigma: float, reach: int, axis: int) -> dict[str, str]:
    """Return the calls of a Gaussian along one axis."""
    usual, side = reach == scipy_reach(sigma), 2 * reach + 1
    size = f"(1, {side})" if axis == 0 else f"({side}, 1)"
    both, turned = (f"({_n(sigma)}, 0)", f"(0, {_n(sigma)})")[:: 1 if axis == 0 else -1]
    radius = "" if usual else f", radius={reach}"
    calls = {
        "scipy": f"scipy.ndimage.gaussian_filter1d(image, {_n(sigma)}, axis={axis}{radius})",
        "opencv": f"cv2.GaussianBlur(image, {size}, {_n(sigma)})",
        "pillow": f"image.filter(ImageFilter.GaussianBlur({turned})){_ROUGHLY}",
    }
    if usual:
        calls["scikit-image"] = f"skimage.filters.gaussian(image, {both}, preserve_range=True)"
    return calls


def _scaled(scale: float, **calls: tuple[str, float]) -> dict[str, str]:
    """Return calls, multiplied by what a tool's own scale lacks."""
    return {
        tool.replace("_", "-"): call if scale == own else f"{_n(scale / own)} * {call}"
        for tool, (call, own) in calls.items()
    }


def _fixed(name: str, setting: Setting, numbers: dict[str, float]) -> dict[str, str]:
    scale, axis = float(setting[1]), int(numbers.get("axis", 0))
    side, d = "vh"[1 - axis] if axis in (0, 1) else "", "1, 0" if axis else "0, 1"
    size, usual = int(numbers.get("size", 3)), numbers.get("order", 1) == 1 and "order_across" not in numbers
    if name == "sobel" and usual:
        more = f", ksize={size}" if size != 3 else ""
        calls = _scaled(scale, opencv=(f"cv2.Sobel(image, cv2.CV_64F, {d}{more})", 1.0))
        if size == 3:
            calls |= _scaled(scale, scipy=(f"scipy.ndimage.sobel(image, {axis})", 1.0),
                             scikit_image=(f"skimage.filters.sobel_{side}(image)", 0.25))  # fmt: skip
        return calls
    if name == "scharr":
        return _scaled(scale, opencv=(f"cv2.Scharr(image, cv2.CV_64F, {d})", 1.0),
                       scikit_image=(f"skimage.filters.scharr_{side}(image)", 1 / 16))  # fmt: skip
    if name == "prewitt":
        return _scaled(scale, scipy=(f"scipy.ndimage.prewitt(image, {axis})", 1.0),
                       scikit_image=(f"skimage.filters.prewitt_{side}(image)", 1 / 3))  # fmt: skip
    if name == "farid":
        return _scaled(scale, scikit_image=(f"skimage.filters.farid_{side}(image)", 1.0))
    if name == "laplacian" and numbers.get("neighbours") == 4:
        return _scaled(scale, scipy=("scipy.ndimage.laplace(image)", 1.0),
                       opencv=("cv2.Laplacian(image, cv2.CV_64F)", 1.0),
                       scikit_image=("skimage.filters.laplace(image)", -1.0))  # fmt: skip
    if name == "laplacian" and "size" in numbers:
        return _scaled(scale, opencv=(f"cv2.Laplacian(image, cv2.CV_64F, ksize={size})", 1.0))
    return {}


def _shift(family: Family, setting: Setting, numbers: dict[str, float]) -> dict[str, str]:
    kind, rows, cols = setting[0], numbers["rows"], numbers["cols"]
    a = numbers.get("a", 0.0)
    fine = all(abs(32 * at - round(32 * at)) < 0.1 for at in (rows, cols))  # OpenCV's shifts are so fine
    moved = (round(32 * at) / 32 for at in (cols, rows))
    matrix = "numpy.float64([[1, 0, {}], [0, 1, {}]]), image.shape[::-1]".format(*map(_n, moved))
    flag = {"linear": "LINEAR", "cubic": "CUBIC" if abs(a + 0.75) < 0.02 else "",
            "lanczos": "LANCZOS4" if numbers.get("lobes") == 4 else ""}.get(kind, "")  # fmt: skip
    calls = {"opencv": f"cv2.warpAffine(image, {matrix}, flags=cv2.INTER_{flag})"} if flag and fine else {}
    way = {"linear": "BILINEAR", "cubic": "BICUBIC" if abs(a + 1.0) < 0.02 else ""}.get(kind, "")
    if way:
        calls["pillow"] = (
            f"image.transform(image.size, Image.Transform.AFFINE, (1, 0, {_n(-cols)}, 0, 1, {_n(-rows)}), "
            f"Image.Resampling.{way})"
        )
    order = 1 if kind == "linear" else numbers.get("order")
    if order:
        calls["scipy"] = f"scipy.ndimage.shift(image, ({_n(rows)}, {_n(cols)}), order={int(order)}, mode='mirror')"
    return calls


def _smaller(name: str, setting: Setting, numbers: dict[str, float], stride: tuple[int, int]) -> dict[str, str]:
    down, across = stride
    scaled = name == "area" or setting[1] == stride
    size = f"(image.width // {across}, image.height // {down})"
    a = numbers.get("a", 0.0)
    way = {"area": "BOX", "bilinear": "BILINEAR", "bicubic": "BICUBIC" if abs(a + 0.5) < 0.02 else "",
           "lanczos": "LANCZOS" if numbers.get("lobes") == 3 else ""}[name] if scaled else ""  # fmt: skip
    calls = {"pillow": f"image.resize({size}, Image.Resampling.{way})"} if way else {}
    flag = "AREA" if name == "area" else ""
    if not scaled:
        flag = {"bilinear": "LINEAR", "bicubic": "CUBIC" if abs(a + 0.75) < 0.02 else "",
                "lanczos": "LANCZOS4" if numbers.get("lobes") == 4 else ""}[name]  # fmt: skip
    if flag:
        calls["opencv"] = f"cv2.resize(image, None, fx=1 / {across}, fy=1 / {down}, interpolation=cv2.INTER_{flag})"
    if name == "area":
        calls["scikit-image"] = f"skimage.transform.downscale_local_mean(image, ({down}, {across}))"
    return calls


def own_calls(
    family: Family, grid: Grid, setting: Setting, numbers: dict[str, float], stride: tuple[int, int]
) -> dict[str, str]:
    """Return the calls of tools that have a filter of their own for this one, of factor 1 and in its place."""
    most = max(grid.reach())
    theta = [numbers[name] for name in family.names]
    if family is table.GAUSSIAN or family is table.AXES:
        return _gaussian(tuple(theta), tuple(min(r, most) for r in setting))
    if family is table.OPENCV:
        size, (rows, cols) = f"({len(setting[1])}, {len(setting[0])})", setting[2:]
        if setting[0] == setting[1] and setting[0] in OPENCV_TABLES:
            return {"opencv": f"cv2.GaussianBlur(image, {size}, 0)"}
        sigmas = _n(rows) if rows == cols else f"{_n(cols or rows)}, sigmaY={_n(rows or cols)}"
        return {"opencv": f"cv2.GaussianBlur(image, {size}, {sigmas})  # of 8 bits"}
    if family in table.BOXES:
        radius = _n(theta[0]) if len(theta) == 1 else f"({_n(theta[1])}, {_n(theta[0])})"
        return {"pillow": f"image.filter(ImageFilter.GaussianBlur({radius}))"}
    if family is table.ALONG:
        return _along(theta[0], min(setting[0], most), setting[1])
    if family in (table.BOX, table.ROW, table.AREA) and all(side % 2 for side in setting) and stride == (1, 1):
        rows, cols = setting
        radius = _n((cols - 1) / 2) if rows == cols else f"({_n((cols - 1) / 2)}, {_n((rows - 1) / 2)})"
        return {
            "scipy": f"scipy.ndimage.uniform_filter(image, ({rows}, {cols}))",
            "opencv": f"cv2.blur(image, ({cols}, {rows}))",
            "pillow": f"image.filter(ImageFilter.BoxBlur({radius}))",
        }
    if family is table.SOFT_BOX:
        return {"pillow": f"image.filter(ImageFilter.BoxBlur(({_n((theta[1] - 1) / 2)}, {_n((theta[0] - 1) / 2)})))"}
    if family is table.BINOMIAL and setting in ((2, 2), (4, 4)):
        side = setting[0] + 1
        return {"opencv": "cv2.pyrDown(image)" if side == 5 and stride == (2, 2) else
                f"cv2.GaussianBlur(image, ({side}, {side}), 0)"}  # fmt: skip
    if family is table.DISC and numbers["radius"] == int(numbers["radius"]):
        disc = f"skimage.morphology.disk({int(numbers['radius'])})"
        return {"scikit-image": f"scipy.ndimage.convolve(image, {disc} / {disc}.sum())"}
    if family in table.GRADIENTS or family is table.LOGS[0]:
        reach, sigma = min(setting[0], most), theta[0]
        radius = "" if reach == scipy_reach(sigma) else f", radius={reach}"
        if family is table.LOGS[0]:
            return {"scipy": f"scipy.ndimage.gaussian_laplace(image, {_n(sigma)}{radius})"}
        return {"scipy": f"scipy.ndimage.gaussian_filter(image, {_n(sigma)}, order={setting[1]}{radius})"}
    if family is table.DOG:
        usual = all(min(scipy_reach(s), most) == min(r, most) for s, r in zip(theta, setting, strict=True))
        made = f"skimage.filters.difference_of_gaussians(image, {_n(theta[0])}, {_n(theta[1])})"
        return {"scikit-image": made} if usual else {}
    if family in table.FIXED_FAMILIES:
        return _fixed(family.name, setting, numbers)
    if family in table.SHIFTS:
        return _shift(family, setting, numbers)
    if (family in table.RESIZED or family is table.AREA) and stride != (1, 1):
        return _smaller(family.name, setting, numbers, stride)
    return {}


def unsharp(radius: float, amount: float, reach: int) -> dict[str, str]:
    """Return the calls of an unsharp mask."""
    blur = _gaussian((radius,), (reach,))
    calls = {
        "scipy": f"image + {_n(amount)} * (image - {blur['scipy']})",
        "opencv": f"cv2.addWeighted(image, {_n(1 + amount)}, {blur['opencv']}, {_n(-amount)}, 0)",
        "pillow": f"image.filter(ImageFilter.UnsharpMask({_n(radius)}, {round(100 * amount)}, 0)){_ROUGHLY}",
    }
    if reach == scipy_reach(radius):
        made = f"skimage.filters.unsharp_mask(image, {_n(radius)}, {_n(amount)}, preserve_range=True)"
        calls["scikit-image"] = made
    return calls


def calls_of(fit: Any, name: str, numbers: dict[str, float], taps: Array, problem: Any) -> dict[str, str]:
    """Return the calls that make a filter; `taps` are those of a convolution."""
    rows, cols = (o - problem.wide for o in problem.origin)
    calls = _any(taps, (rows, cols), problem.turned, problem.errors)
    (down, across), (row, col) = problem.stride, problem.offset
    if problem.stride != (1, 1):
        calls = {tool: f"{call}[{row}::{down}, {col}::{across}]" for tool, call in calls.items() if tool != "pillow"}
    in_place = all(c == o for c, o in zip(fit.grid.center, problem.origin, strict=True))
    resized = problem.stride != (1, 1) and fit.family.name in ("area", "bilinear", "bicubic", "lanczos")
    if fit.mode == "unit" and (in_place or resized or name == "shift"):
        own = own_calls(fit.family, fit.grid, fit.setting, numbers, problem.stride)
        if problem.stride != (1, 1) and not resized:
            own = {
                t: c if "pyrDown" in c else f"{c}[{row}::{down}, {col}::{across}]"
                for t, c in own.items()
                if t != "pillow"
            }
        calls |= own
    elif fit.mode == "blend" and fit.family is table.GAUSSIAN and name == "unsharp mask" and in_place:
        calls |= unsharp(numbers["radius"], numbers["amount"], min(fit.setting[0], max(fit.grid.reach())))
    elif fit.mode == "gain" and in_place and problem.stride == (1, 1):
        own = own_calls(fit.family, fit.grid, fit.setting, numbers, problem.stride)
        calls |= {t: f"{_n(numbers['gain'])} * {c}" for t, c in own.items() if t != "pillow" and "#" not in c}
    return calls
