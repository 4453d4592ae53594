"""Reading images from files, by its public names."""

from .core.npz import ImageFileError
from .imageio.planes import MissingExtraError, require
from .imageio.read import read_image
from .imageio.series import pair_files
from .imageio.signals import read_signal
from .imageio.volumes import read_volume

__all__ = ["ImageFileError", "MissingExtraError", "pair_files", "read_image", "read_signal", "read_volume", "require"]
