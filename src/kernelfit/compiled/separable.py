"""The compiled loops that lay a kernel on an image as columns and rows."""

from .jit import LANES, item, jit_sum, load, put, repeated, store, zeros


@jit_sum
def _one_line(flat, first, lag, weights, at, n, line, start, length):
    """Write ``sum_i weights[at + i] flat[first + lag i + x]`` to ``line[start + x]``, for each x below a length."""
    x = 0
    while x < length and length >= 4 * LANES:  # four vectors at a time stay in registers
        x = min(x, length - 4 * LANES)  # the last ones are written again
        s, t, u, v = zeros(), zeros(), zeros(), zeros()
        p = first + x
        for i in range(n):
            w = repeated(weights, at + i)
            s = s + w * load(flat, p)
            t = t + w * load(flat, p + LANES)
            u = u + w * load(flat, p + 2 * LANES)
            v = v + w * load(flat, p + 3 * LANES)
            p += lag
        q = start + x
        store(line, q, s)
        store(line, q + LANES, t)
        store(line, q + 2 * LANES, u)
        store(line, q + 3 * LANES, v)
        x += 4 * LANES
    while x < length:
        total = 0.0
        for i in range(n):
            total += item(weights, at + i) * item(flat, first + lag * i + x)
        put(line, start + x, total)
        x += 1


@jit_sum
def _four_lines(flat, first, lag, weights, at, n, step, lines, length):
    """Do the same for four lines, `step` rows from each to the next: what is read serves all of them."""
    # The weights stand between ``3 step`` zeros on either side.
    x = 0
    while x < length and length >= 2 * LANES:
        x = min(x, length - 2 * LANES)
        s, t, u, v = zeros(), zeros(), zeros(), zeros()
        s2, t2, u2, v2 = zeros(), zeros(), zeros(), zeros()
        p, q = first + x, at
        for _ in range(n + 3 * step):
            a, b = load(flat, p), load(flat, p + LANES)
            w = repeated(weights, q)
            s, s2 = s + w * a, s2 + w * b
            w = repeated(weights, q - step)
            t, t2 = t + w * a, t2 + w * b
            w = repeated(weights, q - 2 * step)
            u, u2 = u + w * a, u2 + w * b
            w = repeated(weights, q - 3 * step)
            v, v2 = v + w * a, v2 + w * b
            p += lag
            q += 1
        store(lines, x, s)
        store(lines, x + LANES, s2)
        store(lines, x + length, t)
        store(lines, x + length + LANES, t2)
        store(lines, x + 2 * length, u)
        store(lines, x + 2 * length + LANES, u2)
        store(lines, x + 3 * length, v)
        store(lines, x + 3 * length + LANES, v2)
        x += 2 * LANES
    while x < length:
        for k in range(4):
            total = 0.0
            for i in range(n):
                total += item(weights, at + i) * item(flat, first + lag * (i + k * step) + x)
            put(lines, k * length + x, total)
        x += 1


@jit_sum
def correlate_separable(flat, lag, columns, rows, stride_y, stride_x, out, at, gap, height, width, lines):
    """Write ``sum_r sum_i columns[r, i] sum_j rows[r, j] pixel[stride_y t + i, stride_x x + j]`` to `out`.

    Of ``flat[lag i + j]``, the pixel [i, j], make ``out[at + gap t + x]``, the result [t, x] of `height` and `width`.
    Return 0, or NaN where a result is not finite.
    """
    # Four lines of pixels are summed down their columns first, into the first four rows of `lines`, which stay in the
    # cache; then along themselves, into what is behind, where whole vectors are written. In `columns`, ``3 stride_y``
    # zeros stand before and behind the weights.
    down, weights = columns.ravel(), rows.ravel()
    pad, taps = 3 * stride_y, rows.shape[1]
    n, every = columns.shape[1] - 2 * pad, stride_x * (width - 1) + 1
    length = every + taps - 1
    across, whole = 4 * length, (every + 4 * LANES - 1) // (4 * LANES) * (4 * LANES)
    t, bad = 0, 0.0
    while t < height:
        many = 4 if t + 4 <= height else 1
        for r in range(len(columns)):
            own = r * columns.shape[1] + pad
            if many == 4:
                _four_lines(flat, stride_y * t * lag, lag, down, own, n, stride_y, lines, length)
            else:
                _one_line(flat, stride_y * t * lag, lag, down, own, n, lines, 0, length)
            for k in range(many):
                line = at + gap * (t + k)
                _one_line(lines, k * length, 1, weights, r * taps, taps, lines, across, whole)
                for x in range(width):
                    total = item(lines, across + stride_x * x)
                    if r > 0:
                        total += item(out, line + x)
                    put(out, line + x, total)
                    bad += 0.0 * total
        t += many
    return bad
