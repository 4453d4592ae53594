"""The compiled loops that put a Gram matrix together from lag sums."""

from collections.abc import Sequence

import numpy as np

from .jit import Array, flat, item, jit, jit_sum, put

#: Where a block begins in a matrix, row and column, and what lies between its taps down and along the kernel.
Place = tuple[int, int, int, int]


def assemble(
    lags: Array, strips: Sequence[Array], corners: Sequence[Array], first: int, step: int, gram: Array, place: Place
) -> None:
    """Box sums of every `step`-th row lag from the sums over everything, less what lies outside each box.

    For taps p = (y, u) and q = (y + i, v) the box sum is ``sum_t A[t + p] B[t + q]`` over the H x W target pixels.
    ``lags[i, v - u]`` holds it over every place where both factors lie in the extended image. Two of the `strips` (row
    of A, row of B, column lag) hold the same for the rows above and below the boxes, two (column of A, column of B, row
    lag) for the columns left and right of them; the `corners` of A and B are 2 x 2 corner blocks of the extended
    images. From the box of one row of taps to that of the next, a row of pixels enters and one leaves; so do columns
    from (u, v) to (u + 1, v + 1).

    Tap (y, u) of the first source is row ``row + stride_y * y + stride_x * u`` of `gram`, that of the second
    column ``col + ...``, `place` being ``row, col, stride_y, stride_x``; negative strides flip the kernel, exchanged
    ones transpose it.
    """
    n_y, n = len(lags), (lags.shape[1] + 1) // 2
    scratch = np.empty(2 * (2 * n - 1) + 2 * (n - 1) ** 2 + n * n)
    sides, ends = (tuple(part.ravel() for part in some) for some in (strips, corners))
    _assemble(lags.ravel(), sides, ends, n_y, n, first, step, scratch, flat(gram), len(gram), place)


@jit_sum
def _assemble(lags, strips, corners, n_y, n, first, step, s, gram, side, place):
    """Do what `assemble` says with flat arrays, which take half as long to compile."""
    (top, bottom, left, right), (corners_a, corners_b), (row, col, step_y, step_x) = strips, corners, place
    h, last, n_lags, deep = n_y - 1, n - 1, 2 * n - 1, 2 * n_y - 1
    # s is scratch: a line of lags, then what lies right of the boxes, what enters on the right, that less what leaves
    # on the left, and the box sums of two rows of taps
    beyond, enters, gains, table = n_lags, 2 * n_lags, 2 * n_lags + last * last, 2 * n_lags + 2 * last * last
    area = h * last  # of a corner
    for i in range(first, n_y, step):
        for k in range(n_lags):
            put(s, k, item(lags, i * n_lags + k))
        for y in range(h - i):
            z = (y * h + y + i) * n_lags
            for k in range(n_lags):
                put(s, k, item(s, k) - item(bottom, z + k))
        for k in range(last * last):
            z = k * deep + h + i
            put(s, enters + k, item(right, z))
            put(s, gains + k, item(right, z) - item(left, z))
        for y in range(h - i):  # the columns of the first box end with it
            b10 = 2 * area + (y + i) * last
            b11 = b10 + area
            for u in range(last):
                a10, a11 = item(corners_a, 2 * area + y * last + u), item(corners_a, 3 * area + y * last + u)
                z, w = enters + u * last, gains + u * last
                for v in range(last):
                    put(s, z + v, item(s, z + v) - a11 * item(corners_b, b11 + v))
                    x = a10 * item(corners_b, b10 + v) - a11 * item(corners_b, b11 + v)
                    put(s, w + v, item(s, w + v) + x)
        for y in range(n_y - i):
            if y > 0:
                z = ((y - 1) * h + y - 1 + i) * n_lags
                for k in range(n_lags):
                    put(s, k, item(s, k) + item(bottom, z + k) - item(top, z + k))
                b00 = (y - 1 + i) * last
                b01, b10, b11 = b00 + area, b00 + 2 * area, b00 + 3 * area
                for u in range(last):
                    t = (y - 1) * last + u
                    a00, a01 = item(corners_a, t), item(corners_a, t + area)
                    a10, a11 = item(corners_a, t + 2 * area), item(corners_a, t + 3 * area)
                    z, w = enters + u * last, gains + u * last
                    for v in range(last):
                        gained = a11 * item(corners_b, b11 + v) - a01 * item(corners_b, b01 + v)
                        put(s, z + v, item(s, z + v) + gained)
                        x = a11 * item(corners_b, b11 + v) - a01 * item(corners_b, b01 + v)
                        x = x - a10 * item(corners_b, b10 + v) + a00 * item(corners_b, b00 + v)
                        put(s, w + v, item(s, w + v) + x)
            for k in range(n_lags):
                put(s, beyond + k, 0.0)  # with u = 0 or v = 0 that is the sums down the diagonals
            for u in range(last):
                z, w = beyond + last - u, enters + u * last
                for v in range(last):
                    put(s, z + v, item(s, z + v) + item(s, w + v))
            for v in range(n):
                put(s, table + v, item(s, last + v) - item(s, beyond + last + v))
                put(s, table + v * n, item(s, last - v) - item(s, beyond + last - v))
            for u in range(last):
                z, w, x = table + (u + 1) * n + 1, table + u * n, gains + u * last
                for v in range(last):
                    put(s, z + v, item(s, w + v) + item(s, x + v))
            p, q = row + step_y * y, col + step_y * (y + i)
            for u in range(n):  # the block and its transpose; one on the diagonal becomes symmetric to the bit
                x, across, down = table + u * n, (p + step_x * u) * side + q, q * side + p + step_x * u
                for v in range(u if p == q else 0, n):
                    put(gram, across + step_x * v, item(s, x + v))
                    put(gram, down + step_x * side * v, item(s, x + v))


@jit_sum
def assemble_line(line, ends_a, ends_b, gram, row, col, stride):
    """Do the work of `assemble` for kernels of one row, and targets of a few."""
    # ``line[n - 1 + v - u]`` holds the sums over everything. `ends_a` and `ends_b` (2, rows, n - 1) are the first and
    # the last columns of the extended images: from one tap to the next one column leaves the box, and one enters.
    # `stride` is 1, or -1 to flip the kernel. Rows of the matrix follow from each other along the diagonals.
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
        x = gram[row + u, col:] if stride > 0 else gram[row - u, col - last :]
        for v in range(n):
            x[v] = new[v if stride > 0 else last - v]
    top, left = (row, col) if stride > 0 else (row - last, col - last)
    side = 32  # the transpose, a few lines of the cache at a time
    for p in range(0, n, side):
        for q in range(p if top == left else 0, n, side):
            for v in range(q, min(q + side, n)):
                y = gram[left + v]
                for u in range(p, min(p + side, n, v) if top == left else min(p + side, n)):
                    y[top + u] = gram[top + u, left + v]


@jit_sum
def _diagonal(table, ahead, out):
    """Add up products (n, n, m) of two rows of a strip to those beyond the box of two taps, (n + 1, n + 1, m)."""
    # Of a strip `ahead` of the box those are the rows before the tap's, of one behind it those from the tap's on.
    n, m = len(table), table.shape[2]
    for a in range(n) if ahead else range(n - 1, -1, -1):
        for b in range(n):
            x = table[a, b]
            y, z = (out[a, b], out[a + 1, b + 1]) if ahead else (out[a + 1, b + 1], out[a, b])
            for k in range(m):
                z[k] = y[k] + x[k]


@jit_sum
def assemble_planes(lags, strips, corners, gram, row, col, flipped):
    """Make one block of the Gram matrix of a volume of sums over planes, tap (y, u) of n in row ``row + y * cols + u``.

    ``lags[i, j]`` are the lag sums of whole planes, the lag zero in the middle. `strips` (above, below, left and right
    of the boxes) hold products (row, row', lag) or (column, column', lag), `corners` those of the corners above left,
    above right, below left and below right, (row, row', column * column'). If `flipped` the taps run backwards.
    """
    rows, cols = (lags.shape[0] + 1) // 2, (lags.shape[1] + 1) // 2
    beside, across = np.zeros((rows, rows, 2 * cols - 1)), np.zeros((cols, cols, 2 * rows - 1))
    part, other = np.zeros(beside.shape), np.zeros(across.shape)
    _diagonal(strips[0], True, beside)
    _diagonal(strips[1], False, part)
    _diagonal(strips[2], True, across)
    _diagonal(strips[3], False, other)
    small = (cols - 1) * (cols - 1)
    both, half, y = np.zeros((rows, rows, cols, cols)), np.empty((rows, rows, small)), np.empty((cols, cols, 1))
    for at in range(4 if rows > 1 and cols > 1 else 0):
        half[:] = 0.0
        _diagonal(corners[at], at < 2, half)
        for p in range(rows):
            for q in range(rows):
                y[:] = 0.0
                _diagonal(half[p, q].reshape(cols - 1, cols - 1, 1), at % 2 == 0, y)
                z = both[p, q]
                for u in range(cols):
                    for v in range(cols):
                        z[u, v] += y[u, v, 0]
    last = rows * cols - 1
    for p in range(rows):
        for q in range(rows):
            i = q - p + rows - 1
            for u in range(cols):
                x, y, z, w = lags[i], beside[p, q], part[p, q], both[p, q, u]
                a = p * cols + u
                line = gram[row + (last - a if flipped else a)]
                for v in range(cols):
                    j = v - u + cols - 1
                    b = q * cols + v
                    found = x[j] - y[j] - z[j] - across[u, v, i] - other[u, v, i] + w[v]
                    line[col + (last - b if flipped else b)] = found


@jit_sum
def _pair_sums(a, a_col, b, cols, symmetric, out):
    """Set ``out[p, q, j] = sum_c a[p, a_col + c] * b[q, c + j]``, c < `cols`, the number of j a multiple of 4."""
    # If `symmetric`, for q >= p only. Two rows of a and four lags at a time, so that six loads feed eight
    # multiply-adds.
    n = len(out)
    for p in range(0, n, 2):
        n_rows = min(2, n - p)
        x, z = a[p, a_col : a_col + cols], a[p + n_rows - 1, a_col : a_col + cols]
        for q in range(p if symmetric else 0, n):
            line = b[q]
            for j in range(0, out.shape[2], 4):
                y0, y1 = line[j : j + cols], line[j + 1 : j + 1 + cols]
                y2, y3 = line[j + 2 : j + 2 + cols], line[j + 3 : j + 3 + cols]
                s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = 0.0
                for c in range(cols):
                    v, w = x[c], z[c]
                    s0 += v * y0[c]
                    s1 += v * y1[c]
                    s2 += v * y2[c]
                    s3 += v * y3[c]
                    t0 += w * y0[c]
                    t1 += w * y1[c]
                    t2 += w * y2[c]
                    t3 += w * y3[c]
                last = out[p + n_rows - 1, q]
                last[j], last[j + 1], last[j + 2], last[j + 3] = t0, t1, t2, t3
                first = out[p, q]
                first[j], first[j + 1], first[j + 2], first[j + 3] = s0, s1, s2, s3


@jit_sum
def _column_strips(block, col, n_rows, n_cols, y_halo, out):
    """Lag sums over the target's rows of the columns left and right of it."""
    # ``out[k, p, q, i] = sum_r x[r, p] * x[r + i, q]``, x being what lies `n_cols` times k to the right.
    n = out.shape[1]
    whole = -(-n_rows // 32) * 32  # no odd ends; beyond the pixels there are zeros
    a, b = np.zeros((n, whole)), np.zeros((n, whole + y_halo + 4))
    for k in range(2):
        for p in range(n):
            for r in range(n_rows + y_halo):
                b[p, r] = block[r, col + k * n_cols + p]
            x = a[p]
            for r in range(n_rows):
                x[r] = b[p, r]
        _pair_sums(a, 0, b, whole, False, out[k])


@jit_sum
def _row_strips(block, col, n_rows, n_cols, corners, out):
    """Lag sums of the rows above and below the target, and their ends, each followed by a zero."""
    # ``out[k, p, q, j] = sum_c x[p, c] * x[q, c + j - n]``, x being what lies `n_rows` times k further down; q >= p.
    n_strip, n = out.shape[1], corners.shape[2] // out.shape[1] - 1
    whole = -(-(n_cols + n) // 32) * 32
    wide = np.zeros((n_strip, n + whole + n + 4))
    for k in range(2):
        for p in range(n_strip):
            line, x, at = block[k * n_rows + p, col:], wide[p, n:], p * (n + 1)
            for c in range(n_cols + n):
                x[c] = line[c]
            for c in range(n):
                corners[k, 0, at + c] = line[c]
                corners[k, 1, at + c] = line[n_cols + c]
        _pair_sums(wide, n, wide, whole, True, out[k])


@jit
def _first_rows(down, lags, gram):
    """Cut what lies left and right of each box off the lag sums: the rows of the Gram matrix of the first taps."""
    # Both are sums down a diagonal, ``cut[u, v] = cut[u - 1, v - 1] + ...``, so that each row follows from its
    # neighbour.
    n_y, n_x = len(lags), (lags.shape[1] + 1) // 2
    last = n_x - 1
    cut = np.zeros((2, n_x))
    for i in range(n_y):
        here = slice(i * n_x, (i + 1) * n_x)
        cut[0] = 0.0
        for u in range(n_x):
            new, old, z, y = cut[u % 2], cut[1 - u % 2], gram[u, here], lags[i, last - u : last - u + n_x]
            new[0] = 0.0
            for v in range(1, n_x if u else 1):
                new[v] = old[v - 1] + down[0, u - 1, v - 1, i]
            for v in range(n_x):
                z[v] = y[v] - new[v]
        cut[last % 2] = 0.0
        for u in range(last - 1, -1, -1):
            new, old, z = cut[u % 2], cut[1 - u % 2], gram[u, here]
            new[last] = 0.0
            for v in range(last):
                new[v] = old[v + 1] + down[1, u, v, i]
                z[v] -= new[v]


@jit
def _next_rows(y, across, corners, gram):
    """Make the rows of the Gram matrix of the taps of row y + 1 from those of row y, a whole row at a time."""
    # Each box of pixels loses its top row and gains one below it, but for what lies left and right of the box.
    y_halo = across.shape[1]
    n_x = corners.shape[2] // y_halo
    depth, last = y_halo - y, n_x - 1
    width = depth * n_x
    change = across[1, y, y:] - across[0, y, y:]
    cut = np.zeros((2, width))
    old_rows, new_rows = slice(y * n_x, y * n_x + width), slice((y + 1) * n_x, (y + 1) * n_x + width)
    for u in range(n_x):
        x, z = gram[y * n_x + u, old_rows], gram[(y + 1) * n_x + u, new_rows]
        for i in range(depth):
            for v in range(n_x):
                z[i * n_x + v] = x[i * n_x + v] + change[i, last - u + v]
    lost, gained = corners[0, 0, y * n_x :], corners[1, 0, y * n_x :]
    for u in range(1, n_x):
        new, old, z = cut[u % 2, 1:], cut[1 - u % 2], gram[(y + 1) * n_x + u, new_rows][1:]
        s, t = lost[u - 1], gained[u - 1]
        for k in range(width - 1):
            new[k] = old[k] + t * gained[k] - s * lost[k]
        for i in range(depth):
            cut[u % 2, i * n_x] = 0.0
        for k in range(width - 1):
            z[k] -= new[k]
    lost, gained = corners[0, 1, y * n_x :], corners[1, 1, y * n_x :]
    cut[last % 2] = 0.0
    for u in range(last - 1, -1, -1):
        new, old, z = cut[u % 2], cut[1 - u % 2, 1:], gram[(y + 1) * n_x + u, new_rows]
        s, t = lost[u], gained[u]
        for k in range(width - 1):
            new[k] = old[k] + t * gained[k] - s * lost[k]
        for i in range(depth):
            cut[u % 2, i * n_x + last] = 0.0
        for k in range(width - 1):
            z[k] -= new[k]


@jit
def gram_of_block(block, col, n_rows, n_cols, lags, gram):
    """Make the upper triangle of the Gram matrix of a block that is in memory, tap (y, u) in row ``y * n_x + u``."""
    # The extended image of ``n_rows x n_cols`` target pixels starts at column `col` of `block`. `lags` holds its lag
    # sums over the rows of the target, ``lags[i, n + j] = sum_rc block[r, c] block[r + i, c + j]``, r < `n_rows`, |j|
    # <= n.
    n_y, n_x = len(lags), (lags.shape[1] + 1) // 2
    down = np.empty((2, n_x - 1, n_x - 1, -(-n_y // 4) * 4))
    _column_strips(block, col, n_rows, n_cols, n_y - 1, down)
    _first_rows(down, lags, gram)
    if n_y > 1:
        across = np.empty((2, n_y - 1, n_y - 1, -(-lags.shape[1] // 4) * 4))
        corners = np.zeros((2, 2, (n_y - 1) * n_x))
        _row_strips(block, col, n_rows, n_cols, corners, across)
        for y in range(n_y - 1):
            _next_rows(y, across, corners, gram)
