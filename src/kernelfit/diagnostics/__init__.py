"""What the residual says of a fit."""
