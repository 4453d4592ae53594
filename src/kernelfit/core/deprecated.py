"""Names that have changed, which still work."""

import warnings
from typing import Any


def renamed(old: str, new: str) -> Any:
    """Return a property that gives the attribute of the new name, with a DeprecationWarning."""

    def value(self: Any) -> Any:
        warnings.warn(f"{old!r} is now called {new!r}; the old name goes in 1.0", DeprecationWarning, stacklevel=2)
        return getattr(self, new)

    value.__doc__ = f"Old name of `{new}`."
    return property(value)
