"""Reading images from files, by its public names."""

from .imageio.planes import ImageFileError, MissingExtraError, require
from .imageio.read import read_image
from .imageio.series import pair_files

__all__ = ["ImageFileError", "MissingExtraError", "pair_files", "read_image", "require"]
