"""Large queries by columns: numpy instead of loops. Imported when the first one is asked, for numpy comes with it."""

from __future__ import annotations

from tripleweb.datalog.vectorised.run import Vectorised

__all__ = ["Vectorised"]
