"""Names: ids of entities and rooms, predicates, App IDs, replica ids.

Any text of 1 to 512 bytes without control characters is an id or a predicate; the *kind* of a predicate is the text
before its first `/`. New ids are nano ids (https://github.com/ai/nanoid): 21 characters of a URL-safe alphabet, 126
random bits. Randomness comes in as an argument: a function that gives n random bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import ceil

from nanoid.method import method as _nanoid

RandomBytes = Callable[[int], bytes]

BYTES_MAX = 512
MANY = 100  # so many new ids are made from one piece of randomness
_URL_SAFE = "_-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
# 64 characters: the lower six bits of every byte are one of them, so none is thrown away
_OF_BYTES = bytes(_URL_SAFE.encode()[byte & 63] for byte in range(256))
_SORTABLE = "0123456789abcdefghijklmnopqrstuvwxyz"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_APP = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")


def check_id(text: object, what: str = "id") -> str:
    """Returns `text` if it may be an id, else raises.

    >>> check_id("JFK")
    'JFK'
    >>> check_id("")
    Traceback (most recent call last):
    ValueError: an id must not be empty
    """
    if type(text) is str and 0 < len(text) <= BYTES_MAX and text.isascii() and text.isprintable():
        return text  # nearly always
    if not isinstance(text, str):
        raise TypeError(f"{_a(what)} is text, not {type(text).__name__}: {text!r:.80}")
    if not text:
        raise ValueError(f"{_a(what)} must not be empty")
    if len(text) > BYTES_MAX or (not text.isascii() and len(text.encode("utf-8", "replace")) > BYTES_MAX):
        raise ValueError(f"{_a(what)} has at most {BYTES_MAX} bytes; this one begins {text[:40]!r}")
    if _CONTROL.search(text):
        raise ValueError(f"{_a(what)} has no control characters or lone surrogates: {text!r:.80}")
    return str.__str__(text)  # of an Enum: what it holds, not its name


def check_predicate(text: object) -> str:
    """Returns `text` if it may be a predicate, else raises; names beginning with `_` belong to tripleweb.

    >>> check_predicate("user/name")
    'user/name'
    """
    predicate = check_id(text, "predicate")
    if predicate.startswith("_"):
        raise ValueError(
            f"a predicate does not begin with '_' (such names are tripleweb's own): {predicate!r:.80}"
        )
    return predicate


def check_app(text: object) -> str:
    """Returns `text` if it is an App ID: 1 to 64 of `A-Z a-z 0-9 _ - .`, not beginning with a dot.

    >>> check_app("my-app")
    'my-app'
    """
    if not isinstance(text, str):
        raise TypeError(f"an App ID is text, not {type(text).__name__}")
    if not _APP.fullmatch(text):
        raise ValueError(
            f"{text[:80]!r} is not an App ID: 1 to 64 of A-Z a-z 0-9 _ - . and no dot at the beginning"
        )
    return text


def kind_of(predicate: str) -> str:
    """The kind of a predicate: the text before its first `/` (all of it where there is none).

    >>> kind_of("user/name"), kind_of("a/b/c"), kind_of("plain")
    ('user', 'a', 'plain')
    """
    return predicate.partition("/")[0]


def nano_id(random_bytes: RandomBytes, size: int = 21) -> str:
    """A new nano id from the given randomness.

    >>> nano_id(lambda n: bytes(range(n)), 5)
    '_-012'
    """
    asked = ceil(
        1.6 * 63 * size / 64
    )  # as nanoid asks, so that what gives the bytes by a seed gives the same ids
    return random_bytes(asked)[:size].translate(_OF_BYTES).decode()


def nano_ids(random_bytes: RandomBytes, count: int, size: int = 21) -> list[str]:
    """Many new nano ids; of few the same that `nano_id` would make.

    >>> import os
    >>> len(set(nano_ids(os.urandom, 1000)))
    1000
    """
    if count < MANY:
        return [nano_id(random_bytes, size) for _ in range(count)]
    text = random_bytes(size * count).translate(_OF_BYTES).decode()
    return [text[at : at + size] for at in range(0, size * count, size)]


def replica_id(random_bytes: RandomBytes) -> str:
    """A new replica id: 12 of `0-9a-z` (62 bits), the same width for all, so that stamps sort as text."""
    return str(_nanoid(random_bytes, _SORTABLE, 12))


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "aeio" else f"a {what}"  # a user, a URL
