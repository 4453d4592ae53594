"""The compiled loops, all of them: the only importer of Numba.

They stand in one file because Numba's cache looks at the caller's file alone. None validates, allocates
in an inner loop, or raises; all are serial and release the GIL, so that a thread pool can run them.
Each array is C-contiguous float64 (complex128 where said), so each function is compiled once.
"""

import functools
from collections.abc import Callable
from typing import Any

import numba

# Without nnan and ninf: a NaN must stay visible.
FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}


def _jit(function: Callable[..., Any], fastmath: set[str] | bool = False) -> Any:
    compiled = functools.partial(numba.njit, nogil=True, error_model="numpy", fastmath=fastmath)
    try:
        return compiled(cache=True)(function)
    except RuntimeError:  # no directory to write the cache to
        return compiled()(function)


_jit_sum = functools.partial(_jit, fastmath=FASTMATH)


@_jit_sum
def lag_sums(a, a_col, b, b_col, rows, cols, out):
    """Add the lag products of two blocks: ``out[i, j] += sum_rc a[r, a_col + c] * b[r + i, b_col + c + j]``.

    r < `rows`, c < `cols`; four lags at a time, so that each load of `a` feeds four multiply-adds.
    """
    n_i, n_j = out.shape
    for r in range(rows):
        x = a[r, a_col : a_col + cols]
        for i in range(n_i):
            line = b[r + i]
            for j in range(0, n_j - 3, 4):
                y0 = line[b_col + j : b_col + j + cols]
                y1 = line[b_col + j + 1 : b_col + j + 1 + cols]
                y2 = line[b_col + j + 2 : b_col + j + 2 + cols]
                y3 = line[b_col + j + 3 : b_col + j + 3 + cols]
                s0 = s1 = s2 = s3 = 0.0
                for c in range(cols):
                    v = x[c]
                    s0 += v * y0[c]
                    s1 += v * y1[c]
                    s2 += v * y2[c]
                    s3 += v * y3[c]
                out[i, j] += s0
                out[i, j + 1] += s1
                out[i, j + 2] += s2
                out[i, j + 3] += s3
            for j in range(n_j - n_j % 4, n_j):
                y0 = line[b_col + j : b_col + j + cols]
                s0 = 0.0
                for c in range(cols):
                    s0 += x[c] * y0[c]
                out[i, j] += s0


@_jit_sum
def correlate(b, b_col, taps, rows, cols, out):
    """Correlate a block with taps: ``out[r, c] = sum_ij taps[i, j] * b[r + i, b_col + c + j]``."""
    n_i, n_j = taps.shape
    for r in range(rows):
        y = out[r, :cols]
        y[:] = 0.0
        for i in range(n_i):
            line = b[r + i]
            for j in range(n_j):
                k = taps[i, j]
                x = line[b_col + j : b_col + j + cols]
                for c in range(cols):
                    y[c] += k * x[c]


@_jit_sum
def split(spectra, real, imag, row):
    """Store the complex rows `spectra` (r, f) as columns row.. of two planes (f, r)."""
    n_r, n_f = spectra.shape
    for start in range(0, n_r, 16):
        stop = min(n_r, start + 16)
        for f in range(n_f):
            for r in range(start, stop):
                z = spectra[r, f]
                real[f, row + r] = z.real
                imag[f, row + r] = z.imag


@_jit_sum
def join(real, imag, row, spectra):
    """Undo `split`: complex rows from columns row.. of two planes."""
    n_r, n_f = spectra.shape
    for start in range(0, n_r, 16):
        stop = min(n_r, start + 16)
        for f in range(n_f):
            for r in range(start, stop):
                spectra[r, f] = complex(real[f, row + r], imag[f, row + r])


@_jit_sum
def spectral_lag_sums(a_real, a_imag, b_real, b_imag, rows, real, imag):
    """Add the lag products of row spectra: ``out[f, i] += sum_r conj(a[f, r]) * b[f, r + i]``, r < `rows`."""
    n_f, n_i = real.shape
    for f in range(n_f):
        u = a_real[f, :rows]
        v = a_imag[f, :rows]
        for i in range(0, n_i - 3, 4):
            x0 = b_real[f, i : i + rows]
            y0 = b_imag[f, i : i + rows]
            x1 = b_real[f, i + 1 : i + 1 + rows]
            y1 = b_imag[f, i + 1 : i + 1 + rows]
            x2 = b_real[f, i + 2 : i + 2 + rows]
            y2 = b_imag[f, i + 2 : i + 2 + rows]
            x3 = b_real[f, i + 3 : i + 3 + rows]
            y3 = b_imag[f, i + 3 : i + 3 + rows]
            p0 = p1 = p2 = p3 = 0.0
            q0 = q1 = q2 = q3 = 0.0
            for r in range(rows):
                s = u[r]
                t = v[r]
                p0 += s * x0[r] + t * y0[r]
                q0 += s * y0[r] - t * x0[r]
                p1 += s * x1[r] + t * y1[r]
                q1 += s * y1[r] - t * x1[r]
                p2 += s * x2[r] + t * y2[r]
                q2 += s * y2[r] - t * x2[r]
                p3 += s * x3[r] + t * y3[r]
                q3 += s * y3[r] - t * x3[r]
            real[f, i] += p0
            imag[f, i] += q0
            real[f, i + 1] += p1
            imag[f, i + 1] += q1
            real[f, i + 2] += p2
            imag[f, i + 2] += q2
            real[f, i + 3] += p3
            imag[f, i + 3] += q3
        for i in range(n_i - n_i % 4, n_i):
            x0 = b_real[f, i : i + rows]
            y0 = b_imag[f, i : i + rows]
            p0 = q0 = 0.0
            for r in range(rows):
                p0 += u[r] * x0[r] + v[r] * y0[r]
                q0 += u[r] * y0[r] - v[r] * x0[r]
            real[f, i] += p0
            imag[f, i] += q0


@_jit_sum
def spectral_correlate(b_real, b_imag, taps_real, taps_imag, rows, real, imag):
    """Correlate row spectra with tap spectra: ``out[f, r] += sum_i conj(taps[f, i]) * b[f, r + i]``, r < `rows`."""
    n_f, n_i = taps_real.shape
    for f in range(n_f):
        p = real[f, :rows]
        q = imag[f, :rows]
        for i in range(n_i):
            s = taps_real[f, i]
            t = taps_imag[f, i]
            x = b_real[f, i : i + rows]
            y = b_imag[f, i : i + rows]
            for r in range(rows):
                p[r] += s * x[r] + t * y[r]
            for r in range(rows):
                q[r] += s * y[r] - t * x[r]


@_jit
def assemble_lag(i, scratch, total, top, bottom, left, right, corners_a, corners_b, table):
    """Box sums of one row lag `i` from the sum over everything, less what lies outside each box.

    For taps p = (py, px) and p + (i, j) the box sum is ``sum_t A[t + p] B[t + p + (i, j)]`` over the H x W
    target pixels. `total[j]` holds it over every place where both factors lie in the extended image;
    the rows above and below the box (`top`, `bottom`: row, column lag) and the columns left and right of it
    (`left`, `right`: column of a, column of b, for this row lag) are subtracted, and the four corners,
    subtracted twice, are given back (`corners_a`, `corners_b`: the 2 x 2 corner blocks of the extended images).

    Result in ``table[py, px, px + j]``.
    """
    n_y, n_x = table.shape[0], table.shape[1]
    h_y, h_x = n_y - 1, n_x - 1
    n_strip = max(h_y - i, 0)
    above = scratch[0]
    below = scratch[1]
    for j in range(-h_x, h_x + 1):
        first, last = max(0, -j), n_x - 1 - max(0, j)
        columns = 0.0
        for c in range(first, h_x - max(0, j)):
            columns += right[c, c + j]
        for r in range(n_strip):
            above[r] = top[r, j + h_x]
            below[r] = bottom[r, j + h_x]
            for c in range(first, h_x - max(0, j)):
                above[r] -= corners_a[0, 1, r, c] * corners_b[0, 1, r + i, c + j]
                below[r] -= corners_a[1, 1, r, c] * corners_b[1, 1, r + i, c + j]
        for x in range(first, last + 1):
            if x > first:
                c = x - 1
                columns += left[c, c + j] - right[c, c + j]
                for r in range(n_strip):
                    above[r] += (
                        corners_a[0, 1, r, c] * corners_b[0, 1, r + i, c + j]
                        - corners_a[0, 0, r, c] * corners_b[0, 0, r + i, c + j]
                    )
                    below[r] += (
                        corners_a[1, 1, r, c] * corners_b[1, 1, r + i, c + j]
                        - corners_a[1, 0, r, c] * corners_b[1, 0, r + i, c + j]
                    )
            s = total[j + h_x] - columns
            for r in range(n_strip):
                s -= below[r]
            table[0, x, x + j] = s
            for y in range(n_strip):
                s += below[y] - above[y]
                table[y + 1, x, x + j] = s


@_jit
def place_lag(i, table, gram, row, col, stride_y, stride_x):
    """Copy the table of row lag `i`, and its transpose, into `gram`.

    Tap (y, x) of the first source is row ``row + stride_y * y + stride_x * x`` of `gram`, that of the second
    column ``col + ...``; negative strides flip the kernel, exchanged ones transpose it.
    """
    n_y, n_x = table.shape[0], table.shape[1]
    for y in range(n_y - i):
        p = row + stride_y * y
        q = col + stride_y * (y + i)
        for u in range(n_x):
            for v in range(n_x):
                gram[p + stride_x * u, q + stride_x * v] = table[y, u, v]
        for v in range(n_x):
            for u in range(n_x):
                gram[q + stride_x * v, p + stride_x * u] = table[y, u, v]


@_jit
def cross_spectra(image, target, image_power, target_power, cross):
    """Add a pair of spectra (complex128): ``|X|^2``, ``|Y|^2`` and ``conj(X) Y``, each of the spectra's shape."""
    n_rows, n_cols = image.shape
    for r in range(n_rows):
        for c in range(n_cols):
            x = image[r, c]
            y = target[r, c]
            image_power[r, c] += x.real * x.real + x.imag * x.imag
            target_power[r, c] += y.real * y.real + y.imag * y.imag
            cross[r, c] += complex(x.real * y.real + x.imag * y.imag, x.real * y.imag - x.imag * y.real)
