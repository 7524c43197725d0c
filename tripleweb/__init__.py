"""tripleweb: shared data for notebooks. A synced triple store whose Datalog queries are live DataFrames.

>>> import tripleweb
>>> db = tripleweb.open()
>>> ada = db.insert("user", name="Ada", age=36)
>>> db.q("[:find ?name . :where [_ :user/name ?name]]")
'Ada'

Importing it is light: pandas, sockets and threads come with the first store. `tripleweb.schema` is the function; the
module of that name is reached by `from tripleweb.schema import …`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tripleweb.errors import (
    BudgetError,
    DeletedError,
    HistoryError,
    IncompleteError,
    NoServerError,
    ProtocolError,
    QueryError,
    RejectedError,
    SchemaError,
    StorageError,
    StoreLockedError,
    TriplewebError,
)
from tripleweb.schema import Schema, schema, t
from tripleweb.terms import Ref

if TYPE_CHECKING:
    from tripleweb.database import Database
    from tripleweb.live import LiveFrame
    from tripleweb.opening import connect, open

__version__ = "0.1.0"

__all__ = [
    "BudgetError",
    "Database",
    "DeletedError",
    "HistoryError",
    "IncompleteError",
    "LiveFrame",
    "NoServerError",
    "ProtocolError",
    "QueryError",
    "Ref",
    "RejectedError",
    "Schema",
    "SchemaError",
    "StorageError",
    "StoreLockedError",
    "TriplewebError",
    "connect",
    "open",
    "schema",
    "t",
]

_LAZY = {
    "Database": "tripleweb.database",
    "LiveFrame": "tripleweb.live",
    "connect": "tripleweb.opening",
    "open": "tripleweb.opening",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext tripleweb`."""
    from tripleweb_jupyter import magics

    magics.load_ipython_extension(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """`%unload_ext tripleweb`."""
    from tripleweb_jupyter import magics

    magics.unload_ipython_extension(ipython)
