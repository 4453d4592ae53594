"""The compiled loop that looks a pattern up through a homography and a displacement."""

import numpy as np

from .jit import jit


@jit
def look_up(pattern, matrix, centre, radius, powers, coefficients, half, rows, cols, out):
    """Fill ``out[i, j]`` with what the place ``(rows[i], cols[j])`` looks on, NaN beyond the pattern.

    That is the mean of the cells over a square of sides ``2 half``, below one cell, along the cells.

    The place is moved by ``sum_k coefficients[k] r^powers[k, 0] c^powers[k, 1]``, with (r, c) the place less `centre`
    over `radius`, then taken to cells by the homography `matrix`. All float64 but `powers`, int64.
    """
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
