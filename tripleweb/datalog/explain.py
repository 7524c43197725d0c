"""What a query costs, step by step: `explain` runs it and says what each clause was expected to make and what it made.

A query that is compiled is taken in the order of its generated code; the first one, two, three … clauses are run, and a
step is what one more of them adds: its rows, the rows that it touched, the time that it took. A query of the plain
evaluator is run once, with a meter at each stage: there rows are what goes on to the next stage, and what a rule or a
negation does is told by steps of its own. Invariants: `actual` and `touched` are counted by the code that answers
queries, never estimated; the last step has what is done with the rows that the clauses gave. Time comes from `clock`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from tripleweb.datalog.answer import Result
from tripleweb.datalog.bodies import (
    Apply,
    Literal,
    Member,
    Triple,
    Unsupported,
    Without,
    inputs_of,
    outputs_of,
    predicates_of,
)
from tripleweb.datalog.builtins import FUNCTIONS, forward
from tripleweb.datalog.clauses import Call, Constant, Not, Pattern, RuleCall, Rules, Variable, bound, guess
from tripleweb.datalog.compiled import Module
from tripleweb.datalog.edn import Form, show
from tripleweb.datalog.evaluate import Budget, Evaluation, Stage, _Body, _Site, _Table, evaluate
from tripleweb.datalog.executor import Executor, Prepared
from tripleweb.datalog.inputs import ITEMS_MAX, prepare
from tripleweb.datalog.joins import steps
from tripleweb.datalog.plan import Given, Step, arrange, expected
from tripleweb.datalog.query import Query
from tripleweb.datalog.relation import Row, Rows, Work, known
from tripleweb.datalog.upkeep import Upkeep
from tripleweb.store import Store
