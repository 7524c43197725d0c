"""The public surface, sentence by sentence: which test holds which.

The tests of `test_contract_*.py` quote the sentences they hold in their docstrings. `ELSEWHERE` lists the sentences
that other tests quote, and where; `TO_COME` those of which something is still to be built. Displays after a reload, in
a second browser and after a kernel restart, and rejections other than by role, are to come as well.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tripleweb.database import Database

HERE = Path(__file__).resolve().parent
SURFACE = sorted(path.stem for path in HERE.glob("test_contract_*.py"))

# Each sentence stands after the test that quotes it.
ELSEWHERE = """
-- schema
test_writes::test_a_counter_only_counts: A counter only counts: `insert(…, likes=3)` counts 3 (left out: 0);
    assigning or removing one by `update`, `set` or `unset` raises `SchemaError`.
test_schema::test_a_schema_that_cannot_be: Kind and field names do not begin with `_`; no field is called `id`.
test_schema::test_a_violation: A violation or an unknown field raises `SchemaError` naming kind, field, value
    and expectation
test_writes::test_a_violation_writes_nothing: and writes nothing
test_writes::test_insert: Defaults are written by `insert`
test_schema::test_defaults: on read, `get`, `select` and `pull` use plain ones (not callables) for missing
    fields.
test_schema::test_misfits_read_as_missing: Data from others that does not fit the schema reads as missing, never
    as an exception, and is not converted
test_kinds::test_every_clause_sees_what_fits: a client with a schema adds its fields' *kinds* to the clauses of
    the queries it runs and subscribes, so both ends answer the same
test_schema::test_check_guards_writes_only: `check=` guards writes only.
test_kinds::test_fields_that_the_schema_does_not_know_are_free: Old clients ignore fields they do not know.
test_writes::test_without_a_schema: Without a schema, scalars are single, Python sets are many,
    `tripleweb.Ref(id)` is a reference; lists raise.

-- values, ids, predicates
test_frame::test_frames_on_their_way_in: `None` and pandas' missing values mean "no value"; numpy scalars are
    understood.
test_schema::test_no_value_at_all: NaN, infinities, larger integers, naive datetimes, lone surrogates, values
    over 1 MB and other types raise `ValueError`/`TypeError` that say what was wrong.

-- a store
test_discovery::test_the_order: then `TRIPLEWEB_URL`/`TRIPLEWEB_TOKEN`, JupyterHub, the running Jupyter server
    that started this kernel, a `tripleweb serve` on this machine.
test_embedded::test_stores_of_one_process_share_a_server: `url="embedded"` runs a server inside this process.
test_database::test_no_server: Nothing found: `NoServerError` that says what to do.
test_extension::test_kernels_of_a_real_server_find_it: the server extension sets both for its kernels
test_database::test_a_known_server_that_is_down_is_no_error: A known server that is down is no error: the store
    opens offline with what it has and keeps trying.
test_shelf::test_a_free_file_is_taken_up_again_a_held_one_is_not: `path=None` picks a replica file of this
    server, app and user that no running session holds (unsent writes first), or a new one
test_database::test_paths: An explicit path in use raises `StoreLockedError`; `":memory:"` opts out.
test_places_to_connect::test_a_hub: Who I am comes from the server: the Hub's user on a JupyterHub
test_places_to_connect::test_a_token_server: on any other Jupyter server every kernel and every request that
    brings only the server's token is the server's owner
test_relay::test_a_browser_keeps_its_name_on_the_way: a browser has the name of its login or cookie
test_extension::test_who_brings_only_the_servers_token_is_its_owner: the operating system's user name, the same
    after a restart … never a random name per request
test_database::test_a_transaction_is_one_or_nothing: inside `with db.transaction():` many become one with one
    stamp (an exception undoes all)
test_session::test_a_returned_write_survives_the_death_of_the_process: A returned write survives the death of
    the process
test_replica_file::test_settings_that_make_a_save_durable: A returned write survives the death of the process
    (`durability="full"`: of the machine).
test_writes::test_update: None removes; tags=[…] assigns the whole set; unknown ids are created
test_writes::test_add_and_remove: merge element by element
test_schema::test_an_entity_as_one_kind: dict with "id"; many as a sorted list; None if there is none
test_writes::test_set_and_unset: `set` and `unset` check a predicate that the schema knows (`SchemaError`; an id
    becomes a reference there) and take any other as a store without a schema does.
test_writes::test_set_on_a_many_valued_field: On a many-valued field a scalar adds one member and a Python set
    assigns the whole; elsewhere a scalar assigns.
test_writes::test_unset_of_one_member: `unset(s, p)` removes all, `unset(s, p, o)` one member.
test_schema::test_required_fields: Required are the fields with neither `optional=` nor `default=`, sets and
    counters apart.
test_writes::test_rows_of_entities_that_are_there: unless the id already has a value for them here
test_writes::test_update: removing one raises `SchemaError`
test_writes::test_key_columns: `id=` names a column, whose text is the id, or a list of columns, whose texts are
    joined by `/` (integers in decimal, dates as stored); `prefix=` goes before either as it is.
test_writes::test_key_columns: Id columns are also written as fields, except one called `id` and those that the
    schema does not know
test_writes::test_keys_that_cannot_be: a missing or repeated key raises `ValueError`
test_writes::test_insert_columns: It returns a list of ids in row order
test_writes::test_deleted_rows: Writing to a deleted id raises `DeletedError` (`insert_frame(deleted="skip")`
    leaves those out and says how many).

-- queries
test_frame::test_shapes: A relation find gives a DataFrame; `[?x ...]` a Series; `[?x ?y]` a tuple or None; `?x
    .` a Python value or None.
test_live_frame::test_value_has_the_shape_of_q: `db.live(…).df` is always a DataFrame, `live.value` has the
    shape of `q`.
test_frame::test_dtypes: `int64`; any float makes `float64`; `bool`; text pandas' default string dtype; dates
    `datetime64[us, UTC]`; mixed kinds `object`; columns that can miss values by the query's form, whatever the
    data, `Int64`, `Float64`, `boolean`
test_frame::test_an_empty_column: an empty column takes the schema's kind, else `object`
test_database::test_skipped_values_are_counted: numeric aggregates skip what is not a number and say how many in
    `attrs`
test_database::test_what_is_incomplete_is_said: `strict=True` raises `IncompleteError` where it would warn;
    offline answers from the replica

-- live frames
test_live_frame::test_the_first_look_waits_for_a_complete_answer: `db.live` returns at once; the first `.df`,
    `value` or callback waits for the first complete answer
test_live_frame::test_the_first_look_waits_for_a_limited_time: at most `timeout=10`, then what is here,
    `complete` false
test_live_frame::test_the_frame_follows: `live.df` is an ordinary DataFrame that never changes under your feet
test_live_frame::test_a_frame_is_safe_to_modify: safe to modify
test_live_frame::test_the_frame_follows: the next access gives the fresh one
test_live_frame::test_version: `live.version` grows with each change
test_live_frame::test_on_change: `live.on_change(fn)` calls `fn(live, delta)` after each transaction, in order
test_live_frame::test_on_change: `delta.added` and `delta.removed` are DataFrames; it returns a function that
    stops it
test_database::test_a_callback_may_query_and_write: on one callback thread of the store and outside its lock
    (queries and `flush` are allowed there)
test_live_frame::test_errors_of_callbacks: What `fn` raises goes to `live.error` and is shown once.
test_live_frame::test_wait: `live.wait(timeout=30)` returns `live` as soon as it is newer than the last `.df`
    seen
test_live_frame::test_wait_until: as soon as `until(df)` is true; else `TimeoutError`
test_live_frame::test_close: `live.close()`
test_live_frame::test_equal_queries_share_their_work: Equal queries share their work
test_display::test_running_a_cell_again_ends_what_it_displayed: running a cell again closes what its last run
    displayed
test_live_frame::test_it_behaves_like_its_frame: It behaves in expressions like its frame (`live["age"].mean()`,
    `len(live)`, `live.plot(…)`)
test_display::test_a_display_follows: as the last value of a cell it shows a table that keeps itself up to date
test_display::test_in_a_real_kernel: while a long cell runs
test_display::test_elsewhere_it_is_a_plain_table: Elsewhere it is a plain table

-- guarded transactions
test_guarded::test_committed_only_if_it_has_an_answer_at_the_server: A guarded transaction, `with
    db.transaction(check='[:find … ]', inputs=(…)) as tx:`, is committed only if the query has an answer at the
    server at that moment
test_guarded::test_committed_only_if_it_has_an_answer_at_the_server: `tx.wait(timeout=30)` returns whether it was;
    refused, it is undone here with a receipt
test_guarded::test_committed_only_if_it_has_an_answer_at_the_server: `rejected` (… guard …) with the value kept

-- looking back
test_because::test_a_row_is_named_as_a_user_of_pandas_names_it: `live.why(row)`
test_because::test_why_not: `db.why_not(query, row)`
test_pin::test_what_was_pinned_comes_back: `live.pin()` and `db.at(pin)`

-- reacting
test_reacting::test_a_function_runs_again_when_its_frame_changes: `@live.react` re-runs a function when its frames
    change

-- writing back
test_difference::test_only_what_differs_is_written: `db.apply(before, after)` writes the difference of two frames

-- files
test_transfer::test_there_and_back: `db.export("all.jsonl"); db.import_("all.jsonl")`
test_transfer::test_endings: Parquet (with [parquet]), CSV, JSON Lines, EDN datoms, by the ending
test_transfer::test_as_commands: export | import` work on the data directory (`--data DIR`) or on a running server
    (`--url`)

-- sync
test_magics::test_connect_binds_db: its repr and HTML are what `%tripleweb status` shows
test_undo::test_undo_and_redo: `db.undo()` takes back this session's last transaction as a new one, where its
    values still stand; returns a frame of what it left alone; `db.redo()`.
test_looking_back::test_history: `db.history(id)`: a frame (`time user predicate old new`, oldest first; one row a
    member of a many-valued field; a delete is a row for each value it removed).
test_looking_back::test_as_of: `db.as_of(moment).q(…)`: the state after the last transaction the server committed by
    then, empty before the first; before the floor of a compacted log `HistoryError`.
"""

# Sentences of which something is still to be built, and whether it is there by now.
TO_COME = {
    """Ids and predicates are percent-encoded in URLs.""": hasattr(
        Database, "room"
    ),  # the first URLs with ids in them
}


def words(text: str) -> str:
    """A text without its signs."""
    return " ".join(re.findall(r"\w+", text)).lower()


def quotes(module: str) -> dict[str, str]:
    """The tests of a module, with the words of their docstrings."""
    body = ast.parse((HERE / f"{module}.py").read_text(encoding="utf-8")).body
    found = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    names = [node.name for node in found]
    assert len(set(names)) == len(names), f"{module} has two tests of one name, and pytest sees one"
    return {
        node.name: words(ast.get_docstring(node) or "") for node in found if node.name.startswith("test_")
    }


def elsewhere() -> list[tuple[str, str]]:
    """(test, sentence)."""
    found = re.findall(r"^(test_\w+::test_\w+): (.+(?:\n    .+)*)", ELSEWHERE, re.MULTILINE)
    assert len(found) == ELSEWHERE.count("::")
    return found


@pytest.mark.parametrize(("test", "sentence"), elsewhere())
def test_the_sentence_is_quoted_there(test: str, sentence: str) -> None:
    module, name = test.split("::")
    there = quotes(module)
    assert name in there, f"there is no {test}"
    assert words(sentence) in there[name], "it says something else"


@pytest.mark.parametrize("module", SURFACE)
def test_each_test_of_the_surface_quotes_it(module: str) -> None:
    silent = [name for name, said in quotes(module).items() if not said]
    assert not silent and len(quotes(module)) > 5


@pytest.mark.parametrize("sentence", TO_COME)
def test_what_is_still_to_come(sentence: str) -> None:
    assert not TO_COME[sentence], "it is here: a test that quotes the sentence, and this line can go"
