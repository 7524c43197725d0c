"""The browser's client as a server gives it out: the ES modules of `tripleweb_widgets`, as they are installed.

They are the files of a published package, the same for everybody, and given to whoever asks, as Jupyter gives out its
own: a module cannot say who wants it, and a JupyterHub takes no cookie from what does not say its token, too.

Invariant: nothing else of the disk can be asked for, whatever the address says.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tripleweb.endpoints import PREFIX, Endpoint, Refusal

STATIC = PREFIX + r"/static/([^/]+)"


@cache
def modules() -> Mapping[str, bytes]:
    """Name and content of every module; none where the widgets are not installed.

    >>> "live.js" in modules()
    True
    """
    spec = find_spec("tripleweb_widgets")  # which is found without being imported: that would need ipywidgets
    if spec is None or spec.origin is None:
        return {}
    return {
        path.name: path.read_bytes() for path in sorted((Path(spec.origin).parent / "static").glob("*.js"))
    }


class Asset(Endpoint):
    """One module. A browser asks each time whether it is still the same: the server may have another tomorrow."""

    async def get(self, name: str) -> None:
        content = modules().get(name)
        if content is None:
            raise Refusal(404, "there is no such module")
        self.set_header("Content-Type", "text/javascript; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.finish(content)
