"""The asv suite: what kernelfit costs, in time and memory, and how far off it is."""
