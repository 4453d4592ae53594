"""The compiled loops that read an image between its pixels, and a pattern of cells at any place."""

import numpy as np

from .jit import LANES, item, jit, jit_sum, load, repeated, store, zeros


@jit_sum
def _weights(places, w):
    """Put the quintic B-spline at the six pixels around places into `w`; the third lies below a place."""
    for c in range(len(places)):  # one after the other in memory: several go into a register
        t = places[c] - np.floor(places[c])
        u, v, z = 1.0 - t, 1.0 + t, 2.0 - t
        t2, u2 = t * t, u * u
        w[0, c] = u2 * u2 * u / 120.0
        w[5, c] = t2 * t2 * t / 120.0
        w[2, c] = 0.55 + t2 * (-0.5 + t2 * (0.25 - t / 12.0))
        w[3, c] = 0.55 + u2 * (-0.5 + u2 * (0.25 - u / 12.0))
        w[1, c] = 0.425 + v * (0.625 + v * (-1.75 + v * (1.25 + v * (-0.375 + v / 24.0))))
        w[4, c] = 0.425 + z * (0.625 + z * (-1.75 + z * (1.25 + z * (-0.375 + z / 24.0))))


@jit_sum
def _steepness(places, w):
    """Put the derivatives of these weights with the place into `w`."""
    for c in range(len(places)):
        t = places[c] - np.floor(places[c])
        u, v, z = 1.0 - t, 1.0 + t, 2.0 - t
        w[0, c] = -u * u * u * u / 24.0
        w[5, c] = t * t * t * t / 24.0
        w[2, c] = t * (-1.0 + t * t * (1.0 - t * (5.0 / 12.0)))
        w[3, c] = -u * (-1.0 + u * u * (1.0 - u * (5.0 / 12.0)))
        w[1, c] = 0.625 + v * (-3.5 + v * (3.75 + v * (-1.5 + v * (5.0 / 24.0))))
        w[4, c] = -(0.625 + z * (-3.5 + z * (3.75 + z * (-1.5 + z * (5.0 / 24.0)))))


@jit_sum
def _mirrored(i, n):
    """Return the pixel of an axis mirrored about its edges, the pixels there repeated."""
    i = i % (2 * n)
    return min(i, 2 * n - 1 - i)


@jit_sum
def _down(flat, at, step, down, n, c, sums):
    """Put the sums over six rows into `sums`, the first pixel at `at`, with the weights of a place; two are spare."""
    for part in range(0, 8, LANES):
        total = zeros()
        for a in range(6):
            total = total + repeated(down, a * n + c) * load(flat, at + a * step + part)
        store(sums, part, total)


@jit_sum
def _across(sums, across, n, c):
    """Return the sum over six columns of these."""
    first = item(across, c) * item(sums, 0) + item(across, n + c) * item(sums, 1)
    second = item(across, 2 * n + c) * item(sums, 2) + item(across, 3 * n + c) * item(sums, 3)
    return first + second + (item(across, 4 * n + c) * item(sums, 4) + item(across, 5 * n + c) * item(sums, 5))


@jit_sum
def _place(table, row, col):
    """Return where a pixel is read, and by what was divided there."""
    over = table[6] * row + table[7] * col + table[8]
    over = over if over > 1e-6 else 1e-6  # behind the horizon of a perspective
    y, x = table[0] * row + table[1] * col + table[2], table[3] * row + table[4] * col + table[5]
    return y / over, x / over, over


@jit_sum
def _places(table, row, reach, n_rows, n_cols, outside, down, across):
    """Tell which pixels of a row lie outside, and where they are read, at most the image's width away from it."""
    for c in range(len(outside)):
        y, x, _ = _place(table, row, float(c))
        outside[c] = not (-reach <= y <= n_rows - 1 + reach and -reach <= x <= n_cols - 1 + reach)
        down[c] = min(max(y, -float(n_rows)), 2.0 * n_rows)
        across[c] = min(max(x, -float(n_cols)), 2.0 * n_cols)


@jit_sum
def _turned(table, row, down, across):
    """Make derivatives with the place of what is read along a row those with the row and the column of the pixels."""
    for c in range(len(down)):
        y, x, over = _place(table, row, float(c))
        dy, dx = down[c] / over, across[c] / over
        down[c] = (table[0] - y * table[6]) * dy + (table[3] - x * table[6]) * dx
        across[c] = (table[1] - y * table[7]) * dy + (table[4] - x * table[7]) * dx


@jit_sum
def warp_rows(coefficients, matrix, first, reach, out, outside, by_row, by_col):
    """Read rows of the warped image, from the row `first` on, from the float32 coefficients of its quintic spline."""
    # The pixel (row, col) is read at ``matrix @ (row, col, 1)``, divided by the last. `outside` tells which lie further
    # than `reach` beyond the centres of the pixels at the edge; those are read from the mirrored image, at most its
    # width away. `by_row` and `by_col` take the derivatives of the warped image, if they have any rows.
    (n_rows, n_cols), n = coefficients.shape, out.shape[1]
    flat, sloped, m = coefficients.reshape(-1), by_row.shape[0] > 0, matrix
    table = (m[0, 0], m[0, 1], m[0, 2], m[1, 0], m[1, 1], m[1, 2], m[2, 0], m[2, 1], m[2, 2])
    rows, cols, weights, near, sums = (
        np.empty(n),
        np.empty(n),
        np.empty((4, 6, n)),
        np.zeros(48, np.float32),
        np.empty(8),
    )
    down, across = weights[0].reshape(-1), weights[1].reshape(-1)
    fall, lean = weights[2].reshape(-1), weights[3].reshape(-1)
    for r in range(out.shape[0]):
        row = float(first + r)
        _places(table, row, reach, n_rows, n_cols, outside[r], rows, cols)
        _weights(rows, weights[0])
        _weights(cols, weights[1])
        if sloped:
            _steepness(rows, weights[2])
            _steepness(cols, weights[3])
        for c in range(n):
            i, j = int(np.floor(rows[c])), int(np.floor(cols[c]))
            dy = 0.0
            if 2 <= i < n_rows - 4 and 2 <= j < n_cols - 3:  # beyond the last row nothing is spare
                at = (i - 2) * n_cols + j - 2
                if sloped:
                    _down(flat, at, n_cols, fall, n, c, sums)
                    dy = _across(sums, across, n, c)
                _down(flat, at, n_cols, down, n, c, sums)
            else:
                for a in range(36):
                    here = _mirrored(i - 2 + a // 6, n_rows) * n_cols + _mirrored(j - 2 + a % 6, n_cols)
                    near[8 * (a // 6) + a % 6] = flat[here]
                if sloped:
                    _down(near, 0, 8, fall, n, c, sums)
                    dy = _across(sums, across, n, c)
                _down(near, 0, 8, down, n, c, sums)
            out[r, c] = _across(sums, across, n, c)
            if sloped:
                by_row[r, c], by_col[r, c] = dy, _across(sums, lean, n, c)
        if sloped:
            _turned(table, row, by_row[r], by_col[r])


@jit_sum
def moving(down, across, row, col, field, rows, cols, out):
    """Fill `out` with what a field of displacements makes of slopes, which are read from `row` and `col` on."""
    # At (u, v), of `rows` and `cols`, that is ``f @ (u, v, 1)`` less (u, v) times its last, f being `field`, (3, 3).
    f, n = field, out.shape[1]
    for i in range(out.shape[0]):
        u, steep, lean, made = rows[i], down[row + i, col : col + n], across[row + i, col : col + n], out[i]
        a, b = f[0, 2] + u * (f[0, 0] - u * f[2, 0]), f[0, 1] - u * f[2, 1]
        c, d, e = f[1, 2] + u * f[1, 0], f[1, 1] - u * f[2, 0], -f[2, 1]
        for j in range(n):
            v = cols[j]
            made[j] = (a + b * v) * steep[j] + (c + v * (d + e * v)) * lean[j]


@jit
def look_up(pattern, matrix, centre, radius, powers, coefficients, half, rows, cols, out):
    """Fill ``out[i, j]`` with what the place ``(rows[i], cols[j])`` looks on, NaN beyond the pattern."""
    # That is the mean of the cells over a square of sides ``2 half``, below one cell, along the cells.
    # The place is moved by ``sum_k coefficients[k] r^powers[k, 0] c^powers[k, 1]``, with (r, c) the place less `centre`
    # over `radius`, then taken to cells by the homography `matrix`. All float64 but `powers`, int64.
    n_rows, n_cols = pattern.shape
    degree = powers.max() if len(powers) else -1
    down, across = np.zeros(degree + 1), np.zeros(degree + 1)
    for i in range(len(rows)):
        r = (rows[i] - centre[0]) / radius
        down[:], across[:] = 0.0, 0.0
        for k in range(len(powers)):  # along a row the displacement is a polynomial of the column
            term = r ** powers[k, 0]
            down[powers[k, 1]] += coefficients[k, 0] * term
            across[powers[k, 1]] += coefficients[k, 1] * term
        for j in range(len(cols)):
            c = (cols[j] - centre[1]) / radius
            y, x = 0.0, 0.0
            for k in range(degree, -1, -1):
                y, x = y * c + down[k], x * c + across[k]
            y, x = y + rows[i], x + cols[j]
            depth = matrix[2, 0] * y + matrix[2, 1] * x + matrix[2, 2]
            v = (matrix[0, 0] * y + matrix[0, 1] * x + matrix[0, 2]) / depth + 0.5
            u = (matrix[1, 0] * y + matrix[1, 1] * x + matrix[1, 2]) / depth + 0.5
            if not (0 <= v < n_rows and 0 <= u < n_cols):
                out[i, j] = np.nan
                continue
            top, left = max(int(np.floor(v - half)), 0), max(int(np.floor(u - half)), 0)
            bottom, right = min(int(np.floor(v + half)), n_rows - 1), min(int(np.floor(u + half)), n_cols - 1)
            lower = (v + half - bottom) / (2 * half) if bottom > top else 0.0
            further = (u + half - right) / (2 * half) if right > left else 0.0
            above = pattern[top, left] + further * (pattern[top, right] - pattern[top, left])
            below = pattern[bottom, left] + further * (pattern[bottom, right] - pattern[bottom, left])
            out[i, j] = above + lower * (below - above)
