"""The protocol's words: its own examples, the first format both ways, sizes, and what hostile input may do."""

from __future__ import annotations

import json
import re
import textwrap
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change
from tripleweb.errors import ProtocolError
from tripleweb.sync import messages, past, published, views
from tripleweb.sync.messages import (
    change_from_wire,
    change_to_wire,
    decode_client,
    decode_committed,
    decode_receipt,
    decode_server,
    encode,
    input_from_wire,
    input_to_wire,
    register_from_wire,
    register_to_wire,
    wire_bytes,
)
from tripleweb.sync.triples import change_from_triple, change_to_triple
from tripleweb.terms import Ref, Value, normalise, slot

STAMP = (111411200000000000, "0123456789ab")
SPECIFICATION = "\n".join(
    textwrap.dedent(module.__doc__ or "") for module in (messages, past, published, views)
)


def examples() -> list[tuple[str, str]]:
    """(direction, JSON) of every frame in the specification; a frame goes on until its braces balance."""
    found: list[tuple[str, str]] = []
    direction, text = "", ""
    for line in textwrap.dedent(SPECIFICATION).splitlines():
        match = re.match(r"\s*([<>]) (\{.*|\s.*)$", line)
        if match is None:
            continue
        if not text:
            direction = match[1]
        text += match[2].strip()
        if text.count("{") == text.count("}"):
            found.append((direction, text))
            text = ""
    assert not text, f"an example that does not end: {text}"
    return found


def triples_of_the_specification() -> list[dict[str, Any]]:
    lines = (line.strip() for line in (messages.__doc__ or "").splitlines())
    return [json.loads(line) for line in lines if line.startswith('{"subject"')]


def test_the_specification_has_an_example_of_every_frame() -> None:
    said = {json.loads(text)["t"] for _, text in examples()}
    frames = {
        struct.__struct_config__.tag
        for union in (messages.ClientFrame, messages.ServerFrame)
        for struct in union.__args__
    }
    prose = set(re.findall(r'"t":"(\w+)"', SPECIFICATION))
    assert said <= frames
    assert frames == said | prose


@pytest.mark.parametrize(("direction", "text"), examples())
def test_the_examples_of_the_specification(direction: str, text: str) -> None:
    decode = decode_client if direction == ">" else decode_server
    frame = decode(text)
    again = encode(frame)
    assert decode(again) == frame
    assert without_defaults(json.loads(again)) == without_defaults(json.loads(text))
    for change in changes_in(json.loads(text)):
        assert change_to_wire(change_from_wire(tuple(change), *STAMP)) == tuple(change)


def without_defaults(value: Any) -> Any:
    """An example may spell out what is left out by default."""
    if isinstance(value, dict):
        return {k: without_defaults(v) for k, v in value.items() if v not in ([], {}, "", False, None)}
    if isinstance(value, list):
        return [without_defaults(v) for v in value]
    return value


def changes_in(value: Any) -> list[list[Any]]:
    if isinstance(value, dict):
        own = value.get("changes", [])
        return own + [change for v in value.values() for change in changes_in(v)]
    if isinstance(value, list):
        return [change for v in value for change in changes_in(v)]
    return []


# -- the first format --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("triple", triples_of_the_specification())
def test_the_first_format_in_the_specification(triple: dict[str, Any]) -> None:
    assert change_to_triple(change_from_triple(triple)) == triple


def test_the_specification_has_a_tombstone_of_the_first_format() -> None:
    deleted = [change_from_triple(t) for t in triples_of_the_specification() if t["predicate"] == DELETED]
    assert [change[:4] for change in deleted] == [("ada", DELETED, SINGLE, True)]


VALUES: list[Value] = [
    "text", "", "ünï", 0, -1, 2**53, -(2**63), 1.5, True, False, Ref("ada"), datetime(2013, 1, 1, tzinfo=UTC),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_every_kind_of_value_in_the_first_format(value: Value) -> None:
    change = Change("ada", "user/x", SINGLE, value, *STAMP)
    again = change_from_triple(json.loads(json.dumps(change_to_triple(change))))
    assert again == change
    assert type(again.value) is type(value)


def test_members_of_the_first_format_are_references() -> None:
    member = Change("p", "post/tags", slot(Ref("t1")), Ref("t1"), *STAMP)
    assert change_to_triple(member)["object_type"] == "refMany"
    assert change_from_triple(change_to_triple(member)) == member


def test_what_the_first_format_cannot_say() -> None:
    with pytest.raises(ValueError, match="removed"):
        change_to_triple(Change("ada", "user/x", SINGLE, None, *STAMP))
    good = change_to_triple(Change("ada", "user/x", SINGLE, 1, *STAMP))
    for name in good:
        with pytest.raises(ValueError, match=name):
            change_from_triple({k: v for k, v in good.items() if k != name})
    for wrong in (
        {"object_type": "list"},
        {"object_type": ["s"]},
        {"object_type": None},
        {"object": "1"},
        {"object": None},
        {"object": [1]},
        {"object": {"a": 1}},
        {"hlc": "now"},
        {"hlc": 5},
        {"hlc": None},
        {"subject": 7},
        {"subject": ""},
        {"predicate": "_mine"},
        {"predicate": DELETED},
        {"predicate": None},
        {"object_type": "refMany", "object": 3},
        {"object_type": "ref", "object": ""},
    ):
        with pytest.raises(ValueError):
            change_from_triple({**good, **wrong})


# -- changes -----------------------------------------------------------------------------------------------------------


def test_changes_and_registers_survive_the_wire() -> None:
    changes = [
        *(Change("s", "p/x", SINGLE, value, *STAMP) for value in VALUES),
        *(Change("s", "p/x", slot(value), value, *STAMP) for value in VALUES),
        *(Change("s", "p/x", slot(value), None, *STAMP) for value in VALUES),
        Change("s", "p/x", SINGLE, None, *STAMP),
        Change("s", "p/x", RESET, None, *STAMP),
        Change("s", "p/x", COUNTER, 5, *STAMP),
        Change("s", "p/x", COUNTER + "0123456789ab", 5, *STAMP),
        Change("s", DELETED, SINGLE, True, *STAMP),
        Change("s", "p/x", slot("x" * 500), "x" * 500, *STAMP),
    ]
    for change in changes:
        wire = msgspec.json.decode(msgspec.json.encode(register_to_wire(change)))
        again = register_from_wire(tuple(wire))
        assert again == change
        assert type(again.value) is type(change.value)


@pytest.mark.parametrize(
    "wire",
    [
        ("", "p", "", "s", "x"),
        ("s", "", "", "s", "x"),
        ("s\n", "p", "", "s", "x"),
        ("s", "_p", "", "s", "x"),
        ("s", "_deleted", "", "b", False),
        ("s", "_deleted", "", "s", "true"),
        ("s", "_deleted", "x", "b", True),
        ("s", "p", "*", "s", "x"),
        ("s", "p", "s:y", "s", "x"),
        ("s", "p", "n:1", "b", True),
        ("s", "p", "c:", "s", "x"),
        ("s", "p", "z", "", None),
        ("s", "p", "s:" + "x" * 1000, "", None),
        ("s", "p", "", "n", "1"),
        ("s", "p", "", "n", True),
        ("s", "p", "", "n", 2**64),
        ("s", "p", "", "i", "1" * 30),
        ("s", "p", "", "i", "x"),
        ("s", "p", "", "d", "yesterday"),
        ("s", "p", "", "d", "2013-13-01T00:00:00.000000Z"),
        ("s", "p", "", "r", ""),
        ("s", "p", "", "b", 1),
        ("s", "p", "", "q", "x"),
        ("s", "p", "", "", "x"),
        ("s", "p", "", "s", "x" * 1_000_001),
    ],
)
def test_what_may_not_be_stored_is_refused(wire: Any) -> None:
    with pytest.raises(ValueError):
        change_from_wire(wire, *STAMP)


@given(st.text(max_size=300), st.text(min_size=1, max_size=40))
def test_the_estimated_size_is_an_upper_bound(text: str, subject: str) -> None:
    change = Change(subject, "p/x", SINGLE, text, *STAMP)
    try:
        change = change._replace(value=normalise(text))
        size = len(msgspec.json.encode(register_to_wire(change)))
    except (ValueError, UnicodeEncodeError):  # a lone surrogate is no value, and no id
        return
    assert size <= wire_bytes(change)


def test_large_integers_do_not_lose_digits_in_a_reader_with_floats() -> None:
    wire = change_to_wire(Change("s", "p", SINGLE, 2**60 + 1, *STAMP))
    assert json.loads(encode(wire), parse_int=float)[4] == str(2**60 + 1)


# -- inputs of queries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_input", [10, "x", Ref("x"), True, None, ["a", 1], [], [("a", 1), ("b", 2.5)]])
def test_inputs_survive_the_wire(given_input: Any) -> None:
    wire = msgspec.json.decode(msgspec.json.encode(input_to_wire(given_input)))
    assert input_from_wire(wire) == given_input


@pytest.mark.parametrize(
    "wire", [5, "x", {}, {"many": 1}, {"rows": [1]}, {"many": [[1, 2]]}, ["s"], [["s", "x"]], {"a": []}]
)
def test_other_inputs_are_refused(wire: Any) -> None:
    with pytest.raises(ValueError):
        input_from_wire(wire)


# -- hostile input -----------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DECODERS = [decode_client, decode_server, decode_committed, decode_receipt]


def check_decoding(data: bytes | str) -> None:
    for decode in DECODERS:
        try:
            decode(data)  # type: ignore[operator]
        except ProtocolError as error:
            assert error.code == "malformed"


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes_are_at_most_a_protocol_error(data: bytes) -> None:
    check_decoding(data)


@settings(max_examples=300)
@given(st.sampled_from([text for _, text in examples()]), st.data())
def test_damaged_frames_are_at_most_a_protocol_error(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 8))
    check_decoding(text[:at] + data.draw(st.text(max_size=4)) + text[at + length :])


@settings(max_examples=300)
@given(st.sampled_from([text for _, text in examples()]), st.data())
def test_frames_with_wrong_fields_are_at_most_a_protocol_error(text: str, data: st.DataObject) -> None:
    frame = json.loads(text)
    name = data.draw(st.sampled_from(sorted(frame)))
    frame[name] = data.draw(json_values)
    check_decoding(json.dumps(frame))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"t":"what"}',
        b'{"t":5}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"t":"hello","protocol":[2,2],"subscriptions":' + b"[" * 100_000,
        b'{"t":"subscribe","subscription":{"id":"x","inputs":' + b"[" * 100_000,
        b'{"t":"ping","now":1e400}',
        b'{"t":"ping","now":' + b"9" * 5_000 + b"}",
        b'{"t":"ping","now":1}garbage',
        b'\xff\xfe{"t":"ping","now":1}',
        b'{"t":"ping","now":"1"}',
        b'{"t":"push","transactions":[{"number":1,"id":"x","stamp":"y","changes":[["s","p"]]}]}',
        b'{"t":"push","transactions":[{"number":1,"id":"x","stamp":"y","changes":[["s","p","","n",[1]]]}]}',
        '{"t":"unsubscribe","id":"\ud800"}',
    ],
)
def test_malformed_frames_are_a_protocol_error(data: Any) -> None:
    for decode in DECODERS:
        with pytest.raises(ProtocolError) as raised:
            decode(data)  # type: ignore[operator]
        assert raised.value.code == "malformed"


def test_unknown_fields_are_ignored() -> None:
    assert decode_client('{"t":"ping","now":1,"mood":"good"}') == messages.Ping(1)


@settings(max_examples=500)
@given(st.lists(json_values, min_size=5, max_size=5))
def test_hostile_changes_are_at_most_a_value_error(parts: list[Any]) -> None:
    frame = {"t": "push", "transactions": [{"number": 1, "id": "x", "stamp": "y", "changes": [parts]}]}
    try:
        pushed = decode_client(json.dumps(frame))
    except ProtocolError:
        return
    assert isinstance(pushed, messages.Push)
    try:
        change_from_wire(pushed.transactions[0].changes[0], *STAMP)
    except ValueError:
        return
