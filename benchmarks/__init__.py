"""What kernelfit costs, in time and memory, and how far off it is: asv suites, and scripts that print tables."""
