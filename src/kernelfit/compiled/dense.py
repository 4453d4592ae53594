"""The compiled loops of dense matrices: factors, and all that is done with a tile."""

import numpy as np

from .gram import gram_of_block
from .jit import LANES, jit_sum, load, repeated, store, zeros
from .lag_sums import add_moments, add_products
from .spectral_products import _four, _put_four, add_lag_products, inverse_at_lags, put_together


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
    """Estimate the 1-norm of ``F F'``, F being upper triangular, from below."""
    # Hager's method, and Higham's safeguard for matrices that it is blind to, whose large part is orthogonal to a
    # vector of ones: Higham, "Accuracy and Stability", 2nd ed., algorithm 15.1.
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
    """Add up products of columns: ``out[o + i, j] += sum_k panels[x + k, i] * panels[y + k, j]``."""
    # i < 4, j < ``4 * LANES``, k < `n`; all are flat, in rows of BLOCK numbers.
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
    """Solve ``U'X = Y`` where Y stands, `rows` rows of it, U being upper triangular; all as above."""
    # If they are the same, what stands there is a matrix, and becomes U with ``U'U`` that matrix. Returns whether there
    # is one.
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
    """Make a tile, from row `top` and column `left` on, of the upper triangular U with ``gram = U'U``."""
    # Of `gram` the upper triangle is read. `panels` (columns / BLOCK, rows + BLOCK, BLOCK) hold the columns of U, BLOCK
    # by BLOCK, so that all products run along the memory; the tiles above this one, and those of columns `top` down to
    # the diagonal, must be there. Returns whether there is a U.
    m, depth, flat = len(gram), panels.shape[1] * BLOCK, panels.ravel()
    products = np.empty(BLOCK * BLOCK)
    for row in range(top, min(top + TILE, m), BLOCK):
        rows, x = min(BLOCK, m - row), row // BLOCK * depth
        for col in range(max(left, row), min(left + TILE, m), BLOCK):
            cols, y = min(BLOCK, m - col), col // BLOCK * depth
            _block_of_products(flat, x, y, row, products)
            for p in range(rows):
                here, given = panels[col // BLOCK, row + p], gram[row + p, col : col + cols]
                taken = products[p * BLOCK :]
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
    """Estimate the condition number, in the 1-norm, of a matrix (its upper triangle is read) inverted by ``F F'``."""
    # `spread` gets the diagonal of the inverse, no element of which is more than its norm.
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
    """Write the upper triangular F with ``F F' = G^-1`` to `out`, its diagonal to `spread`; return G's condition."""
    # Of G the upper triangle is read. `panels` is scratch, as `factor_tile` needs it; `out` must be zero below its
    # diagonal. The condition is infinite, and `out` of no use, if G is not positive definite.
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
    """Add the statistics to `total`; solve for the `taps`, `spread` being the diagonal of the inverse Gram matrix."""
    # Returns the condition number, the residual sum of squares, the norm of the taps, and the least and the sum of
    # `spread`.
    m = len(taps)
    change = np.empty(m)
    for i in range(m):
        total[m, i] += moment[i]
    for i in range(2):
        total[m + 1, i] += energy[i]
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
    explained = size = whole = 0.0
    least = np.inf
    for i in range(m):
        explained += taps[i] * (2 * moment[i] - change[i])
        size += taps[i] * taps[i]
        whole += spread[i]
        least = min(least, spread[i])
    return found, energy[0] - explained, size**0.5, least, whole


@jit_sum
def tile_from_spectra(flat, size, spectra, turns, image, back, energy, gram, total, panels, inverse, taps, spread):
    """Make all of a tile's statistics in one call, since threads that ask for the interpreter wait for each other."""
    # `flat` are image, target and `back` as arrays of one axis, `size` the tile's rows and columns, and the columns of
    # the array of the target. `turns` (2, frequencies, lags) are the cosines and sines of `inverse_at_lags`. `back` (2,
    # lags, lags) gets the lag sums of the image and of target and image, `energy` the target's sums, `gram` the upper
    # triangle of the Gram matrix as in `gram_of_block`; to `total` the statistics are added: the matrix, a row for the
    # moment, and one for `energy`. Then the tile is solved, unless `inverse` is empty, for `taps` and the diagonal of
    # ``G^-1``. Returns what `_solve_tile` does.
    n_rows, n_cols, width = size
    n_lags, n_vectors = -(-back.shape[1] // 4) * 4, -(-2 * turns.shape[1] // LANES)
    sums, together = np.zeros((2, 2, n_vectors, n_lags, LANES)), np.empty((2, n_lags, n_vectors * LANES))
    step, products = spectra.shape[2], sums.ravel()
    add_lag_products(
        spectra.ravel(), np.arange(2) * spectra.shape[1] * step, 0, step, n_rows, products, n_vectors, n_lags
    )
    put_together(products, 2, n_vectors, n_lags, together.ravel(), n_lags, n_vectors * LANES)
    for a in range(2):
        inverse_at_lags(together[a], turns[0], turns[1], back[a])
    energy[:] = 0.0
    add_moments(flat[1], width, n_rows, n_cols, energy)
    gram_of_block(image, 0, n_rows, n_cols, back[0], gram)
    moment = back[1, :, back.shape[2] // 2 :].copy().ravel()
    return _solve_tile(gram, moment, energy, total, panels, inverse, taps, spread)


@jit_sum
def tile_from_pixels(flat, size, col, fours, image, back, energy, gram, total, panels, inverse, taps, spread):
    """Do the work of `tile_from_spectra` with the pixels themselves; the image starts at column `col`."""
    # `fours` are the rows that `add_products` takes of image and image, and of target and image.
    (pixels, others, sums), (n_rows, n_cols, width), length = flat, size, image.shape[1]
    n_i, n_lags = back.shape[1], back.shape[2]
    back[:] = 0.0
    add_products(pixels, col, pixels, 0, sums, 0, fours[0], n_lags, n_cols + col, n_lags, length)
    # the other lags are not needed
    add_products(others, 0, pixels, col, sums, n_i * n_lags + col, fours[1], n_lags, n_cols, n_lags - col, length - col)
    energy[:] = 0.0
    add_moments(others, width, n_rows, n_cols, energy)
    gram_of_block(image, col, n_rows, n_cols, back[0], gram)
    moment = back[1, :, col:].copy().ravel()
    return _solve_tile(gram, moment, energy, total, panels, inverse, taps, spread)


@jit_sum
def invert_displaced(first, positive, negative):
    """Invert a matrix given by its displacement, by the generalised Schur algorithm; return whether it is positive."""
    # ``G - Z G Z' = sum of x x' - sum of y y'`` with the shift Z, x being the top m numbers of `first` (m + 1) and of
    # `positive` (n, 2 m + 1), y those of `negative`. The rows beneath begin with the first row of the identity, as the
    # Schur complement of (G I; I 0) needs it (T. Kailath and A. Sayed, "Displacement structure", SIAM Review 37 (1995)
    # 297); they end as the generators of the inverse, the first m numbers of `first` and those from m on of the others,
    # with the signs exchanged. `first` moves on with the steps, so that its shift costs nothing. Rotations of both
    # signs are mixed as A. Bojanczyk, R. Brent, P. Van Dooren and F. de Hoog have it (SIAM J. Sci. Stat. Comput. 8
    # (1987) 210).
    m, n, k = len(first) - 1, len(positive), len(negative)
    turns = np.zeros((2, n + k))
    for j in range(m):
        a, b = first[0], negative[0, j]
        for at in range(n + k - 1):
            lead = a if at < n else b
            other = positive[at, j] if at < n else negative[at - n + 1, j]
            size = np.sqrt(lead * lead + other * other)
            turns[0, at], turns[1, at] = (lead / size, other / size) if size > 0.0 else (1.0, 0.0)
            if at < n:
                a = size
            else:
                b = size
        if not abs(a) > abs(b):
            return False
        ratio = b / a
        root = np.sqrt((1.0 - ratio) * (1.0 + ratio))
        gain = 1.0 / root
        for start in range(0, m + 1, 1024):
            stop = min(start + 1024, m + 1)
            x, y = first[start:stop], negative[0, j + start : j + stop]
            for at in range(n + k - 1):
                c, s = turns[0, at], turns[1, at]
                one = x if at < n else y
                z = positive[at, j + start : j + stop] if at < n else negative[at - n + 1, j + start : j + stop]
                for i in range(len(one)):
                    v = one[i]
                    one[i] = c * v + s * z[i]
                    z[i] = c * z[i] - s * v
            for i in range(len(x)):
                v = gain * (x[i] - ratio * y[i])
                y[i] = root * y[i] - ratio * v
                x[i] = v
        first[m - 1 - j] = 0.0  # what leaves the top does not come to stand beneath
    return True
