"""What a kernel is like: widths, comparisons, supports, channels."""
