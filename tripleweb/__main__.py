"""`python -m tripleweb`: the command `tripleweb`, where that is not on the path. Importing it runs nothing."""

from __future__ import annotations

from tripleweb.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
