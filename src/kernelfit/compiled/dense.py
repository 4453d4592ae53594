"""The compiled loops of the exact methods: sums of products, tiles, factors.

None validates, allocates in an inner loop, or raises; all are serial and release the GIL, so that threads can run them.
Each array is C-contiguous float64, so each function is compiled once.
"""

import numpy as np

from .jit import LANES, jit, jit_sum, load, repeated, store, zeros
from .lag_sums import lag_sums, moments
from .spectral_products import _four, _put_four, complex_sums, inverse_at_lags, spectral_lag_sums


@jit_sum
def _pair_sums(a, a_col, b, cols, symmetric, out):
    """Set ``out[p, q, j] = sum_c a[p, a_col + c] * b[q, c + j]``, c < `cols`, the number of j a multiple of 4.

    If `symmetric`, for q >= p only. Two rows of a and four lags at a time, so that six loads feed eight multiply-adds.
    """
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
    """Lag sums over the target's rows of the columns left and right of it.

    ``out[k, p, q, i] = sum_r x[r, p] * x[r + i, q]``, x being what lies `n_cols` times k to the right.
    """
    n = out.shape[1]
    whole = -(-n_rows // 32) * 32  # no odd ends; beyond the pixels there are zeros
    a, b = np.zeros((n, whole)), np.zeros((n, whole + y_halo + 4))
    for k in range(2):
        for p in range(n):
            for r in range(n_rows + y_halo):
                b[p, r] = block[r, col + k * n_cols + p]
        a[:, :n_rows] = b[:, :n_rows]
        _pair_sums(a, 0, b, whole, False, out[k])


@jit_sum
def _row_strips(block, col, n_rows, n_cols, corners, out):
    """Lag sums of the rows above and below the target, and their ends, each followed by a zero.

    ``out[k, p, q, j] = sum_c x[p, c] * x[q, c + j - n]``, x being what lies `n_rows` times k further down; q >= p.
    """
    n_strip, n = out.shape[1], corners.shape[2] // out.shape[1] - 1
    whole = -(-(n_cols + n) // 32) * 32
    wide = np.zeros((n_strip, n + whole + n + 4))
    for k in range(2):
        for p in range(n_strip):
            line = block[k * n_rows + p, col : col + n_cols + n]
            wide[p, n : n + n_cols + n] = line
            corners[k, 0, p * (n + 1) : p * (n + 1) + n] = line[:n]
            corners[k, 1, p * (n + 1) : p * (n + 1) + n] = line[n_cols:]
        _pair_sums(wide, n, wide, whole, True, out[k])


@jit
def _first_rows(down, lags, gram):
    """Cut what lies left and right of each box off the lag sums: the rows of the Gram matrix of the first taps.

    Both are sums down a diagonal, ``cut[u, v] = cut[u - 1, v - 1] + ...``, so that each row follows from its neighbour.
    """
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
    """Make the rows of the Gram matrix of the taps of row y + 1 from those of row y, a whole row at a time.

    Each box of pixels loses its top row and gains one below it, but for what lies left and right of the box.
    """
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
    """Make the upper triangle of the Gram matrix of a block that is in memory, tap (y, u) in row ``y * n_x + u``.

    The extended image of ``n_rows x n_cols`` target pixels starts at column `col` of `block`. `lags` holds its lag sums
    over the rows of the target, ``lags[i, n + j] = sum_rc block[r, c] block[r + i, c + j]``, r < `n_rows`, |j| <= n.
    """
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


@jit_sum
def _inverse_times(factor, x, out):
    """Multiply ``F F'`` by a vector, F being upper triangular."""
    m = len(x)
    half = np.zeros(m)
    for i in range(m):
        c, y, line = x[i], half[i:], factor[i, i:]
        for j in range(m - i):
            y[j] += c * line[j]
    for i in range(m):
        s, y, line = 0.0, half[i:], factor[i, i:]
        for j in range(m - i):
            s += line[j] * y[j]
        out[i] = s


@jit_sum
def inverse_norm(factor):
    """KernelFit the 1-norm of ``F F'``, F being upper triangular, from below.

    Hager's method, and Higham's safeguard for matrices that it is blind to, whose large part is orthogonal to a vector
    of ones: Higham, "Accuracy and Stability", 2nd ed., algorithm 15.1.
    """
    m = len(factor)
    x, y, z, best = np.full(m, 1.0 / m), np.empty(m), np.empty(m), 0.0
    for _ in range(5):
        _inverse_times(factor, x, y)
        norm = np.abs(y).sum()
        if not norm > best:
            break
        best = norm
        for i in range(m):
            y[i] = -1.0 if y[i] < 0 else 1.0
        _inverse_times(factor, y, z)
        largest, along = 0, 0.0
        for i in range(m):
            along += z[i] * x[i]
            if abs(z[i]) > abs(z[largest]):
                largest = i
        if abs(z[largest]) <= along:
            break
        x[:] = 0.0
        x[largest] = 1.0
    for i in range(m):
        x[i] = (1.0 if i % 2 == 0 else -1.0) * (1.0 + i / max(m - 1, 1))
    _inverse_times(factor, x, y)
    return max(best, 2.0 * np.abs(y).sum() / (3.0 * m))


#: Sides of the tiles of a factor that one thread makes at a time, and of the blocks they are made of; and how many
#: rows of products are added up at once.
TILE, BLOCK, DEPTH = 128, 32, 128


@jit_sum
def _four_rows_of_products(panels, x, y, n, out, o):
    """Add up products of columns: ``out[o + i, j] += sum_k panels[x + k, i] * panels[y + k, j]``.

    i < 4, j < ``4 * LANES``, k < `n`; all are flat, in rows of BLOCK numbers.
    """
    a0, a1, a2, a3 = _four(out, o)
    b0, b1, b2, b3 = _four(out, o + BLOCK)
    c0, c1, c2, c3 = _four(out, o + 2 * BLOCK)
    d0, d1, d2, d3 = _four(out, o + 3 * BLOCK)
    for _ in range(n):
        v, w, z, t = _four(panels, y)
        s = repeated(panels, x)
        a0, a1, a2, a3 = a0 + s * v, a1 + s * w, a2 + s * z, a3 + s * t
        s = repeated(panels, x + 1)
        b0, b1, b2, b3 = b0 + s * v, b1 + s * w, b2 + s * z, b3 + s * t
        s = repeated(panels, x + 2)
        c0, c1, c2, c3 = c0 + s * v, c1 + s * w, c2 + s * z, c3 + s * t
        s = repeated(panels, x + 3)
        d0, d1, d2, d3 = d0 + s * v, d1 + s * w, d2 + s * z, d3 + s * t
        x += BLOCK
        y += BLOCK
    _put_four(out, o, a0, a1, a2, a3)
    _put_four(out, o + BLOCK, b0, b1, b2, b3)
    _put_four(out, o + 2 * BLOCK, c0, c1, c2, c3)
    _put_four(out, o + 3 * BLOCK, d0, d1, d2, d3)


@jit_sum
def _block_of_products(panels, x, y, n, out):
    """Set ``out[i, j] = sum_k panels[x + k, i] * panels[y + k, j]``, k < `n`, as above."""
    out[:] = 0.0
    for first in range(0, n * BLOCK, DEPTH * BLOCK):
        depth = min(DEPTH, n - first // BLOCK)
        for j in range(0, BLOCK, 4 * LANES):
            for i in range(0, BLOCK, 4):
                _four_rows_of_products(panels, x + first + i, y + first + j, depth, out, i * BLOCK + j)


@jit_sum
def _divide(panels, u, y, rows, scratch):
    """Solve ``U'X = Y`` where Y stands, `rows` rows of it, U being upper triangular; all as above.

    If they are the same, what stands there is a matrix, and becomes U with ``U'U`` that matrix. Returns whether there
    is one.
    """
    for i in range(0, rows, 4):  # what the rows above take off four rows, then what these take off each other
        for j in range(0, 4 * BLOCK, LANES):
            store(scratch, j, zeros())
        for j in range(0, BLOCK, 4 * LANES):
            _four_rows_of_products(panels, u + i, y + j, i, scratch, j)
        for p in range(min(4, rows - i)):
            at, column = y + (i + p) * BLOCK, u + i * BLOCK + i + p
            for j in range(0, BLOCK, LANES):
                v = load(panels, at + j) - load(scratch, p * BLOCK + j)
                for q in range(p):
                    v = v - repeated(panels, column + q * BLOCK) * load(panels, y + (i + q) * BLOCK + j)
                store(panels, at + j, v)
            pivot = panels[column + p * BLOCK]
            if u == y:
                if not pivot > 0:
                    return False
                pivot = pivot**0.5
            scratch[0] = 1.0 / pivot
            for j in range(0, BLOCK, LANES):
                store(panels, at + j, load(panels, at + j) * repeated(scratch, 0))
    return True


@jit_sum
def factor_tile(gram, panels, left, top):
    """Make a tile, from row `top` and column `left` on, of the upper triangular U with ``gram = U'U``.

    Of `gram` the upper triangle is read. `panels` (columns / BLOCK, rows + BLOCK, BLOCK) hold the columns of U, BLOCK
    by BLOCK, so that all products run along the memory; the tiles above this one, and those of columns `top` down to
    the diagonal, must be there. Returns whether there is a U.
    """
    m, depth, flat = len(gram), panels.shape[1] * BLOCK, panels.ravel()
    products = np.empty(BLOCK * BLOCK)
    for row in range(top, min(top + TILE, m), BLOCK):
        rows, x = min(BLOCK, m - row), row // BLOCK * depth
        for col in range(max(left, row), min(left + TILE, m), BLOCK):
            cols, y = min(BLOCK, m - col), col // BLOCK * depth
            _block_of_products(flat, x, y, row, products)
            for p in range(rows):
                here, given, taken = (
                    panels[col // BLOCK, row + p],
                    gram[row + p, col : col + cols],
                    products[p * BLOCK :],
                )
                for q in range(cols):
                    here[q] = given[q] - taken[q]
            if not _divide(flat, x + row * BLOCK, y + row * BLOCK, rows, products):
                return False
    return True


@jit_sum
def invert_tile(panels, left, top, out):
    """Make a tile, from row `top` and column `left` on, of the lower triangular V with ``V' = U^-1``; V' goes to `out`.

    `panels` as `factor_tile` leaves them, up to the columns from `top` on; row k of V is kept there in row k + BLOCK,
    below what is kept of U, and must be there above this tile. `out` must be zero below its diagonal.
    """
    m, depth, flat = len(out), panels.shape[1] * BLOCK, panels.ravel()
    products = np.empty(BLOCK * BLOCK)
    for row in range(top, min(top + TILE, m), BLOCK):
        rows, x = min(BLOCK, m - row), row // BLOCK * depth
        for col in range(left, min(left + TILE, row + rows), BLOCK):
            cols, y = min(BLOCK, m - col), col // BLOCK * depth + BLOCK * BLOCK
            _block_of_products(flat, x + col * BLOCK, y + col * BLOCK, row - col, products)
            for p in range(rows):
                here, taken = panels[col // BLOCK, row + BLOCK + p], products[p * BLOCK :]
                for q in range(BLOCK):
                    here[q] = 0.0 - taken[q]
                if row == col:
                    here[p] = 1.0
            _divide(flat, x + row * BLOCK, y + row * BLOCK, rows, products)
            for q in range(cols):
                here = out[col + q, row : row + rows]
                for p in range(q if row == col else 0, rows):
                    here[p] = panels[col // BLOCK, row + BLOCK + p, q]


@jit_sum
def factorise(gram, panels):
    """Make all tiles of `factor_tile`; return whether there is a U."""
    for top in range(0, len(gram), TILE):
        for left in range(top, len(gram), TILE):
            if not factor_tile(gram, panels, left, top):
                return False
    return True


@jit_sum
def condition(gram, factor, spread):
    """KernelFit the condition number, in the 1-norm, of a matrix (its upper triangle is read) inverted by ``F F'``.

    `spread` gets the diagonal of the inverse, no element of which is more than its norm.
    """
    sums = np.zeros(len(gram))
    for i in range(len(gram)):
        row, total = gram[i, i:], 0.0
        for j in range(1, len(row)):
            sums[i + j] += abs(row[j])
            total += abs(row[j])
        sums[i] += total + abs(row[0])
        row, total = factor[i, i:], 0.0
        for j in range(len(row)):
            total += row[j] * row[j]
        spread[i] = total
    return sums.max() * max(inverse_norm(factor), spread.max())


@jit_sum
def inverse_factor(gram, panels, out, spread):
    """Write the upper triangular F with ``F F' = G^-1`` to `out`, its diagonal to `spread`; return G's condition.

    Of G the upper triangle is read. `panels` is scratch, as `factor_tile` needs it; `out` must be zero below its
    diagonal. The condition is infinite, and `out` of no use, if G is not positive definite.
    """
    if not factorise(gram, panels):
        return np.inf
    for top in range(0, len(gram), TILE):
        for left in range(0, top + 1, TILE):
            invert_tile(panels, left, top, out)
    return condition(gram, out, spread)


@jit_sum
def step_to_minimum(gram, factor, moment, step, change):
    """Set ``step = F F' moment`` and ``change = G step``, of F and the symmetric G the upper triangles being read."""
    m = len(moment)
    _inverse_times(factor, moment, step)
    change[:] = 0.0
    for i in range(m):
        s, c, x, y, k = 0.0, step[i], gram[i, i:], change[i:], step[i:]
        for j in range(1, m - i):
            y[j] += x[j] * c
            s += x[j] * k[j]
        y[0] += s + x[0] * c


@jit_sum
def _solve_tile(gram, moment, energy, total, panels, inverse, taps, spread):
    """Add the statistics to `total`; solve for the `taps`, `spread` being the diagonal of the inverse Gram matrix.

    Returns the condition number, the residual sum of squares, the norm of the taps, and the least and the sum of
    `spread`.
    """
    m = len(taps)
    change = np.empty(m)
    total[m, :m] += moment
    total[m + 1, :2] += energy
    for i in range(m):
        y, x = total[i, i:m], gram[i, i:]
        for j in range(m - i):
            y[j] += x[j]
    if len(inverse) == 0:
        return np.inf, 0.0, 0.0, 0.0, 0.0
    found = inverse_factor(gram, panels, inverse, spread)
    if not found < np.inf:
        return found, 0.0, 0.0, 0.0, 0.0
    step_to_minimum(gram, inverse, moment, taps, change)
    rss = energy[0] - (taps * (2 * moment - change)).sum()
    return found, rss, (taps * taps).sum() ** 0.5, spread.min(), spread.sum()


@jit_sum
def tile_from_spectra(spectra, cosines, sines, image, result, n_rows, n_cols, back, energy, gram, total, panels,
                      inverse, taps, spread):  # fmt: skip
    """Make all of a tile's statistics in one call, since threads that ask for the interpreter wait for each other.

    `back` (2, lags, lags) gets the lag sums of the image and of target and image, `energy` the target's sums, `gram`
    the upper triangle of the Gram matrix as in `gram_of_block`; to `total` the statistics are added: the matrix, a row
    for the moment, and one for `energy`. Then the tile is solved, unless `inverse` is empty, for `taps` and the
    diagonal of ``G^-1``. Returns what `_solve_tile` does.
    """
    n_lags, n_vectors = -(-back.shape[1] // 4) * 4, -(-2 * len(cosines) // LANES)
    sums, together = np.zeros((2, 2, n_vectors, n_lags, LANES)), np.empty((2, n_lags, n_vectors * LANES))
    spectral_lag_sums(spectra, 0, 0, n_rows, sums)
    complex_sums(sums, together)
    for a in range(2):
        inverse_at_lags(together[a], cosines, sines, back[a])
    energy[:] = 0.0
    moments(result, n_rows, n_cols, energy)
    gram_of_block(image, 0, n_rows, n_cols, back[0], gram)
    moment = back[1, :, back.shape[2] // 2 :].copy().ravel()
    return _solve_tile(gram, moment, energy, total, panels, inverse, taps, spread)


@jit_sum
def tile_from_pixels(image, col, result, n_rows, n_cols, back, energy, gram, total, panels, inverse, taps, spread):
    """Do the work of `tile_from_spectra` with the pixels themselves; the image starts at column `col`."""
    back[:] = 0.0
    lag_sums(image, col, image, 0, n_rows, n_cols + col, back[0])
    lag_sums(result, 0, image, col, n_rows, n_cols, back[1, :, col:])  # the other lags are not needed
    energy[:] = 0.0
    moments(result, n_rows, n_cols, energy)
    gram_of_block(image, col, n_rows, n_cols, back[0], gram)
    moment = back[1, :, col:].copy().ravel()
    return _solve_tile(gram, moment, energy, total, panels, inverse, taps, spread)
