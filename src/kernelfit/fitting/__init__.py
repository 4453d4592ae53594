"""The pipeline: from arguments to observations, equations, estimates and their diagnosis."""
