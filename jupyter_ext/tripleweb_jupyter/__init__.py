"""tripleweb in Jupyter: the server extension and the magics."""

from __future__ import annotations

from tripleweb import __version__

__all__ = ["__version__"]
