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
def strip_lag_sums(wide, cols, lag, out):
    """Add the lag products of the rows of a narrow strip: ``out[p, q, l] += sum_c wide[p, lag + c] * wide[q, c + l]``.

    p <= q only, c < `cols`, l from 0 to ``2 * lag``.
    """
    for p in range(out.shape[0]):
        x = wide[p, lag : lag + cols]
        for q in range(p, out.shape[1]):
            line = wide[q]
            for j in range(0, 2 * lag - 2, 4):
                y0 = line[j : j + cols]
                y1 = line[j + 1 : j + 1 + cols]
                y2 = line[j + 2 : j + 2 + cols]
                y3 = line[j + 3 : j + 3 + cols]
                s0 = s1 = s2 = s3 = 0.0
                for c in range(cols):
                    v = x[c]
                    s0 += v * y0[c]
                    s1 += v * y1[c]
                    s2 += v * y2[c]
                    s3 += v * y3[c]
                out[p, q, j] += s0
                out[p, q, j + 1] += s1
                out[p, q, j + 2] += s2
                out[p, q, j + 3] += s3
            for j in range((2 * lag + 1) - (2 * lag + 1) % 4, 2 * lag + 1):
                y0 = line[j : j + cols]
                s0 = 0.0
                for c in range(cols):
                    s0 += x[c] * y0[c]
                out[p, q, j] += s0


@_jit_sum
def correlate(b, b_col, taps, rows, cols, out):
    """Correlate a block with taps: ``out[r, c] = sum_ij taps[i, j] * b[r + i, b_col + c + j]``."""
    n_i, n_j = taps.shape
    for r in range(rows):
        y = out[r, :cols]
        y[:] = 0.0
        for i in range(n_i):
            line = b[r + i]
            for j in range(0, n_j - 3, 4):
                k0, k1, k2, k3 = taps[i, j], taps[i, j + 1], taps[i, j + 2], taps[i, j + 3]
                x0 = line[b_col + j : b_col + j + cols]
                x1 = line[b_col + j + 1 : b_col + j + 1 + cols]
                x2 = line[b_col + j + 2 : b_col + j + 2 + cols]
                x3 = line[b_col + j + 3 : b_col + j + 3 + cols]
                for c in range(cols):
                    y[c] += k0 * x0[c] + k1 * x1[c] + k2 * x2[c] + k3 * x3[c]
            for j in range(n_j - n_j % 4, n_j):
                k0 = taps[i, j]
                x0 = line[b_col + j : b_col + j + cols]
                for c in range(cols):
                    y[c] += k0 * x0[c]


@_jit_sum
def moments(rows, n_rows, n_cols, out):
    """Add the sum of the squares of a block, and its sum; BLAS would wake its own threads for it, to fight with ours."""
    squares = total = 0.0
    for r in range(n_rows):
        x = rows[r, :n_cols]
        part = plain = 0.0
        for c in range(n_cols):
            part += x[c] * x[c]
            plain += x[c]
        squares += part
        total += plain
    out[0] += squares
    out[1] += total


@_jit
def subtract(rows, model, start, stop, n_cols):
    """Subtract a block of `model` from the same block of `rows`."""
    for r in range(start, stop):
        for c in range(n_cols):
            rows[r, c] -= model[r, c]


#: Frequencies that are worked on at a time: two cache lines of each row.
BLOCK = 8


@_jit_sum
def _gather(spectra, f, rows, real, imag):
    """Copy BLOCK frequencies of complex rows (r, f) to planes (f, r)."""
    for r in range(rows):
        for k in range(BLOCK):
            z = spectra[r, f + k]
            real[k, r] = z.real
            imag[k, r] = z.imag


@_jit_sum
def spectral_lag_sums(spectra, first, second, rows, real, imag, scratch):
    """Add the lag products, across rows, of row spectra.

    ``out[a, f, i] += sum_r conj(S_a[r, f]) * S_second[r + i, f]``

    a >= `first`; `spectra` (arrays, rows + lags - 1, frequencies padded to BLOCK), r < `rows`; `real` and `imag`
    (arrays, frequencies, lags); `scratch` (4, BLOCK, rows + lags - 1). Four lags at a time, so that each load feeds
    several multiply-adds.
    """
    n_arrays, n_f, n_i = real.shape
    x, y = scratch[0], scratch[1]
    for start in range(0, n_f, BLOCK):
        _gather(spectra[second], start, rows + n_i - 1, x, y)
        for a in range(first, n_arrays):
            if a == second:
                u, v = x, y
            else:
                u, v = scratch[2], scratch[3]
                _gather(spectra[a], start, rows, u, v)
            for k in range(min(BLOCK, n_f - start)):
                f = start + k
                s, t = u[k, :rows], v[k, :rows]
                for i in range(0, n_i - 3, 4):
                    x0, y0 = x[k, i : i + rows], y[k, i : i + rows]
                    x1, y1 = x[k, i + 1 : i + 1 + rows], y[k, i + 1 : i + 1 + rows]
                    x2, y2 = x[k, i + 2 : i + 2 + rows], y[k, i + 2 : i + 2 + rows]
                    x3, y3 = x[k, i + 3 : i + 3 + rows], y[k, i + 3 : i + 3 + rows]
                    p0 = p1 = p2 = p3 = 0.0
                    q0 = q1 = q2 = q3 = 0.0
                    for r in range(rows):
                        c, d = s[r], t[r]
                        p0 += c * x0[r] + d * y0[r]
                        q0 += c * y0[r] - d * x0[r]
                        p1 += c * x1[r] + d * y1[r]
                        q1 += c * y1[r] - d * x1[r]
                        p2 += c * x2[r] + d * y2[r]
                        q2 += c * y2[r] - d * x2[r]
                        p3 += c * x3[r] + d * y3[r]
                        q3 += c * y3[r] - d * x3[r]
                    real[a, f, i] += p0
                    imag[a, f, i] += q0
                    real[a, f, i + 1] += p1
                    imag[a, f, i + 1] += q1
                    real[a, f, i + 2] += p2
                    imag[a, f, i + 2] += q2
                    real[a, f, i + 3] += p3
                    imag[a, f, i + 3] += q3
                for i in range(n_i - n_i % 4, n_i):
                    x0, y0 = x[k, i : i + rows], y[k, i : i + rows]
                    p0 = q0 = 0.0
                    for r in range(rows):
                        p0 += s[r] * x0[r] + t[r] * y0[r]
                        q0 += s[r] * y0[r] - t[r] * x0[r]
                    real[a, f, i] += p0
                    imag[a, f, i] += q0


@_jit_sum
def spectral_correlate(spectra, n_sources, target, real, imag, rows, scratch):
    """Correlate row spectra with tap spectra: ``S_target[r, f] = sum_ai conj(taps[a, f, i]) * S_a[r + i, f]``.

    a < `n_sources`, r < `rows`; taps as `real` and `imag` (sources, frequencies, taps), `scratch` as above.
    """
    n_f, n_i = real.shape[1], real.shape[2]
    for start in range(0, n_f, BLOCK):
        scratch[2:] = 0.0
        for a in range(n_sources):
            _gather(spectra[a], start, rows + n_i - 1, scratch[0], scratch[1])
            for k in range(min(BLOCK, n_f - start)):
                p, q = scratch[2, k, :rows], scratch[3, k, :rows]
                c, d = real[a, start + k], imag[a, start + k]
                for i in range(0, n_i - 3, 4):
                    c0, c1, c2, c3 = c[i], c[i + 1], c[i + 2], c[i + 3]
                    d0, d1, d2, d3 = d[i], d[i + 1], d[i + 2], d[i + 3]
                    x0, y0 = scratch[0, k, i : i + rows], scratch[1, k, i : i + rows]
                    x1, y1 = scratch[0, k, i + 1 : i + 1 + rows], scratch[1, k, i + 1 : i + 1 + rows]
                    x2, y2 = scratch[0, k, i + 2 : i + 2 + rows], scratch[1, k, i + 2 : i + 2 + rows]
                    x3, y3 = scratch[0, k, i + 3 : i + 3 + rows], scratch[1, k, i + 3 : i + 3 + rows]
                    for r in range(rows):
                        p[r] += (
                            c0 * x0[r]
                            + d0 * y0[r]
                            + c1 * x1[r]
                            + d1 * y1[r]
                            + c2 * x2[r]
                            + d2 * y2[r]
                            + c3 * x3[r]
                            + d3 * y3[r]
                        )
                    for r in range(rows):
                        q[r] += (
                            c0 * y0[r]
                            - d0 * x0[r]
                            + c1 * y1[r]
                            - d1 * x1[r]
                            + c2 * y2[r]
                            - d2 * x2[r]
                            + c3 * y3[r]
                            - d3 * x3[r]
                        )
                for i in range(n_i - n_i % 4, n_i):
                    x0, y0 = scratch[0, k, i : i + rows], scratch[1, k, i : i + rows]
                    for r in range(rows):
                        p[r] += c[i] * x0[r] + d[i] * y0[r]
                    for r in range(rows):
                        q[r] += c[i] * y0[r] - d[i] * x0[r]
        for r in range(rows):
            for k in range(BLOCK):
                spectra[target, r, start + k] = complex(scratch[2, k, r], scratch[3, k, r])


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
