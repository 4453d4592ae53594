"""The division by frequency, from spectra to a kernel, and its mirror, which restores an image."""
