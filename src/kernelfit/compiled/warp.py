"""The compiled loops that read an image between its pixels, and a pattern of cells at any place."""

import numpy as np

from .jit import jit, jit_sum


@jit_sum
def _weights(t, w):
    """Put the quintic B-spline at the six pixels around a place into `w`; the place is `t` beyond the third."""
    u, v, z = 1.0 - t, 1.0 + t, 2.0 - t
    t2, u2 = t * t, u * u
    w[0] = u2 * u2 * u / 120.0
    w[5] = t2 * t2 * t / 120.0
    w[2] = 0.55 + t2 * (-0.5 + t2 * (0.25 - t / 12.0))
    w[3] = 0.55 + u2 * (-0.5 + u2 * (0.25 - u / 12.0))
    w[1] = 0.425 + v * (0.625 + v * (-1.75 + v * (1.25 + v * (-0.375 + v / 24.0))))
    w[4] = 0.425 + z * (0.625 + z * (-1.75 + z * (1.25 + z * (-0.375 + z / 24.0))))


@jit_sum
def _steepness(t, w):
    """Put the derivatives of these weights with the place into `w`."""
    u, v, z = 1.0 - t, 1.0 + t, 2.0 - t
    w[0] = -u * u * u * u / 24.0
    w[5] = t * t * t * t / 24.0
    w[2] = t * (-1.0 + t * t * (1.0 - t * (5.0 / 12.0)))
    w[3] = -u * (-1.0 + u * u * (1.0 - u * (5.0 / 12.0)))
    w[1] = 0.625 + v * (-3.5 + v * (3.75 + v * (-1.5 + v * (5.0 / 24.0))))
    w[4] = -(0.625 + z * (-3.5 + z * (3.75 + z * (-1.5 + z * (5.0 / 24.0)))))


@jit_sum
def _mirrored(i, n):
    """Return the pixel of an axis mirrored about its edges, the pixels there repeated."""
    i = i % (2 * n)
    return min(i, 2 * n - 1 - i)


@jit_sum
def _six(flat, at, w):
    part = w[0] * flat[at] + w[1] * flat[at + 1] + w[2] * flat[at + 2]
    return part + (w[3] * flat[at + 3] + w[4] * flat[at + 4] + w[5] * flat[at + 5])


@jit_sum
def warp_rows(coefficients, matrix, first, reach, out, outside, slopes):
    """Read rows of the warped image, from the row `first` on, from the coefficients of the image's quintic spline."""
    # The pixel (row, col) is read at ``matrix @ (row, col, 1)``, divided by the last. `outside` tells which lie further
    # than `reach` beyond the centres of the pixels at the edge; those are read from the mirrored image, at most its
    # width away. `slopes` takes the derivatives of the warped image with row and column, if it has any rows.
    n_rows, n_cols = coefficients.shape
    flat, sloped = coefficients.reshape(-1), slopes.shape[1] > 0
    down, across, near = np.empty(6), np.empty(6), np.empty(36)
    fall, lean = np.empty(6), np.empty(6)
    for r in range(out.shape[0]):
        row = float(first + r)
        for c in range(out.shape[1]):
            over = matrix[2, 0] * row + matrix[2, 1] * c + matrix[2, 2]
            over = over if over > 1e-6 else 1e-6  # behind the horizon of a perspective
            y = (matrix[0, 0] * row + matrix[0, 1] * c + matrix[0, 2]) / over
            x = (matrix[1, 0] * row + matrix[1, 1] * c + matrix[1, 2]) / over
            outside[r, c] = not (-reach <= y <= n_rows - 1 + reach and -reach <= x <= n_cols - 1 + reach)
            v, u = min(max(y, -float(n_rows)), 2.0 * n_rows), min(max(x, -float(n_cols)), 2.0 * n_cols)
            i, j = int(np.floor(v)), int(np.floor(u))
            _weights(v - i, down)
            _weights(u - j, across)
            values, at, step = flat, (i - 2) * n_cols + j - 2, n_cols
            if not (2 <= i < n_rows - 3 and 2 <= j < n_cols - 3):
                for a in range(36):
                    near[a] = coefficients[_mirrored(i - 2 + a // 6, n_rows), _mirrored(j - 2 + a % 6, n_cols)]
                values, at, step = near, 0, 6
            total = 0.0
            if sloped:
                _steepness(v - i, fall)
                _steepness(u - j, lean)
                dy = dx = 0.0
                for a in range(6):
                    part = _six(values, at + a * step, across)
                    total += down[a] * part
                    dy += fall[a] * part
                    dx += down[a] * _six(values, at + a * step, lean)
                for k in range(2):
                    steep = (matrix[0, k] - y * matrix[2, k]) * dy + (matrix[1, k] - x * matrix[2, k]) * dx
                    slopes[k, r, c] = steep / over
            else:
                for a in range(6):
                    total += down[a] * _six(values, at + a * step, across)
            out[r, c] = total


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
