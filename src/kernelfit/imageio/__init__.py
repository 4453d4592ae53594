"""Files: images, kernels, pictures."""
