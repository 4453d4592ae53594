"""The way back: an image from its blurred version and the kernel."""
