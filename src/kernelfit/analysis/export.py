"""A kernel as text that other tools run: Python source, and a matrix."""

import math

import numpy as np
import numpy.typing as npt

from ..core.estimate import Estimate, require_real
from ..core.geometry import leading
from .integers import as_integers

Array = npt.NDArray[np.float64]
TOOLS = ("scipy", "opencv", "torch", "latex")
_NUMPY_PAD = {"fill": "constant", "wrap": "wrap", "symm": "symmetric", "mirror": "reflect", "nearest": "edge"}
_PYTHON = '''"""What kernelfit found: {about}."""

import numpy
{imports}

KERNEL = numpy.array({taps})  # laid on the image as it is (a correlation)


def apply(image):
    """Return what the kernel makes of an image of two dimensions, in double precision{edge}."""
    image = numpy.asarray(image, dtype=numpy.float64)
    (top, left), (rows, cols) = {before}, KERNEL.shape
    height, width = image.shape[0]{grow_rows}, image.shape[1]{grow_cols}
    below, right = height + rows - 1 - top - image.shape[0], width + cols - 1 - left - image.shape[1]
    image = numpy.pad(image, [(max(top, 0), max(below, 0)), (max(left, 0), max(right, 0))], mode="{pad}"{fill})
{body}
    return made{stride}{background}
'''
_BODIES = {
    "scipy": (
        "import scipy.signal",
        '    made = scipy.signal.correlate(image, KERNEL, mode="valid")',
    ),
    "opencv": (
        "import cv2",
        "    made = cv2.filter2D(image, cv2.CV_64F, KERNEL, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)\n"
        "    made = made[: image.shape[0] - rows + 1, : image.shape[1] - cols + 1]",
    ),
    "torch": (
        "import torch",
        "    weight = torch.from_numpy(KERNEL)[None, None]  # (out channels, in channels / groups, rows, cols)\n"
        "    made = torch.nn.functional.conv2d(torch.from_numpy(image)[None, None], weight, padding=0, groups=1)\n"
        "    made = made[0, 0].numpy()",
    ),
}


def export(fit: Estimate, tool: str) -> str:
    """Return text that lays a kernel on an image in another tool; see `KernelFit.export`."""
    if tool not in TOOLS:
        raise ValueError(f"got tool={tool!r}, need one of {', '.join(map(repr, TOOLS))}")
    require_real(fit)
    if fit.kernel.ndim != 2 or fit.convention.field is not None:
        raise ValueError(
            f"got kernels of shape {fit.kernel.shape}, need one of two dimensions that is the same everywhere; export "
            "each of kernelfit.split_channels(fit), or fit.at(row, col)"
        )
    conv = fit.convention
    if conv.ndim == 1 and tool != "latex":
        raise ValueError(
            f"got a kernel of one dimension, need two for {tool!r}: numpy.convolve takes fit.kernel as it is"
        )
    inside = all(0 <= o < n for o, n in zip(conv.origin, fit.kernel.shape, strict=True))
    if conv.mode not in ("same", "valid", "full") or not inside:
        raise ValueError(
            f"got mode={conv.mode!r}, origin={conv.origin}, need another mode than 'crop', and an origin inside"
        )
    taps = fit.kernel[::-1, ::-1] if conv.operation == "convolution" else fit.kernel
    return _latex(fit) if tool == "latex" else _python(fit, taps, tool)


def _python(fit: Estimate, taps: Array, tool: str) -> str:
    """Return Python source."""
    conv, shape = fit.convention, taps.shape
    before = tuple(leading(conv, k, o) for k, o in zip(shape, conv.origin, strict=True))
    grow = [{"same": 0, "valid": 1 - k, "full": k - 1}.get(conv.mode, 0) for k in shape]
    imports, body = _BODIES[tool]
    lines = ",\n    ".join(f"[{', '.join(map(repr, row))}]" for row in taps.tolist())
    (down, across), (row, col) = conv.stride, conv.offset
    background = "" if fit.background is None else f" + {float(fit.background.coefficients.ravel()[0])!r}"
    if fit.background is not None and (fit.background.degree > 0 or fit.background.coefficients.size > 1):
        raise ValueError("got a background that varies, need a constant or none; take fit.background off the target")
    return _PYTHON.format(
        about=str(conv),
        imports=imports,
        taps=f"[\n    {lines},\n]",
        edge="" if conv.boundary is not None else "; beyond the edge the outermost pixels are repeated",
        before=before,
        grow_rows=f" + {grow[0]}" if grow[0] else "",
        grow_cols=f" + {grow[1]}" if grow[1] else "",
        pad=_NUMPY_PAD[conv.boundary or "nearest"],
        fill=f", constant_values={conv.fillvalue!r}" if conv.boundary == "fill" else "",
        body=body,
        stride="" if conv.stride == (1, 1) and conv.offset == (0, 0) else f"[{row}::{down}, {col}::{across}]",
        background=background,
    )


def _latex(fit: Estimate) -> str:
    """Return a matrix of the taps, whole numbers where they are."""
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
