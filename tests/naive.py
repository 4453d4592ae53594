"""The truth the engine is tested against: plain loops, nothing of kernelfit, numpy for arrays only.

Everything is written straight from the equation

    convolution:  target[t] = sum_p kernel[p] * image[t - (p - origin)]
    correlation:  target[t] = sum_p kernel[p] * image[t + (p - origin)]

and with a stride only every stride-th t along each axis is kept, beginning with that at offset.

``design`` visits every (target pixel, tap) pair one at a time. ``design_dense`` builds the same matrix a column at
a time for images too big for that; the tests hold the two against each other.
"""

from types import SimpleNamespace

import numpy as np

OUTSIDE = None


def source_index(i, n, boundary):
    """Which of the n stored samples stands at coordinate i; OUTSIDE where there is none."""
    if 0 <= i < n:
        return i
    if boundary is None or boundary == "fill":
        return OUTSIDE
    if boundary == "nearest":
        return 0 if i < 0 else n - 1
    if boundary == "wrap":
        while i < 0:
            i += n
        while i >= n:
            i -= n
        return i
    if boundary == "symm":  # d c b a | a b c d | d c b a
        while not 0 <= i < n:
            i = -1 - i if i < 0 else 2 * n - 1 - i
        return i
    if boundary == "mirror":  # d c b | a b c d | c b a
        if n == 1:
            return 0
        while not 0 <= i < n:
            i = -i if i < 0 else 2 * (n - 1) - i
        return i
    raise ValueError(boundary)


def look_up(image, row, col, boundary, fillvalue):
    """The image's value at any integer coordinate, or OUTSIDE when nothing is assumed there."""
    r = source_index(row, image.shape[0], boundary)
    c = source_index(col, image.shape[1], boundary)
    if r is OUTSIDE or c is OUTSIDE:
        return fillvalue if boundary == "fill" else OUTSIDE
    return image[r, c]


def extend(image, before, after, boundary, fillvalue=0.0):
    """The image with before = (rows, cols) and after = (rows, cols) of its surroundings made explicit."""
    rows = range(-before[0], image.shape[0] + after[0])
    cols = range(-before[1], image.shape[1] + after[1])
    return np.array([[look_up(image, r, c, boundary, fillvalue) for c in cols] for r in rows], dtype=float)


def variance_through(variance, kernel_at, shape, origin, boundary):
    """The variance of what a kernel makes of independent pixels, kernel_at(row, col) being that at the spread pixel.

    NaN where a pixel under the kernel is not known, or is NaN; a fill value has no noise.
    """
    out = np.zeros(variance.shape)
    for t in np.ndindex(*variance.shape):
        for p in np.ndindex(*shape):
            at = [source_index(t[a] - (p[a] - origin[a]), variance.shape[a], boundary) for a in (0, 1)]
            if OUTSIDE not in at:
                out[t] += kernel_at(*at)[p] ** 2 * variance[tuple(at)]
            elif boundary is None:
                out[t] = np.nan
    return out


def default_origin(shape):
    """The centre of scipy.signal.convolve2d and correlate2d, mode "same"."""
    return (shape[0] - 1) // 2, (shape[1] - 1) // 2


def target_shape(image_shape, shape, mode, stride=(1, 1), offset=(0, 0), size=None):
    if mode == "crop":  # as far as the last pixel of the target
        return tuple(o + s * (n - 1) + 1 for s, o, n in zip(stride, offset, size, strict=True))
    grow = {"same": 0, "valid": -1, "full": 1}[mode]
    return tuple(n + grow * (k - 1) for n, k in zip(image_shape, shape, strict=True))


def lattice(whole, stride, offset):
    """The pixels of an axis that are kept: [offset::stride]."""
    kept = []
    t = offset
    while t < whole:
        kept.append(t)
        t += stride
    return kept


def first_coordinate(side, mode, operation):
    """The coordinate t of target index 0 for an origin of 0, in modes whose alignment is fixed by the shapes."""
    if mode == "valid":  # the first t for which t - (side-1) .. t, or t .. t + (side-1), begins at sample 0
        return side - 1 if operation == "convolution" else 0
    if mode == "full":  # the first t for which that range touches sample 0
        return 0 if operation == "convolution" else 1 - side
    raise ValueError(mode)


def placement(shape, mode, origin, operation):
    """(coordinate of target pixel (0, 0), origin), each (row, col)."""
    if mode in ("same", "crop"):
        return (0, 0), default_origin(shape) if origin is None else origin
    assert origin is None
    return tuple(first_coordinate(side, mode, operation) for side in shape), (0, 0)


def footprint(t, p, origin, operation):
    """The image coordinate that tap p multiplies for the target pixel at coordinate t (one axis)."""
    return t - (p - origin) if operation == "convolution" else t + (p - origin)


def design(
    image,
    shape,
    *,
    mode,
    boundary,
    fillvalue=0.0,
    origin=None,
    operation="convolution",
    stride=(1, 1),
    offset=(0, 0),
    size=None,
):
    """(A, used): a row per used target pixel, a column per tap in ravel order, and which target pixels are used."""
    image = np.asarray(image, dtype=float)
    first, centre = placement(shape, mode, origin, operation)
    whole = target_shape(image.shape, shape, mode, stride, offset, size)
    rows, cols = (lattice(n, s, o) for n, s, o in zip(whole, stride, offset, strict=True))
    used = np.zeros((len(rows), len(cols)), dtype=bool)
    equations = []
    for m, i in enumerate(rows):
        for n, j in enumerate(cols):
            equation = []
            for p in range(shape[0]):
                for q in range(shape[1]):
                    row = footprint(i + first[0], p, centre[0], operation)
                    col = footprint(j + first[1], q, centre[1], operation)
                    equation.append(look_up(image, row, col, boundary, fillvalue))
            if OUTSIDE not in equation:
                used[m, n] = True
                equations.append(equation)
    return np.array(equations, dtype=float).reshape(len(equations), shape[0] * shape[1]), used


def design_nd(image, shape, *, mode, boundary, fillvalue=0.0, origin=None, operation="convolution", stride=1, offset=0):
    """The same as design in any number of dimensions; origin, stride and offset are numbers or one for each axis."""
    image, n = np.asarray(image), np.ndim(image)
    stride, offset = (value if np.ndim(value) else (value,) * n for value in (stride, offset))
    if mode == "same":
        first, centre = (0,) * n, tuple((k - 1) // 2 for k in shape) if origin is None else origin
    else:
        first, centre = [first_coordinate(side, mode, operation) for side in shape], (0,) * n
    kept = [lattice(m, s, o) for m, s, o in zip(target_shape(image.shape, shape, mode), stride, offset, strict=True)]
    used, equations = np.zeros([len(k) for k in kept], dtype=bool), []
    for at in np.ndindex(*used.shape):
        equation = []
        for tap in np.ndindex(*shape):
            place = [
                footprint(k[i] + f, p, c, operation) for k, i, f, p, c in zip(kept, at, first, tap, centre, strict=True)
            ]
            place = [source_index(i, m, boundary) for i, m in zip(place, image.shape, strict=True)]
            missing = any(i is OUTSIDE for i in place)
            equation.append((fillvalue if boundary == "fill" else OUTSIDE) if missing else image[tuple(place)])
        if OUTSIDE not in equation:
            used[at] = True
            equations.append(equation)
    return np.array(equations).reshape(len(equations), int(np.prod(shape))), used


def design_dense(
    image,
    shape,
    *,
    mode,
    boundary,
    fillvalue=0.0,
    origin=None,
    operation="convolution",
    stride=(1, 1),
    offset=(0, 0),
    size=None,
):
    """The same as design, a tap at a time."""
    image = np.asarray(image, dtype=float)
    first, centre = placement(shape, mode, origin, operation)
    whole = target_shape(image.shape, shape, mode, stride, offset, size)
    kept = [lattice(n, s, o) for n, s, o in zip(whole, stride, offset, strict=True)]

    def sources(axis, p):
        n = image.shape[axis]
        at = [footprint(t + first[axis], p, centre[axis], operation) for t in kept[axis]]
        at = [source_index(i, n, boundary) for i in at]
        return np.array([i is not OUTSIDE for i in at]), np.array([0 if i is OUTSIDE else i for i in at])

    used = np.ones([len(k) for k in kept], dtype=bool)
    columns = []
    for p in range(shape[0]):
        for q in range(shape[1]):
            has_row, row = sources(0, p)
            has_col, col = sources(1, q)
            inside = has_row[:, None] & has_col[None, :]
            columns.append(np.where(inside, image[np.ix_(row, col)], fillvalue))
            if boundary is None:
                used &= inside
    return np.stack([column[used] for column in columns], axis=1), used


def polynomials(shape, degree):
    """Products of Legendre polynomials of row and column up to a total degree, each an image of this shape."""
    found = []
    for total in range(degree + 1):
        for i in range(total + 1):
            image = np.empty(shape)
            for r in range(shape[0]):
                for c in range(shape[1]):
                    u = 2 * r / (shape[0] - 1) - 1
                    v = 2 * c / (shape[1] - 1) - 1
                    image[r, c] = legendre_value(i, u) * legendre_value(total - i, v)
            found.append(image)
    return found


def volume_terms(shape, degree):
    """Products of Legendre polynomials of the place along three axes, up to a total degree, (pixels, terms).

    Of one degree those come first that have more along the planes, then along the rows.
    """
    powers = [p for p in np.ndindex(*(degree + 1,) * 3) if sum(p) <= degree]
    powers.sort(key=lambda p: (sum(p), p[2], p[1]))
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    columns = [
        np.prod([legendre_value(n, u) + 0 * u for n, u in zip(p, places, strict=True)], axis=0).ravel() for p in powers
    ]
    return np.stack(columns, axis=1)


def legendre_value(n, x):
    """P_n(x) by Bonnet's recursion."""
    before, value = 0.0, 1.0
    for k in range(n):
        before, value = value, ((2 * k + 1) * x * value - k * before) / (k + 1)
    return value


def varying_design(
    image, shape, functions, *, mode, boundary, fillvalue=0.0, origin=None, operation="convolution", stride=(1, 1),
    offset=(0, 0),
):  # fmt: skip
    """The columns phi_j(source pixel) * image for each function phi_j and tap; (A, used) as in design.

    A pixel beyond the edge has the weight of the pixel that it repeats, and a filled one that of the nearest.
    """
    if boundary is None:
        many = [design_dense(image * phi, shape, mode=mode, boundary=None, origin=origin, operation=operation,
                             stride=stride, offset=offset) for phi in functions]  # fmt: skip
        return np.hstack([matrix for matrix, _ in many]), many[0][1]
    before = after = (2 * shape[0], 2 * shape[1])
    wide = extend(image, before, after, boundary, fillvalue)
    first, centre = placement(shape, mode, origin, operation)
    kept = [lattice(n, s, o) for n, s, o in zip(target_shape(image.shape, shape, mode), stride, offset, strict=True)]
    columns = []
    for phi in functions:
        weighted = wide * extend(phi, before, after, "nearest" if boundary == "fill" else boundary)
        for p in range(shape[0]):
            for q in range(shape[1]):
                rows = [footprint(t + first[0], p, centre[0], operation) + before[0] for t in kept[0]]
                cols = [footprint(t + first[1], q, centre[1], operation) + before[1] for t in kept[1]]
                columns.append(weighted[np.ix_(rows, cols)].ravel())
    return np.stack(columns, axis=1), np.ones([len(k) for k in kept], dtype=bool)


def products(matrix, target, used):
    """The sums that NormalStats must hold, for one design matrix."""
    values = np.asarray(target, dtype=float)[used]
    return SimpleNamespace(
        gram=matrix.T @ matrix,
        moment=matrix.T @ values,
        target_energy=float(values @ values),
        target_sum=float(values.sum()),
        n_pixels=int(used.sum()),
    )


def normal_stats(image, target, shape, **convention):
    """G = A'A, b = A'y, y'y, sum of y and n, from loops."""
    return products(*_split(design(image, shape, **convention), target))


def normal_stats_dense(image, target, shape, **convention):
    """The same from the dense matrix, for bigger images."""
    return products(*_split(design_dense(image, shape, **convention), target))


def weighted_stats(image, target, shape, weights, **convention):
    """The same with a weight for each target pixel: sum w P P', sum w P y, sum w y^2, sum w y, n and sum w; a loop."""
    matrix, used = design_dense(image, shape, **convention)
    values = np.asarray(target, dtype=float)[used]
    own = np.asarray(weights, dtype=float)[used]
    gram, moment = np.zeros((matrix.shape[1],) * 2), np.zeros(matrix.shape[1])
    energy = total = weight = 0.0
    n = 0
    for row, y, w in zip(matrix, values, own, strict=True):
        if w == 0:
            continue
        gram += w * row[:, None] * row[None, :]
        moment += w * y * row
        energy, total, weight, n = energy + w * y * y, total + w * y, weight + w, n + 1
    return SimpleNamespace(
        gram=gram, moment=moment, target_energy=energy, target_sum=total, n_pixels=n, total_weight=weight
    )


def weighted_fit(image, target, shape, weights, **convention):
    """(kernel, standard errors, weighted residual sum of squares) of weighted least squares, from the dense matrix."""
    matrix, used = design_dense(image, shape, **convention)
    root = np.sqrt(np.asarray(weights, dtype=float)[used])
    counted = root > 0
    scaled = matrix[counted] * root[counted, None]
    values = np.asarray(target, dtype=float)[used][counted] * root[counted]
    taps = np.linalg.lstsq(scaled, values, rcond=None)[0]
    rss = float(np.sum((values - scaled @ taps) ** 2))
    variance = rss / (len(values) - len(taps)) * np.linalg.inv(scaled.T @ scaled)
    return taps.reshape(shape), np.sqrt(np.diag(variance)).reshape(shape), rss


def touched(
    bad, shape, *, mode, boundary, fillvalue=0.0, origin=None, operation="convolution", stride=(1, 1), offset=(0, 0)
):
    """Which target pixels have a bad image pixel in their footprint (those not used included as not)."""
    first, centre = placement(shape, mode, origin, operation)
    whole = target_shape(bad.shape, shape, mode)
    rows, cols = (lattice(n, s, o) for n, s, o in zip(whole, stride, offset, strict=True))
    out = np.zeros((len(rows), len(cols)), dtype=bool)
    for m, i in enumerate(rows):
        for n, j in enumerate(cols):
            for p in range(shape[0]):
                for q in range(shape[1]):
                    row = footprint(i + first[0], p, centre[0], operation)
                    col = footprint(j + first[1], q, centre[1], operation)
                    if look_up(bad, row, col, boundary, False) not in (OUTSIDE, False, 0.0):
                        out[m, n] = True
    return out


def _split(matrix_and_used, target):
    matrix, used = matrix_and_used
    return matrix, target, used


def apply(image, kernel, **convention):
    """The target; NaN where the boundary leaves it undetermined."""
    kernel = np.asarray(kernel, dtype=float)
    return apply_design(*design_dense(image, kernel.shape, **convention), kernel)


def apply_design(matrix, used, kernel):
    """The same from the matrix."""
    target = np.full(used.shape, np.nan)
    target[used] = matrix @ kernel.ravel()
    return target


def legendre(degree, x):
    """P_degree(x), by (n+1) P_(n+1) = (2n+1) x P_n - n P_(n-1)."""
    before, now = 0.0 * x, 1.0 + 0.0 * x
    for n in range(degree):
        before, now = now, ((2 * n + 1) * x * now - n * before) / (n + 1)
    return now


def surface_columns(used, degree):
    """A column for each P_i(row) P_j(col), i + j <= degree, the lowest total first; rows as in design."""
    u, v = (np.array([2 * i / (n - 1) - 1 if n > 1 else 0.0 for i in range(n)]) for n in used.shape)
    columns = []
    for total in range(degree + 1):
        for i in range(total + 1):
            table = legendre(i, u)[:, None] * legendre(total - i, v)
            columns.append(table[used])
    return np.stack(columns, axis=1)


def joint(pairs, shape, *, degree=None, weights=None, **convention):
    """Dense least squares of one target over pairs [(list of source planes, target plane)]: taps of each source first.

    `weights` has the weight of each target pixel of each pair; those of weight zero are no equations.

    Returns the kernel (sources, *shape), its covariance, the backgrounds (pairs, terms), their standard errors, the
    residual sum of squares and the number of equations.
    """
    blocks, values, surfaces = [], [], []
    for sources, target in pairs:
        parts = [design_dense(source, shape, **convention) for source in sources]
        used = parts[0][1]
        blocks.append(np.hstack([matrix for matrix, _ in parts]))
        values.append(np.asarray(target, dtype=float)[used])
        surfaces.append(surface_columns(used, degree) if degree is not None else np.zeros((int(used.sum()), 0)))
    taps, terms = blocks[0].shape[1], surfaces[0].shape[1]
    matrix = np.zeros((sum(map(len, blocks)), taps + terms * len(pairs)))
    row = 0
    for i, (block, surface) in enumerate(zip(blocks, surfaces, strict=True)):
        matrix[row : row + len(block), :taps] = block
        matrix[row : row + len(block), taps + i * terms : taps + (i + 1) * terms] = surface
        row += len(block)
    y = np.concatenate(values)
    if weights is not None:
        used = [design_dense(sources[0], shape, **convention)[1] for sources, _ in pairs]
        w = np.concatenate([np.asarray(one, dtype=float)[at] for one, at in zip(weights, used, strict=True)])
        matrix, y = (matrix * np.sqrt(w)[:, None])[w > 0], (y * np.sqrt(w))[w > 0]
    best = np.linalg.lstsq(matrix, y, rcond=None)[0]
    residual = y - matrix @ best
    rss = float(residual @ residual)
    covariance = np.linalg.inv(matrix.T @ matrix) * rss / (len(y) - matrix.shape[1])
    errors = np.sqrt(np.diag(covariance))
    return SimpleNamespace(
        kernel=best[:taps].reshape(-1, *shape),
        covariance=covariance[:taps, :taps],
        background=best[taps:].reshape(len(pairs), terms),
        background_stderr=errors[taps:].reshape(len(pairs), terms),
        rss=rss,
        n_pixels=len(y),
        noise_std=np.sqrt(rss / (len(y) - matrix.shape[1])),
    )


def restored(target, seen, kernel, origin, strength, operation, penalty):
    """Return the image x on a torus that makes ``sum_seen (y - k * x)^2 + strength * |Q x|^2`` smallest, as a matrix.

    Q is the Laplacian of the nearest neighbours over the root of its mean power, 20 of two axes, or the identity.
    """
    shape, d, sign = target.shape, target.ndim, 1 if operation == "convolution" else -1
    model, rough = np.zeros((target.size,) * 2), np.zeros((target.size,) * 2)
    mean = {1: 6, 2: 20, 3: 42}[d]
    for at, place in enumerate(np.ndindex(shape)):
        for tap in np.ndindex(kernel.shape):
            source = [(p - sign * (i - o)) % n for p, i, o, n in zip(place, tap, origin, shape, strict=True)]
            model[at, np.ravel_multi_index(source, shape)] += kernel[tap]
        if penalty == "identity":
            rough[at, at] = 1.0
            continue
        rough[at, at] += 2 * d / mean**0.5
        for axis in range(d):
            for step in (1, -1):
                near = [(p + step * (i == axis)) % n for i, (p, n) in enumerate(zip(place, shape, strict=True))]
                rough[at, np.ravel_multi_index(near, shape)] -= 1 / mean**0.5
    some = model[seen.ravel()]
    right = some.T @ target[seen]
    return np.linalg.lstsq(some.T @ some + strength * rough.T @ rough, right, rcond=1e-12)[0].reshape(shape)


def complex_fit(matrix, target, weights=None, real=False):
    """Dense least squares of complex numbers: kernel, covariance of its real and then imaginary parts, rss.

    The noise is circular: its two parts are alike and independent, each of half the variance. A `real` kernel is that
    of the real and imaginary parts, one below the other.
    """
    root = np.sqrt(np.ones(len(target)) if weights is None else weights)
    a, b = matrix * root[:, None], target * root
    if real:
        a, b = np.concatenate([a.real, a.imag]), np.concatenate([b.real, b.imag])
    kernel = np.linalg.lstsq(a, b, rcond=None)[0]
    rss = np.sum(np.abs(b - a @ kernel) ** 2)
    inverse = np.linalg.inv(a.conj().T @ a)
    count = np.count_nonzero(root) * (2 if real else 1)
    covariance = rss / (count - len(kernel)) * inverse  # E conj(d) d'
    if real:
        return kernel, covariance, rss
    half = covariance / 2
    return kernel, np.block([[half.real, -half.imag], [half.imag, half.real]]), rss


def complex_robust(matrix, target, criterion, weights=None, rounds=60):
    """Iteratively reweighted least squares of complex numbers, judged by the modulus of their residual.

    Returns the kernel and the covariance of its real and then imaginary parts, both from their definitions.
    """
    constant = {"huber": 1.501, "tukey": 5.123, "clip": 4.397}
    every = np.ones(len(target)) if weights is None else weights
    kernel = complex_fit(matrix, target, every)[0]
    for name in dict.fromkeys(["huber", criterion]):
        for _ in range(rounds):
            size = np.abs(target - matrix @ kernel) * np.sqrt(every)
            scale = np.median(size[every > 0]) / np.sqrt(2 * np.log(2))
            u = np.maximum(size / (constant[name] * scale), 1e-12)
            held = {"huber": np.minimum(1, 1 / u), "tukey": np.maximum(0, 1 - u**2) ** 2, "clip": u <= 1}[name] * 1.0
            scaled = (every * held)[:, None] * matrix.conj()
            kernel = np.linalg.solve(scaled.T @ matrix, scaled.T @ target)
    along = np.where(u < 1, (1 - u**2) * (1 - 5 * u**2), 0.0) if criterion == "tukey" else (u <= 1) * 1.0
    used = every > 0
    steep = np.mean((held + along)[used] / 2)
    weighted = matrix * np.sqrt(every)[:, None]
    inverse = np.linalg.inv(weighted.conj().T @ weighted) * np.mean((held * size)[used] ** 2) / steep**2 / 2
    return kernel, np.block([[inverse.real, -inverse.imag], [inverse.imag, inverse.real]])


def complex_image_noise(matrix, target, std, shape):
    """Least squares less circular noise of the image, of pixels that all taps see once: kernel and covariance.

    The moments ``m = sum conj(A + N) v`` have ``E m conj(m')``, that of white noise v, and for normal noise of ``E
    |N|^2 = s^2`` the pseudo-covariance ``E m m' = s^4 sum_d n(d) k[p - d] k[q + d]``, over lags d of the target.
    """
    n, gram = len(target), matrix.conj().T @ matrix
    inverse = np.linalg.inv(gram - n * std**2 * np.eye(len(gram)))
    kernel = inverse @ matrix.conj().T @ target
    variance = np.sum(np.abs(target - matrix @ kernel) ** 2) / (n - len(kernel))
    taps, pseudo = kernel.reshape(-1, *shape), np.zeros(gram.shape, dtype=complex)
    images = len(taps)
    places = list(np.ndindex(images, *shape))
    for i, (a, *p) in enumerate(places):
        for j, (b, *q) in enumerate(places):
            for lag in np.ndindex(*(2 * s - 1 for s in shape)):
                d = [one - s + 1 for one, s in zip(lag, shape, strict=True)]
                to = [[x - y for x, y in zip(p, d, strict=True)], [x + y for x, y in zip(q, d, strict=True)]]
                if all(0 <= x < s for one in to for x, s in zip(one, shape, strict=True)):
                    pseudo[i, j] += n * std**4 * taps[(b, *to[0])] * taps[(a, *to[1])]
    plain, crossed = inverse @ (variance * gram) @ inverse, inverse @ pseudo @ inverse.T
    return kernel, np.block(
        [
            [(plain + crossed).real / 2, (crossed - plain).imag / 2],
            [(plain + crossed).imag / 2, (plain - crossed).real / 2],
        ]
    )
