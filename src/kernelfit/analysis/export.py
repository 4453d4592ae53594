"""A kernel as text that other tools run: Python source, scripts of the shell, a macro, and a matrix."""

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.estimate import Estimate, lags_of, require_real
from ..core.geometry import Convention, leading
from ..core.labels import Axis, Labels, places_of
from .channel_split import split_channels
from .integers import as_integers

Array = npt.NDArray[np.float64]
TOOLS = ("scipy", "opencv", "torch", "imagemagick", "ffmpeg", "gimp", "imagej", "latex")
#: The ends of the files' names.
SUFFIXES = {"scipy": ".py", "opencv": ".py", "torch": ".py", "imagemagick": ".sh", "ffmpeg": ".sh"}
SUFFIXES |= {"gimp": ".sh", "imagej": ".ijm", "latex": ".tex"}
_NUMPY_PAD = {"fill": "constant", "wrap": "wrap", "symm": "symmetric", "mirror": "reflect", "nearest": "edge"}
_PYTHON = '''"""What kernelfit found: {about}."""

import numpy
{imports}

KERNEL = numpy.array({taps})  # laid on the image as it is (a correlation){axes}


def apply(image):
    """Return what the kernel makes of an image of {dimensions}, in double precision{edge}."""
    image = numpy.asarray(image, dtype=numpy.float64)
{channels}


def laid(image, kernel):
    """Return what a kernel makes of a plane."""
    (top, left), (rows, cols) = {before}, kernel.shape
    height, width = image.shape[0]{grow_rows}, image.shape[1]{grow_cols}
    below, right = height + rows - 1 - top - image.shape[0], width + cols - 1 - left - image.shape[1]
    image = numpy.pad(image, [(max(top, 0), max(below, 0)), (max(left, 0), max(right, 0))], mode="{pad}"{fill})
{body}
    return made{stride}
'''
_BODIES = {
    "scipy": ("import scipy.signal", '    made = scipy.signal.correlate(image, kernel, mode="valid")'),
    "opencv": (
        "import cv2",
        "    made = cv2.filter2D(image, cv2.CV_64F, kernel, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)\n"
        "    made = made[: image.shape[0] - rows + 1, : image.shape[1] - cols + 1]",
    ),
    "torch": (
        "import torch",
        "    weight = torch.from_numpy(kernel)[None, None]  # (out channels, in channels / groups, rows, cols)\n"
        "    made = torch.nn.functional.conv2d(torch.from_numpy(image)[None, None], weight, padding=0, groups=1)\n"
        "    made = made[0, 0].numpy()",
    ),
}
#: What is made of the channels by one kernel for all, one for each, and one from each to each.
_CHANNELS = {
    "shared": "[laid(plane, KERNEL) for plane in planes]",
    "separate": "[laid(plane, kernel) for plane, kernel in zip(planes, KERNEL, strict=True)]",
    "mixed": "[sum(laid(plane, kernel) for plane, kernel in zip(planes, row, strict=True)) for row in KERNEL]",
}
_SHELL = """#!/bin/sh
# What kernelfit found: {about}.{edge}
# Use: sh {tool}.sh IMAGE RESULT
{command}
"""
#: GIMP's own filter has 5 x 5 taps. A larger kernel is a sum of such blocks: sum_b K_b(a, c) f(i + a, j + c), where
#: f moved by the middle of the block b takes the place of f. All is done on 32-bit floats of the values in the file
#: ("gamma"), not on linear light, to which GIMP else turns, and where no kernel would make this target.
_GIMP = r"""#!/bin/sh
# What kernelfit found: {about}.{edge}
# Use: sh gimp.sh IMAGE RESULT, with GIMP 2.10. RESULT has 16 bits and no transparency.
# GIMP lays 5 x 5 taps on an image, so {blocks}. It works on the values in the file, not on linear light.
quoted() {{ printf '"%s"' "$(printf %s "$1" | sed 's/[\\"]/\\&/g')"; }}
[ -r "$1" ] || {{ echo "got no image $1" >&2; exit 1; }}
said=$("$(command -v gimp-console || command -v gimp)" -i -d -f -s -n -b "
(define image (car (gimp-file-load RUN-NONINTERACTIVE $(quoted "$1") $(quoted "$1"))))
(gimp-image-undo-disable image)
(if (= (car (gimp-image-base-type image)) INDEXED) (gimp-image-convert-rgb image))
(gimp-image-convert-precision image PRECISION-FLOAT-GAMMA)
(define whole (car (gimp-image-flatten image)))
(define (lay right down mode added matrix)
  (let ((layer (car (gimp-layer-copy whole FALSE))))
    (gimp-image-insert-layer image layer 0 0)
    (gimp-drawable-offset layer TRUE 0 right down)
    (plug-in-convmatrix RUN-NONINTERACTIVE image layer 25 matrix 0 1 added 5 #(1 1 1 1 1) {border})
    (gimp-layer-set-mode layer mode)
    (gimp-layer-set-blend-space layer LAYER-COLOR-SPACE-RGB-PERCEPTUAL)
    (gimp-layer-set-composite-space layer LAYER-COLOR-SPACE-RGB-PERCEPTUAL)))
{lines}
(gimp-image-remove-layer image whole)
(define made (car (gimp-image-flatten image)))
(gimp-image-convert-precision image PRECISION-U16-GAMMA)
(gimp-file-save RUN-NONINTERACTIVE image made $(quoted "$2") $(quoted "$2"))
" -b "(gimp-quit 1)" 2>&1)
case $said in *"execution error"*) echo "$said" >&2; exit 1 ;; esac
"""
#: What ImageMagick calls what lies beyond the edge; "mirror", which leaves the outermost pixel out, it has not.
_VIRTUAL_PIXELS = {"fill": "black", "wrap": "tile", "symm": "mirror", "nearest": "edge", None: "edge"}


def export(fit: Estimate, tool: str) -> str:
    """Return text that lays a kernel on an image in another tool; see `KernelFit.export`."""
    if tool not in TOOLS:
        raise ValueError(f"got tool={tool!r}, need one of {', '.join(map(repr, TOOLS))}")
    require_real(fit)
    conv, several = fit.convention, fit.kernel.ndim > 2 and fit.convention.ndim == 2
    if conv.field is not None:
        raise ValueError(
            "got a kernel that varies over the image, need one that is the same everywhere: fit.at(row, col)"
        )
    if (fit.kernel.ndim != 2 and not several) or (several and fit.channel_axis is None):
        raise ValueError(f"got kernels of shape {fit.kernel.shape}, need one of two dimensions, or a fit of channels")
    if several and tool not in (*_BODIES, "latex"):
        raise ValueError(
            f"got {' x '.join(map(str, fit.kernel.shape[:-2]))} kernels for {tool!r}, which lays one on all channels; "
            f"export to {', '.join(map(repr, _BODIES))}, or each of kernelfit.split_channels(fit) for a channel alone "
            "(kernelfit export --plane)"
        )
    if fit.curve is not None and tool != "latex":
        raise ValueError(
            "got a fit with a curve, which no kernel makes; make light of the values by fit.curve, and export "
            "dataclasses.replace(fit, curve=None)"
        )
    if fit.registration is not None and tool != "latex":
        raise ValueError(
            "got a fit with a motion, which no kernel lays on an image; move the image by fit.registration.matrix, and "
            "export dataclasses.replace(fit, registration=None)"
        )
    if conv.ndim == 1 and tool != "latex":
        raise ValueError(
            f"got a kernel of one dimension, need two for {tool!r}: numpy.convolve takes fit.kernel as it is"
        )
    inside = all(0 <= o < n for o, n in zip(conv.origin, fit.kernel.shape[-2:], strict=False))
    if conv.mode not in ("same", "valid", "full") or not inside:
        raise ValueError(
            f"got mode={conv.mode!r}, origin={conv.origin}, need another mode than 'crop', and an origin inside"
        )
    taps = fit.kernel[..., ::-1, ::-1] if conv.operation == "convolution" else fit.kernel
    if tool == "latex":
        every = {name: _latex(one) for name, one in (split_channels(fit) if several else {"": fit}).items()}
        return "\n".join(f"% {name}\n\\[\n{one}\n\\]" if several else one for name, one in every.items())
    return _python(fit, taps, tool) if tool in _BODIES else _script(fit, taps, tool)


def to_dataframe(fit: Estimate) -> Any:
    """Return a pandas table with a row for each tap; see `KernelFit.to_dataframe`."""
    try:
        import pandas as pd
    except ImportError:
        raise ImportError("got no pandas, need it for a table; pip install pandas") from None
    lags = fit.lags if isinstance(fit.lags, tuple) else (fit.lags,)
    places = {1: ("lag",), 2: ("row", "column")}.get(len(lags), ("plane", "row", "column"))
    more = fit.kernel.ndim - len(lags)
    names = (*{0: (), 1: ("channel",)}.get(more, ("target_channel", "image_channel")), *places)
    axes = [np.arange(n) for n in fit.kernel.shape[:more]]
    low, high = fit.confidence(0.95)
    index = pd.MultiIndex.from_product([*axes, *lags], names=names)
    values = {"tap": fit.kernel, "stderr": fit.stderr, "low": low, "high": high}
    return pd.DataFrame({name: array.ravel() for name, array in values.items()}, index=index).reset_index()


def import_xarray() -> Any:
    """Return xarray, or say that it is not installed."""
    try:
        import xarray
    except ImportError:
        raise ImportError("got no xarray, need it for arrays with labels; pip install 'kernelfit[xarray]'") from None
    return xarray


def to_xarray(fit: Estimate) -> Any:
    """Return the kernel as an array with labels; see `KernelFit.to_xarray`."""
    labels, conv = fit.labels, fit.convention
    dims, coords = _kernel_axes(labels, conv, fit.kernel.shape)
    coords["stderr"] = (dims, fit.stderr)
    attrs = {"convention": str(conv), "verdict": fit.verdict.value, "noise_std": fit.noise_std}
    if labels is not None and any(labels.units):
        attrs["units"] = " / ".join(f"({unit or 1})" for unit in labels.units[::-1])
    return import_xarray().DataArray(fit.kernel, coords, dims, name="kernel", attrs=attrs)


def map_to_xarray(found: Any) -> Any:
    """Return the kernels of tiles as arrays with labels; see `KernelMap.to_xarray`."""
    labels, conv, n = found.labels, found.convention, found.boxes.ndim - 1
    centers, tiles = found.centers, list[str]()
    coords: dict[str, Any] = {}
    for at, axis in enumerate(_places(labels, "target", n)):
        middle = centers if n == 1 else np.moveaxis(centers, at, 0)[:, 0, at]
        known = axis.at(middle)
        unit = "pixel" if known is None else axis.unit
        coords[axis.name] = (axis.name, middle if known is None else known, {"units": unit} if unit else {})
        tiles.append(axis.name)
    dims, more = _kernel_axes(labels, conv, found.kernels.shape[n:])
    noise = [*tiles, *dims[: found.noise_std.ndim - n]]
    both = {"kernel": ([*tiles, *dims], found.kernels), "stderr": ([*tiles, *dims], found.stderr)}
    verdicts = np.vectorize(lambda verdict: verdict.value, otypes=[str])(found.verdicts)
    both |= {"noise_std": (noise, found.noise_std), "verdict": (tiles, verdicts)}
    return import_xarray().Dataset(both, coords | more, {"convention": str(conv)})


def _places(labels: Labels | None, side: str, n: int) -> tuple[Axis, ...]:
    """Return the axes of rows and columns, those of arrays without labels under the names that they have here."""
    axes = () if labels is None else labels.places(side)
    names = {1: ("sample",), 2: ("row", "column"), 3: ("plane", "row", "column")}[n]
    return axes if len(axes) == n else tuple(Axis(name) for name in names)


def _kernel_axes(labels: Labels | None, conv: Convention, shape: tuple[int, ...]) -> tuple[list[str], dict[str, Any]]:
    """Return the names of the axes of kernels, and their coordinates."""
    lags, varies = lags_of(conv, shape), conv.field is not None
    several = len(shape) - len(lags) - varies
    names = {0: [], 1: ["channel"]}.get(several, ["target_channel", "image_channel"])
    coords: dict[str, Any] = {}
    for name, side in zip(names, ("target", "image"), strict=False):
        channels = None if labels is None else labels.channels(side)
        if channels is not None and channels.values is not None:
            coords[name] = (name, channels.values)
    dims = [*names, *(["function"] if varies else [])]
    places = places_of(labels, conv, shape[-len(lags) :])
    for at, (axis, own) in enumerate(zip(_places(labels, "image", len(lags)), lags, strict=True)):
        name, step = f"{axis.name}_lag", axis.step
        unit = "pixel" if step is None else axis.unit
        if step is not None:  # from the coordinate of the target's pixel
            since = own + places[at][0] - conv.offset[at]
            own = since * step + 0.0 if step.dtype.kind == "f" else since.astype(np.int64) * step
        coords[name] = (name, own, {"units": unit} if unit else {})
        dims.append(name)
    return dims, coords


def as_map(labels: Labels | None, values: Array, places: tuple[Array, Array] | None = None) -> Any:
    """Return a map over the image with labels, where the image had such; `places` are its rows and columns."""
    axes = () if labels is None else labels.places("image")
    if len(axes) != 2 or values.ndim != 2:
        return values
    known = [axis.values if places is None else axis.at(own) for axis, own in zip(axes, places or axes, strict=True)]  # type: ignore[arg-type]
    both = zip(axes, known, strict=True)
    coords = {axis.name: (axis.name, v, {"units": axis.unit} if axis.unit else {}) for axis, v in both if v is not None}
    return import_xarray().DataArray(values, coords, [axis.name for axis in axes])


def _python(fit: Estimate, taps: Array, tool: str) -> str:
    conv, (height, width), axis = fit.convention, taps.shape[-2:], fit.channel_axis
    before = tuple(leading(conv, k, o) for k, o in zip((height, width), conv.origin, strict=True))
    grow = [{"same": 0, "valid": 1 - k, "full": k - 1}.get(conv.mode, 0) for k in (height, width)]
    imports, body = _BODIES[tool]
    (down, across), (row, col) = conv.stride, conv.offset
    names, lines = "", [f"    return laid(image, KERNEL){_added(fit)}"]
    if axis is not None and fit.channels is not None:
        names = {"separate": "channels, ", "mixed": "target's channels, image's channels, "}.get(fit.channels, "")
        lines = [
            f"    planes = numpy.moveaxis(image, {axis}, 0)",
            f"    made = {_CHANNELS[fit.channels]}",
            f"    return numpy.stack(made, axis={axis}){_added(fit)}",
        ]
    return _PYTHON.format(
        about=str(conv),
        imports=imports,
        taps=_listed(taps.tolist()),
        axes=f": {names}rows, columns" if names else "",
        dimensions="two dimensions" if len(lines) == 1 else f"channels along axis {axis}",
        channels="\n".join(lines),
        edge="" if conv.boundary is not None else "; beyond the edge the outermost pixels are repeated",
        before=before,
        grow_rows=f" + {grow[0]}" if grow[0] else "",
        grow_cols=f" + {grow[1]}" if grow[1] else "",
        pad=_NUMPY_PAD[conv.boundary or "nearest"],
        fill=f", constant_values={conv.fillvalue!r}" if conv.boundary == "fill" else "",
        body=body,
        stride="" if conv.stride == (1, 1) and conv.offset == (0, 0) else f"[{row}::{down}, {col}::{across}]",
    )


def _listed(taps: list[Any], indent: str = "") -> str:
    """Return nested lists as source, a line for each row."""
    if not isinstance(taps[0], list):
        return f"[{', '.join(map(repr, taps))}]"
    inner = indent + "    "
    return "[\n" + "".join(f"{inner}{_listed(one, inner)},\n" for one in taps) + f"{indent}]"


def _added(fit: Estimate) -> str:
    """Return the source that adds the background, a constant for each channel of the target."""
    if fit.background is None:
        return ""
    constants = _constants(fit)
    if len(constants) == 1:
        return f" + {constants[0]!r}"
    sides = [1, 1, 1]
    sides[fit.channel_axis or 0] = len(constants)
    return f" + numpy.reshape({constants!r}, {tuple(sides)})"


def _constants(fit: Estimate) -> list[float]:
    """Return the background of each channel of the target, if it is the same everywhere."""
    if fit.background is None:
        return [0.0]
    if fit.background.degree > 0 or len(fit.background.shapes) > 1:
        raise ValueError("got a background that varies, need a constant or none; take fit.background off the target")
    return [float(c) for c in fit.background.coefficients.ravel()]


def _script(fit: Estimate, taps: Array, tool: str) -> str:
    """Return a script of the shell, or a macro of ImageJ, for an image of the same size."""
    conv, constants = fit.convention, _constants(fit)
    if len(set(constants)) > 1:
        raise ValueError(
            f"got a background for each of {len(constants)} channels for {tool!r}, which adds one to all; export to "
            f"{', '.join(map(repr, _BODIES))}"
        )
    constant = constants[0]
    if conv.mode != "same":
        raise ValueError(
            f"got mode={conv.mode!r} for {tool!r}, need mode='same'; export to 'scipy', 'opencv' or 'torch'"
        )
    if conv.strided and tool != "imagemagick":
        raise ValueError(
            f"got stride={conv.stride}, offset={conv.offset} for {tool!r}, need every pixel; export to 'scipy', "
            "'opencv', 'torch' or 'imagemagick', or dataclasses.replace(fit, convention=dataclasses.replace("
            "fit.convention, stride=(1, 1), offset=(0, 0))), and keep every n-th pixel"
        )
    before = tuple(leading(conv, k, o) for k, o in zip(taps.shape, conv.origin, strict=True))
    words = {"about": str(conv), "tool": tool}
    if tool == "imagemagick":
        black = conv.boundary != "fill" or conv.fillvalue == 0
        if conv.boundary not in _VIRTUAL_PIXELS or not black or constant:
            raise ValueError(
                f"got boundary={conv.boundary!r}, fillvalue={conv.fillvalue:g} and a background of {constant:g} for "
                f"{tool!r}, need another boundary than 'mirror', fillvalue=0 and no background: it scales values"
            )
        sides = f"{taps.shape[1]}x{taps.shape[0]}+{before[1]}+{before[0]}"
        rows = " ".join(",".join(map(repr, row)) for row in taps.tolist())
        edge, pixels = _edge_of(conv.boundary, tuple(_VIRTUAL_PIXELS), ""), _VIRTUAL_PIXELS[conv.boundary]
        (down, across), (row, col) = conv.stride, conv.offset
        size, kept = "", ""
        if conv.strided:  # a hundredth of a step behind a pixel is that pixel
            size = f"""
set -- "$1" "$2" $("$tool" "$1[0]" -format '%w %h' info:)
width=$((($3 - {col} + {across - 1}) / {across})) height=$((($4 - {row} + {down - 1}) / {down}))"""
            kept = f""" -gravity NorthWest -extent "$((width * {across}))x$((height * {down}))+{col}+{row}" \\
    -define sample:offset=1 -sample "${{width}}x$height!\""""
        # to 8 bits it would cut off, not round
        command = f"""tool=$(command -v magick || command -v convert){size}
exec "$tool" "$1" -virtual-pixel {pixels} \\
    -morphology Correlate '{sides}: {rows}'{kept} -depth 16 "$2\""""
        return _SHELL.format(**words, edge=edge, command=command)
    if tool == "gimp":
        return _gimp(conv, taps, before, constant)
    around = _centred(taps, before)
    if tool == "imagej":
        # ij.plugin.filter.Convolver: lays the matrix on the image as it is, and repeats the outermost pixels
        edge = _edge_of(conv.boundary, ("nearest",), "outermost pixels are repeated")
        rows = "".join(" ".join(map(repr, row)) + "\\n" for row in around.tolist())
        added = f'run("Add...", "value={constant!r} stack");\n' if constant else ""
        first = f"// What kernelfit found: {conv}.{edge.replace(chr(10) + '#', chr(10) + '//')}\n"
        # colours as slices, which "32-bit" would else make gray
        apart = 'if (bitDepth() == 24) run("RGB Stack");\n'
        return f'{first}{apart}run("32-bit");\nrun("Convolve...", "text1=[{rows}] stack");\n{added}'
    height, width = around.shape
    side = max(height, width)
    line = min(height, width) == 1
    if side > (49 if line else 7) or constant < 0:
        raise ValueError(
            f"got {height} x {width} taps about the centre and a background of {constant:g} for 'ffmpeg', need at most "
            "7 x 7, or 49 along a row or a column, and no negative background"
        )
    if not line:  # squares of 3, 5 and 7; that of 3 treats the last row and column in another way
        side = max(side, 5)
        up, left = (side - height) // 2, (side - width) // 2
        around = np.pad(around, ((up, up), (left, left)))
    scale = float(np.abs(around).max()) / 32767 or 1.0
    whole = " ".join(map(str, np.rint(around / scale).astype(int).ravel().tolist()))
    along = "square" if not line else "row" if height == 1 else "column"
    parts = [f"{i}m='{whole}':{i}rdiv={scale!r}:{i}mode={along}:{i}bias={constant!r}" for i in range(3)]
    edge = _edge_of(conv.boundary, () if along == "column" else ("mirror",), "image is mirrored")
    command = f"""exec ffmpeg -v error -i "$1" -vf "convolution={":".join(parts)}" "$2\""""
    return _SHELL.format(**words, edge=edge, command=command)


def _gimp(conv: Convention, taps: Array, before: tuple[int, ...], constant: float) -> str:
    """Return a script of the shell that has GIMP lay blocks of 5 x 5 taps on an image."""
    starts = []  # of the blocks: the lag of the first row, or column
    for n, b in zip(taps.shape, before, strict=True):
        starts.append([-2] if b <= 2 and n - 1 - b <= 2 else list(range(-b, n - b, 5)))
    lines: list[str] = []
    for row, col in itertools.product(*starts):
        block = np.zeros((5, 5))
        rows, cols = np.arange(row, row + 5) + before[0], np.arange(col, col + 5) + before[1]
        here = np.ix_((rows >= 0) & (rows < taps.shape[0]), (cols >= 0) & (cols < taps.shape[1]))
        block[here] = taps[np.ix_(rows[here[0].ravel()], cols[here[1].ravel()])]
        mode, added = ("ADDITION", 0.0) if lines else ("NORMAL", constant)
        matrix = " ".join(map(repr, block.T.ravel().tolist()))  # GIMP counts along the columns
        lines.append(f"(lay {-col - 2} {-row - 2} LAYER-MODE-{mode} {added / 255!r} #({matrix}))")
    alone = len(lines) == 1 and (starts[0][0], starts[1][0]) == (-2, -2)
    borders = {"nearest": 0, "wrap": 1} | ({"fill": 2} if conv.fillvalue == 0 else {}) if alone else {"wrap": 1}
    blocks = "this is one call" if alone else f"the kernel is the sum of {len(lines)} blocks, each on a moved image"
    what = "outermost pixels are repeated" if alone else "image is repeated"
    edge, border = _edge_of(conv.boundary, tuple(borders), what), borders.get(conv.boundary or "", 0 if alone else 1)
    return _GIMP.format(about=str(conv), edge=edge, blocks=blocks, border=border, lines="\n".join(lines))


def _edge_of(boundary: str | None, alike: tuple[str | None, ...], what: str) -> str:
    """Return a line of comment on the edges where they are others than the fit's."""
    if boundary in alike:
        return ""
    return f"\n# Beyond the edge the {what}, so that the target is met inside only."


def _centred(taps: Array, before: tuple[int, ...]) -> Array:
    """Return the taps with zeros around, so that the sides are odd and the output pixel is in the middle."""
    half = [max(b, k - 1 - b) for b, k in zip(before, taps.shape, strict=True)]
    return np.pad(taps, [(h - b, h - (k - 1 - b)) for h, b, k in zip(half, before, taps.shape, strict=True)])


def _latex(fit: Estimate) -> str:
    whole = as_integers(fit)
    if whole is not None and whole.probability < 1e-6:
        rows = [" & ".join(map(str, row)) for row in whole.numerators.tolist()]
        front = f"\\frac{{1}}{{{whole.denominator}}}" if whole.denominator > 1 else ""
    else:
        stderr = fit.stderr
        rows, front = [], ""
        for values, errors in zip(fit.kernel.tolist(), stderr.tolist(), strict=True):
            cells = []
            for value, error in zip(values, errors, strict=True):
                known = math.isfinite(error) and error > 0
                digits = min(12, max(0, 1 - math.floor(math.log10(error)))) if known else 6
                cells.append(f"{value:.{digits}f}" + (f" \\pm {error:.{digits}f}" if known else ""))
            rows.append(" & ".join(cells))
    body = " \\\\\n  ".join(rows)
    return f"{front}\\begin{{bmatrix}}\n  {body}\n\\end{{bmatrix}}"
