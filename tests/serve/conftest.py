import numpy as np
import pytest
from scipy.signal import convolve2d


@pytest.fixture
def pair(tmp_path):
    """Two small pictures, and the kernel between them."""
    pillow = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(3)
    kernel = np.array([[1, 2, 1, 0, 0], [2, 4, 2, 1, 0], [0, 2, 1, 0, 0]]) / 16
    image = np.rint(rng.uniform(20, 235, (48, 61)))
    target = np.rint(convolve2d(image, kernel, "same", "symm") + rng.normal(0, 1, image.shape))
    paths = tmp_path / "before.png", tmp_path / "after.png"
    for path, pixels in zip(paths, (image, target), strict=True):
        pillow.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return *paths, kernel
