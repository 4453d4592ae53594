"""Statistics to a kernel, without a pixel: least squares, penalties, constraints, priors, and the choice among them."""
