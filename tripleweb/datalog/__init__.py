"""Datalog over triples: text to a checked query (`query`), a query and a source to rows (`evaluate`), and answers that
follow a source (`live`). The other modules are their parts: `edn` reads forms, `clauses` what stands in :where, `plan`
finds what can run when, `patterns` and `relation` read the source, `inputs` and `answer` are the ways in and out,
`builtins`, `aggregates` and `regex` what can be called.
"""
