"""The compiled loops that put a Gram matrix together from lag sums.

They stand apart from `_loops` because they call nothing there, and like those validate nothing, are serial and release
the GIL.
"""

import numpy as np

from .jit import jit, jit_sum


@jit
def _place(table, gram, p, q, stride):
    """Copy a block and its transpose into the matrix; a block on the diagonal becomes symmetric to the bit.

    Element (u, v) goes to row ``p + stride * u`` and column ``q + stride * v``.
    """
    n = len(table)
    last = n - 1
    for u in range(n):
        x, first = table[u], u if p == q else 0
        if stride == 1:
            y = gram[p + u, q : q + n]
            for v in range(first, n):
                y[v] = x[v]
        elif stride == -1:
            y = gram[p - u, q - last : q + 1]
            for v in range(n - first):
                y[v] = x[last - v]
        else:
            y = gram[p + stride * u]
            for v in range(first, n):
                y[q + stride * v] = x[v]
    for v in range(n):
        y, x, end = gram[q + stride * v], table[:, v], v if p == q else n
        if stride == 1:
            y = y[p : p + n]
            for u in range(end):
                y[u] = x[u]
        else:
            for u in range(end):
                y[p + stride * u] = x[u]


@jit_sum
def assemble(lags, top, bottom, left, right, corners_a, corners_b, first, step, gram, row, col, stride_y, stride_x):
    """Box sums of every `step`-th row lag from the sums over everything, less what lies outside each box.

    For taps p = (y, u) and q = (y + i, v) the box sum is ``sum_t A[t + p] B[t + q]`` over the H x W target pixels.
    ``lags[i, v - u]`` holds it over every place where both factors lie in the extended image. `top` and `bottom` (row
    of A, row of B, column lag) hold the same for the rows above and below the boxes, `left` and `right` (column of A,
    column of B, row lag) for the columns beside them, `corners_a` and `corners_b` the 2 x 2 corner blocks of the
    extended images. From the box of one row of taps to that of the next, a row of pixels enters and one leaves; so do
    columns from (u, v) to (u + 1, v + 1).

    Tap (y, u) of the first source is row ``row + stride_y * y + stride_x * u`` of `gram`, that of the second
    column ``col + ...``; negative strides flip the kernel, exchanged ones transpose it.
    """
    n_y, n = len(lags), (lags.shape[1] + 1) // 2
    y_halo, last = n_y - 1, n - 1
    table, line, beyond = np.empty((n, n)), np.empty(2 * n - 1), np.empty(2 * n - 1)
    enters, gains = np.empty((last, last)), np.empty((last, last))  # on the right; and less what leaves on the left
    for i in range(first, n_y, step):
        line[:] = lags[i]
        for y in range(y_halo - i):
            line -= bottom[y, y + i]
        for u in range(last):
            for v in range(last):
                enters[u, v] = right[u, v, y_halo + i]
                gains[u, v] = right[u, v, y_halo + i] - left[u, v, y_halo + i]
        for y in range(y_halo - i):  # the columns of the first box end with it
            b10, b11 = corners_b[1, 0, y + i], corners_b[1, 1, y + i]
            for u in range(last):
                a10, a11, z, w = corners_a[1, 0, y, u], corners_a[1, 1, y, u], enters[u], gains[u]
                for v in range(last):
                    z[v] -= a11 * b11[v]
                for v in range(last):
                    w[v] += a10 * b10[v] - a11 * b11[v]
        for y in range(n_y - i):
            if y > 0:
                line += bottom[y - 1, y - 1 + i]
                line -= top[y - 1, y - 1 + i]
                b00, b01 = corners_b[0, 0, y - 1 + i], corners_b[0, 1, y - 1 + i]
                b10, b11 = corners_b[1, 0, y - 1 + i], corners_b[1, 1, y - 1 + i]
                for u in range(last):
                    a00, a01 = corners_a[0, 0, y - 1, u], corners_a[0, 1, y - 1, u]
                    a10, a11 = corners_a[1, 0, y - 1, u], corners_a[1, 1, y - 1, u]
                    z, w = enters[u], gains[u]
                    for v in range(last):
                        z[v] += a11 * b11[v] - a01 * b01[v]
                    for v in range(last):
                        w[v] += a11 * b11[v] - a01 * b01[v] - a10 * b10[v] + a00 * b00[v]
            beyond[:] = 0.0  # what lies right of the boxes with u = 0 or v = 0: the sums down the diagonals
            for u in range(last):
                z, w = beyond[last - u : 2 * last - u], enters[u]
                for v in range(last):
                    z[v] += w[v]
            for v in range(n):
                table[0, v] = line[last + v] - beyond[last + v]
                table[v, 0] = line[last - v] - beyond[last - v]
            for u in range(last):
                z, w, x = table[u + 1, 1:], table[u, :last], gains[u]
                for v in range(last):
                    z[v] = w[v] + x[v]
            _place(table, gram, row + stride_y * y, col + stride_y * (y + i), stride_x)


@jit_sum
def assemble_line(line, ends_a, ends_b, gram, row, col, stride):
    """Do the work of `assemble` for kernels of one row, and targets of a few.

    ``line[n - 1 + v - u]`` holds the sums over everything. `ends_a` and `ends_b` (2, rows, n - 1) are the first and the
    last columns of the extended images: from one tap to the next one column leaves the box, and one enters. `stride` is
    1, or -1 to flip the kernel. Rows of the matrix follow from each other along the diagonals.
    """
    n, rows = (len(line) + 1) // 2, ends_a.shape[1]
    last = n - 1
    old, new, down = np.empty(n), np.empty(n), np.empty(n)
    for lag in range(n):  # the first row, and the first column: less what lies right of their boxes
        s = t = 0.0
        for r in range(rows):
            a, b = ends_a[1, r], ends_b[1, r]
            for u in range(last - lag):
                s += a[u] * b[u + lag]
                t += a[u + lag] * b[u]
        new[lag], down[lag] = line[last + lag] - s, line[last - lag] - t
    for u in range(n):
        if u > 0:
            old, new = new, old
            new[0] = down[u]
            y = new[1:]
            for v in range(last):
                y[v] = old[v]
            for r in range(rows):
                leaves, enters, x, w = ends_a[0, r, u - 1], ends_a[1, r, u - 1], ends_b[0, r], ends_b[1, r]
                for v in range(last):
                    y[v] += enters * w[v] - leaves * x[v]
        if stride > 0:
            gram[row + u, col : col + n] = new
        else:
            gram[row - u, col - last : col + 1] = new[::-1]
    top, left = (row, col) if stride > 0 else (row - last, col - last)
    side = 32  # the transpose, a few lines of the cache at a time
    for p in range(0, n, side):
        for q in range(p if top == left else 0, n, side):
            for v in range(q, min(q + side, n)):
                y = gram[left + v]
                for u in range(p, min(p + side, n, v) if top == left else min(p + side, n)):
                    y[top + u] = gram[top + u, left + v]
