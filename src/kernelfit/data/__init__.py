"""Pixels: readers, observations, blocks, masks, and arrays that are stored in chunks."""
