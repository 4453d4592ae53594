"""What the residual of a target counts: its pixels less a background, times their weights."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..core.background import Columns
from ..core.geometry import Shape
from ..core.validation import Array
from ..data.observation import Weights
from ..data.reader import Reader

#: Makes the weights of a block of its residual, its weights and the target there.
Hold = Callable[[Array, Weights, Array], Weights]


@dataclass(frozen=True, eq=False)
class Weighing:
    """A target of a pass, the coefficients of its background, and the weights of its pixels."""

    target: Reader
    size: Shape
    weights: Weights
    columns: Columns | None
    coefficients: Array
    keep: Array | None = None  # receives the residual
    hold: Hold | None = None  # makes the weights of a block of its residual, its weights and the target

    def read(self, out: Array, row: int, col: int) -> None:
        """Read a block of the target, less the background."""
        self.target.read(out, row, col)
        if self.columns is not None:
            rows = slice(row, min(row + out.shape[0], self.size[0]))
            cols = slice(col, min(col + out.shape[1], self.size[1]))
            out[: rows.stop - row, : cols.stop - col] -= self.columns.surface(self.coefficients, rows, cols)

    def beside(self, block: Array, row: int, col: int) -> Array:
        """Return the products of the weighted residual with the background's terms."""
        return np.zeros(0) if self.columns is None else self.columns.products(block, row, col)

    def weigh(self, block: Array, row: int, col: int) -> float:
        """Multiply a block of the residual by its weights; return its weighted energy."""
        place = slice(row, row + block.shape[0]), slice(col, col + block.shape[1])
        if self.keep is not None:
            self.keep[place] = block
        weights = self.weights[place]
        if self.hold is not None:
            weights = self.hold(block, weights, self.target.block(row, col, block.shape))
        if weights.dtype == np.bool_:
            block *= weights
            return float(np.einsum("ij,ij->", block, block))
        weighted = block * weights
        energy = float(np.einsum("ij,ij->", weighted, block))
        block[...] = weighted
        return energy
