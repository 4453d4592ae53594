"""One reading of all pixels for a kernel that is a polynomial of the place: fewer sums than pairs of sources.

The lag sums of two of the sources ``phi_j P`` are ``sum_z phi_j(z) phi_k(z + d) P(z) P(z + d)``. For a lag d the
product ``phi_j(z) phi_k(z + d)`` is a polynomial of z of twice the degree D, so that all of them follow from those of
``psi_m P`` with P, psi_m the Legendre polynomials of up to that degree: 15 sums for D = 2 instead of 36, and
likewise 6 for each target. Along the rows psi_m is a factor of each pixel before its transform, of which there are
2D + 1; down the columns it is a factor of each row after it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import scipy.fft

from ..compiled.threads import bands
from ..core.validation import Array
from ..core.variation import Polynomial, powers
from ..data.observation import Observation
from ..data.reader import Reader
from .cost_model import segment
from .passes import Frame, Pass, Sums, complex_spectra, n_vectors

_HEIGHT = 128


@dataclass(frozen=True, eq=False)
class Functions:
    """The polynomials of a kernel that varies, on the rows and columns of a frame."""

    degree: int  # D, that of the kernel
    #: down, across: legendre polynomials
    down: Array
    across: Array
    steps: tuple[float, float]  # how far a pixel is along each axis, in their argument
    powers: list[tuple[int, int]]  # degrees along rows and columns of each function

    @classmethod
    def of(cls, observation: Observation, frame: Frame) -> "Functions | None":
        """Return those of an observation; None if its extended sources are not one image times polynomials."""
        plan, (first, *others) = observation.geometry, observation.sources
        field, conv = plan.convention.field, plan.convention
        if field is None or not isinstance(field.variation, Polynomial) or conv.strided:
            return None
        alike = len(others) == field.n - 1 and first.weight is None and all(r.array is first.array for r in others)
        filled = conv.mode == "valid" or conv.boundary is None or (conv.boundary == "fill" and conv.fillvalue == 0)
        if not (alike and filled and all(r.weight is not None for r in others) and min(plan.image_shape) > 1):
            return None
        degree = field.variation.degree
        tables, steps = [], []
        for n, extent, before in zip(plan.image_shape, plan.extended_shape, plan.before, strict=True):
            steps.append(2.0 / (n - 1))
            at = steps[-1] * (np.arange(extent) - before) - 1.0
            tables.append(np.ascontiguousarray(np.polynomial.legendre.legvander(at, 2 * degree).T))
        if not frame.swapped:
            return cls(degree, tables[0], tables[1], (steps[0], steps[1]), powers(degree))
        return cls(degree, tables[1], tables[0], (steps[1], steps[0]), [(j, i) for i, j in powers(degree)])

    def transposed(self) -> "Functions":
        """Return those of the transposed frame."""
        turned = [(j, i) for i, j in self.powers]
        return Functions(self.degree, self.across, self.down, (self.steps[1], self.steps[0]), turned)


def _shifted(degree: int, lags: npt.NDArray[np.intp], step: float) -> Array:
    """Return T with ``P_k(u + lag step) = sum_m T[lag, k, m] P_m(u)``."""
    nodes = np.polynomial.legendre.leggauss(degree + 1)[0]
    there = np.polynomial.legendre.legvander(nodes + step * lags[:, None], degree)  # lags, nodes, k
    return np.asarray(np.linalg.solve(np.polynomial.legendre.legvander(nodes, degree), there).swapaxes(1, 2))


def _products(degree: int, lags: npt.NDArray[np.intp], step: float) -> Array:
    """Return C with ``P_j(u) P_k(u + lag step) = sum_m C[j, k, lag, m] P_m(u)``, j and k up to a degree."""
    nodes, share = np.polynomial.legendre.leggauss(2 * degree + 1)
    here = np.polynomial.legendre.legvander(nodes, 2 * degree)
    there = np.polynomial.legendre.legvander(nodes + step * lags[:, None], degree)
    onto = share[:, None] * here * (np.arange(2 * degree + 1) + 0.5)  # the coefficients of what values at nodes are
    return np.asarray(np.einsum("xj,lxk,xm->jklm", here[:, : degree + 1], there, onto, optimize=True))


def field_pass(frame: Frame, functions: Functions) -> Pass:
    """Lay out the reading of all pixels, on the spectra of segments of rows."""
    from ..compiled import fft, lag_sums, spectral_products
    from ..compiled.jit import LANES

    y_halo, x_halo, n_targets, degree = frame.row_halo, frame.col_halo, len(frame.targets), functions.degree
    rows, cols = frame.rows + y_halo, frame.cols + x_halo
    length = segment(cols, x_halo).length
    step = min(cols, length - 2 * x_halo)
    height = math.ceil(rows / max(1, round(rows / max(_HEIGHT, frame.kernel_rows))))
    per_band = max(1, min(512 // height, math.ceil(rows / height)))
    tiles = [(r, c) for c in range(0, cols, step) for r in range(0, rows, height)]
    n_i = 1 if frame.kernel_rows == 1 else -(-frame.kernel_rows // 4) * 4
    twice = [(m, n) for n in range(2 * degree + 1) for m in range(2 * degree + 1 - n)]  # those of n lie together
    once = [(m, n) for n in range(degree + 1) for m in range(degree + 1 - n)]

    def band(tiles: list[tuple[int, int]]) -> tuple[Array, ...]:
        transform = fft.borrow(height, length, 2, 1, halo=y_halo)
        image, result, block, values = transform.image, transform.result, transform.model, transform.spectra
        shape = (2, n_vectors(length), n_i, LANES)
        sums, moments = np.zeros((len(twice), *shape)), np.zeros((n_targets, len(once), *shape))
        squares = np.zeros((n_targets, 2))
        transform.clear(step + 2 * x_halo, step)

        def add(pixels: Array, row: int, col: int, n_rows: int, most: int, out: Array) -> None:
            """Add the products of an image, times the polynomials of up to a degree, with the source."""
            width, first = pixels.shape[1], 0
            for n in range(most + 1):
                np.multiply(pixels, functions.across[n, col : col + width], out=result[:n_rows, :width])
                result[:n_rows, width:step] = 0.0
                transform.forward(1)
                scales = np.ascontiguousarray(functions.down[: most + 1 - n, row : row + n_rows])
                spectral_products.scaled_lag_sums(values, 1, 0, n_rows, scales, out[first : first + len(scales)])
                first += len(scales)

        for row, col in tiles:
            n_rows, width = min(height, rows - row), min(step, cols - col)
            frame.sources[0].read(image[: n_rows + y_halo, : step + 2 * x_halo], row, col - x_halo)
            transform.forward(0)
            add(image[:n_rows, x_halo : x_halo + width], row, col, n_rows, 2 * degree, sums)
            for t, reader in enumerate(frame.targets):
                part = block[:n_rows, :width]
                reader.read(part, row, col)
                lag_sums.moments(block, n_rows, width, squares[t])
                add(part, row, col, n_rows, degree, moments[t])
        fft.give_back(transform)
        return complex_spectra(sums[None])[0], complex_spectra(moments), squares

    def inverse(sums: Array) -> Array:
        spectra = sums[..., : frame.kernel_rows, :].view(np.complex128)[..., : length // 2 + 1]
        found: Array = scipy.fft.irfft(spectra, n=length, workers=1)
        return found[..., : 2 * x_halo + 1]

    def finish(sums: Array, moments: Array, squares: Array) -> Sums:
        lags = _expanded(functions, inverse(sums), twice, frame)
        moment = _expanded_moments(functions, inverse(moments)[..., x_halo:], once, frame)
        return Sums(lags, moment, squares[:, 0], squares[:, 1])

    return Pass([partial(band, some) for some in bands(tiles, per_band)], finish)


def _expanded(functions: Functions, sums: Array, terms: list[tuple[int, int]], frame: Frame) -> Array:
    """Return the lag sums of all pairs of sources, given those of the polynomials of twice the degree."""
    degree, n = functions.degree, len(functions.powers)
    table = np.zeros((2 * degree + 1, 2 * degree + 1, *sums.shape[1:]))
    for (m, k), one in zip(terms, sums, strict=True):
        table[m, k] = one
    down = _products(degree, np.arange(frame.kernel_rows), functions.steps[0])
    across = _products(degree, np.arange(-frame.col_halo, frame.col_halo + 1), functions.steps[1])
    out = np.empty((n, n, *sums.shape[1:]))
    for s, (i, j) in enumerate(functions.powers):
        for t, (k, m) in enumerate(functions.powers):
            out[s, t] = np.einsum("ym,mnyx,xn->yx", down[i, k], table, across[j, m], optimize=True)
    return out


def _expanded_moments(functions: Functions, sums: Array, terms: list[tuple[int, int]], frame: Frame) -> Array:
    """Return the moments of all sources, given those of the target times the polynomials with the image."""
    degree = functions.degree
    table = np.zeros((len(sums), degree + 1, degree + 1, *sums.shape[2:]))
    for at, (m, k) in enumerate(terms):
        table[:, m, k] = sums[:, at]
    down = _shifted(degree, np.arange(frame.kernel_rows), functions.steps[0])
    across = _shifted(degree, np.arange(frame.kernel_cols), functions.steps[1])
    each = [np.einsum("ym,tmnyx,xn->tyx", down[:, i], table, across[:, j], optimize=True) for i, j in functions.powers]
    return np.stack(each, axis=1)


def strip_jobs(frame: Frame, functions: Functions) -> list[Callable[[], tuple[Array, ...]]]:
    """Return what makes the lag products of the strips along the edges, as those of `edge_correction`."""
    y_halo, x_halo, source = frame.row_halo, frame.col_halo, frame.sources[0]
    turned, other = source.transposed(), functions.transposed()
    strips = [
        (source, functions, 0, y_halo, frame.cols + x_halo, x_halo),
        (source, functions, frame.rows, y_halo, frame.cols + x_halo, x_halo),
        (turned, other, 0, x_halo, frame.rows + y_halo, y_halo),
        (turned, other, frame.cols, x_halo, frame.rows + y_halo, y_halo),
    ]
    return [lambda s=s: (_strip(*s),) for s in strips]  # type: ignore[misc]


def _strip(reader: Reader, functions: Functions, row: int, n_rows: int, extent: int, lag: int) -> Array:
    """Return the lag products of the rows of a strip, of all sources: see `edge_correction.strip_lags`."""
    from ..compiled import lag_sums

    n, degree = len(functions.powers), functions.degree
    sums, step = np.zeros(((2 * degree + 1) * n_rows, n_rows, 2 * lag + 1)), 1024
    if n_rows == 0:
        return np.zeros((0, 0, 2 * lag + 1))
    for start in range(0, extent, step):
        cols = min(step, extent - start)
        wide = reader.block(row, start - lag, (n_rows, cols + 2 * lag))
        own = functions.across[:, None, start : start + cols] * wide[:, lag : lag + cols]
        lag_sums.pair_lag_sums(own.reshape(-1, cols), wide, sums)
    table = sums.reshape(2 * degree + 1, n_rows, n_rows, -1)
    across = _products(degree, np.arange(-lag, lag + 1), functions.steps[1])
    mixed = {
        (j, m): np.einsum("npqx,xn->pqx", table, across[j, m], optimize=True)
        for j in range(degree + 1)
        for m in range(degree + 1)
    }
    out = np.empty((n, n_rows, n, n_rows, 2 * lag + 1))
    down = functions.down[:, row : row + n_rows]
    for s, (i, j) in enumerate(functions.powers):
        for t, (k, m) in enumerate(functions.powers):
            out[s, :, t] = mixed[j, m] * (down[i, :, None] * down[k])[..., None]
    return out.reshape(n * n_rows, n * n_rows, -1)
