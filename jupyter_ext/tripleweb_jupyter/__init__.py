"""tripleweb in Jupyter: the server extension (`extension`) and the magics (`magics`)."""

from __future__ import annotations

from tripleweb import __version__

__all__ = ["__version__"]


def _jupyter_server_extension_points() -> list[dict[str, object]]:
    # Imported here: kernels import this package for its magics, and need no server for that.
    from tripleweb_jupyter.extension import TripleWeb

    return [{"module": "tripleweb_jupyter", "app": TripleWeb}]
