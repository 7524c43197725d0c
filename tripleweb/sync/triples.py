"""The first format of a change: one object a triple, as the bulk endpoint and imports understand it (`messages` says
how it looks). Invariant: what is read here obeys `change_from_wire`, so nothing comes in that the protocol refuses.
"""

from __future__ import annotations

from typing import Any

from tripleweb.change import SINGLE, Change
from tripleweb.clock import parse_stamp, stamp_text
from tripleweb.sync.messages import change_from_wire
from tripleweb.terms import Ref, Value, from_wire, normalise, slot, to_wire

_TYPES = {"string": "s", "number": "n", "boolean": "b", "date": "d", "ref": "r"}


def change_from_triple(triple: dict[str, Any]) -> Change:
    """A change in the first format, one object a triple (see the head of `messages`).

    A reference with `"object_type": "refMany"` is a member of a many-valued field, all else a single value.

    >>> change_from_triple({"subject": "ada", "predicate": "user/age", "object": 37, "object_type": "number",
    ...                     "hlc": "018bcfe568000000-0123456789ab"})[:4]
    ('ada', 'user/age', '', 37)
    """
    try:
        subject, predicate, raw, hlc = (triple[name] for name in ("subject", "predicate", "object", "hlc"))
        named = triple["object_type"]
    except KeyError as missing:
        raise ValueError(
            f"a triple has subject, predicate, object, object_type and hlc; {missing} is missing"
        ) from None
    if not (isinstance(subject, str) and isinstance(predicate, str) and isinstance(hlc, str)):
        raise ValueError("subject, predicate and hlc of a triple are text")
    many = named == "refMany"
    letter = "r" if many else _TYPES.get(named) if isinstance(named, str) else None
    if letter is None:
        raise ValueError(f"not an object_type: {named!r:.40}; one of {', '.join(_TYPES)}, refMany")
    value: Value | None = (
        normalise(Ref(raw)) if letter == "r" and isinstance(raw, str) else from_wire(letter, raw)
    )
    place = slot(value) if many and value is not None else SINGLE
    return change_from_wire((subject, predicate, place, *to_wire(value)), *parse_stamp(hlc))


def change_to_triple(change: Change) -> dict[str, Any]:
    """The first format of a change that carries a value.

    >>> change_to_triple(Change("ada", "_deleted", "", True, 1, "a"))["predicate"]
    '_deleted'
    """
    if change.value is None:
        raise ValueError("the first format has no form for a removed value")
    letter, raw = to_wire(change.value)
    named = next(name for name, short in _TYPES.items() if short == ("n" if letter == "i" else letter))
    if change.slot not in (SINGLE,) and letter == "r":
        named = "refMany"
    return {
        "subject": change.subject,
        "predicate": change.predicate,
        "object": change.value if letter == "i" else raw,
        "object_type": named,
        "hlc": stamp_text(change.time, change.replica),
    }
