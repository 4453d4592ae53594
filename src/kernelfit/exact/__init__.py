"""Pixels to exact statistics and their kernel: the engines, pairs and channels, kernels of thousands of taps, scale."""
