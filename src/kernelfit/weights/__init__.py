"""Pixels that do not count, or not as much as others: masks, weights, noise that grows, outliers."""
