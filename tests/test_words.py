"""Floor 0: ids, clock, terms, changes. Every rule of what may be stored, and how it is ordered and written."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta, timezone
from functools import cmp_to_key

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nanoid.method import method

from tripleweb.change import outranks
from tripleweb.clock import TIME_MAX, Clock, pack, parse_stamp, stamp_text, unpack
from tripleweb.ids import check_app, check_id, check_predicate, nano_id, replica_id
from tripleweb.sync.messages import decode_committed, encode
from tripleweb.terms import (
    Ref,
    date_text,
    from_wire,
    kind,
    normalise,
    parse_date,
    same,
    slot,
    sort_key,
    to_wire,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)
ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
values = st.one_of(
    texts,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.datetimes(timezones=st.just(UTC)),
    ids.map(Ref),
)

# -- terms ---------------------------------------------------------------------------------------------------------


@given(values)
def test_a_value_survives_the_wire(value) -> None:
    letter, raw = to_wire(value)
    import msgspec

    back = from_wire(*msgspec.json.decode(msgspec.json.encode([letter, raw])))
    assert type(back) is type(value) and back == value
    assert normalise(back) == value


@given(values, values)
def test_slots_are_equal_exactly_for_the_same_member(a, b) -> None:
    expected = kind(a) == kind(b) and a == b
    assert (slot(a) == slot(b)) == expected == same(a, b)


@given(st.lists(values, min_size=2, max_size=6))
def test_the_order_is_total_and_kinds_come_one_after_the_other(several) -> None:
    ordered = sorted(several, key=sort_key)
    ranks = [{"b": 0, "n": 1, "d": 2, "s": 3, "r": 3}[kind(v)] for v in ordered]
    assert ranks == sorted(ranks)
    again = sorted(
        several, key=cmp_to_key(lambda a, b: (sort_key(a) > sort_key(b)) - (sort_key(a) < sort_key(b)))
    )
    assert [sort_key(v) for v in again] == [sort_key(v) for v in ordered]


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_dates_sort_as_text_and_come_back(a, b) -> None:
    assert len(date_text(a)) == 27 and parse_date(date_text(a)) == a
    assert (date_text(a) < date_text(b)) == (a < b)


@pytest.mark.parametrize(
    "text",
    [
        "2013-01-01T10:15:00,000000Z",
        "2013-W01-1T10:15:00.000000Z",
        "2013-01-01T10:15:00.5+0100Z",
        "2013-01-01T101500.00+01:00Z",
        "2013-01-01T10:15:00.00000\N{ARABIC-INDIC DIGIT ONE}Z",
        "2013-01-01T10:15:00.000000Z\n",
        "2013-01-01T10:15:00Z",
        "",
    ],
)
def test_only_one_text_is_a_date(text) -> None:
    """Python would read the first ones, as weeks or with an offset that was dropped then."""
    with pytest.raises(ValueError, match="not a stored date"):
        parse_date(text)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (numpy.int64(3), 3),
        (numpy.float32(0.5), 0.5),
        (numpy.bool_(True), True),
        (numpy.str_("x"), "x"),
        (pandas.NA, None),
        (pandas.NaT, None),
        (numpy.datetime64("NaT"), None),
        (pandas.Timestamp("2020-01-01T01:00+01:00"), datetime(2020, 1, 1, tzinfo=UTC)),
        (datetime(2020, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), datetime(2020, 1, 1, tzinfo=UTC)),
        (-0.0, 0),
    ],
)
def test_what_users_give_becomes_native(given, expected) -> None:
    value = normalise(given)
    assert value == expected
    assert type(value) in (str, int, float, bool, datetime, type(None))


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (float("nan"), ValueError, "no value"),
        (math.inf, ValueError, "inf"),
        (2**63, ValueError, "64 bits"),
        (10**400, ValueError, "64 bits"),
        (datetime(2020, 1, 1), ValueError, "time zone"),
        (pandas.Timestamp("2020-01-01"), ValueError, "time zone"),
        (pandas.Timestamp(1, tz="UTC"), ValueError, "nanoseconds"),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))), ValueError, "years 1 to 9999"),
        ("\ud800", ValueError, "surrogate"),
        ("x" * 1_000_001, ValueError, "1 MB"),
        ("é" * 500_001, ValueError, "1 MB"),
        (["a"], TypeError, "list"),
        ({"a": 1}, TypeError, "dict"),
        (b"x", TypeError, "bytes"),
        (1j, TypeError, "complex"),
        (numpy.array([1, 2]), TypeError, "ndarray"),
        (Ref(""), ValueError, "empty"),
        (datetime(2020, 1, 1).date(), TypeError, "date"),
    ],
)
def test_what_is_no_value_says_so(given, error, says) -> None:
    with pytest.raises(error, match=says):
        normalise(given)


@pytest.mark.parametrize(
    "pair",
    [
        ("s", 1),
        ("n", "1"),
        ("n", True),
        ("n", 2**64),
        ("b", 1),
        ("d", "2020"),
        ("i", "x"),
        ("i", 3),
        ("", 1),
        ("z", 1),
    ],
)
def test_a_pair_that_no_value_makes_is_refused(pair) -> None:
    with pytest.raises(ValueError, match=r"value|date|invalid literal"):
        from_wire(*pair)


def test_texts_that_look_alike_stay_apart() -> None:
    assert normalise("\u00e9") != normalise("e\u0301")  # never normalised
    assert len({slot(v) for v in ("1", 1, True, Ref("1"), "true", "n:1")}) == 6
    assert slot("x" * 300).startswith("s#") and len(slot("x" * 10**6)) == 66


# -- ids -----------------------------------------------------------------------------------------------------------


def test_any_text_without_control_characters_up_to_512_bytes_is_an_id() -> None:
    for good in ("a", "ä ö/ü?#%", "x" * 512, "日" * 170, "{id}", "a\u2028b"):
        assert check_id(good) == good
    for bad in ("", "a\nb", "a\x7f", "a\x85", "x" * 513, "日" * 171, "\ud800"):
        with pytest.raises(ValueError, match="id"):
            check_id(bad)
    with pytest.raises(TypeError, match="int"):
        check_id(3)
    with pytest.raises(ValueError, match="_deleted"):
        check_predicate("_deleted")


def test_app_ids() -> None:
    for good in ("my-app", "A.b_c-9", "x" * 64, "-x"):
        assert check_app(good) == good
    for bad in ("", ".x", "a b", "x" * 65, "a/b", "é", "a\n"):
        with pytest.raises(ValueError, match="App ID"):
            check_app(bad)
    with pytest.raises(TypeError):
        check_app(None)


def test_new_ids_take_their_randomness_from_outside() -> None:
    def counting(n: int) -> bytes:
        return bytes(i * 37 % 256 for i in range(n))

    assert nano_id(counting) == nano_id(counting) and len(nano_id(counting)) == 21
    assert len(replica_id(counting)) == 12 and replica_id(counting).isalnum()


@pytest.mark.parametrize("size", [1, 5, 12, 21, 40])
def test_new_ids_are_those_of_nanoid(size: int) -> None:
    alphabet = "_-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for seed in range(50):
        ours, theirs = random.Random(seed), random.Random(seed)
        assert nano_id(ours.randbytes, size) == method(theirs.randbytes, alphabet, size)
        assert ours.random() == theirs.random(), "more or fewer random bytes were taken"


# -- clock ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2**40), st.integers(0, 2**40)), max_size=30))
def test_times_rise_strictly_whatever_the_wall_clock_and_others_do(steps) -> None:
    clock = Clock()
    last = 0
    for own, now, remote in steps:
        if own:
            assert clock.tick(now) > last
        else:
            clock.witness(pack(remote), now)
            assert clock.last <= max(last, pack(now + clock.tolerance_ms))
        assert clock.last >= last
        last = clock.last


def test_the_counter_carries_into_the_milliseconds() -> None:
    clock = Clock(last=pack(1000, 65535))
    assert unpack(clock.tick(1000)) == (1001, 0)


def test_a_restarted_clock_goes_on_where_it_was_saved() -> None:
    clock = Clock()
    last = [clock.tick(5000) for _ in range(3)][-1]
    assert Clock(last=last).tick(1000) > last


def test_what_is_seen_is_earlier_than_what_is_written_next() -> None:
    clock = Clock()
    clock.witness(pack(1000, 7), 990)
    assert clock.tick(990) > pack(1000, 7)
    clock.witness(pack(10**9), 1000)
    assert unpack(clock.tick(1001))[0] < 2000


@given(st.integers(0, TIME_MAX), st.integers(0, TIME_MAX))
def test_stamps_sort_as_text(a, b) -> None:
    one, other = stamp_text(a, "0" * 12), stamp_text(b, "z" * 12)
    assert parse_stamp(one) == (a, "0" * 12)
    assert (one < other) == ((a, "0" * 12) < (b, "z" * 12))


@pytest.mark.parametrize(
    "bad", ["", "x", "g" * 16 + "-a", "f" * 16 + "-a", "0" * 16 + "-A!", "0" * 15 + "-a"]
)
def test_what_is_no_stamp_is_refused(bad) -> None:
    with pytest.raises(ValueError, match="not a stamp"):
        parse_stamp(bad)


@given(values, values, values)
def test_the_last_resort_between_equal_stamps_is_an_order(a, b, c) -> None:
    assert not outranks(a, a)
    if slot(a) != slot(b):
        assert outranks(a, b) != outranks(b, a)
    if outranks(a, b) and outranks(b, c):
        assert outranks(a, c)
    assert outranks(a, None) and not outranks(None, a)


def test_committed_round_trips() -> None:
    from tripleweb.sync.messages import Committed

    entry = Committed(3, "ada", "0" * 16 + "-a", [("e", "k/a", "", "n", 1.5)])
    assert decode_committed(encode(entry)) == entry
