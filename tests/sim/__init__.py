"""The simulator: the real cores under a fake clock, network and disk, every random choice from one seed.

`world` runs a seed: first anything may fail, then everything is healed and has to converge. `options` says what kind
of a run it is, `history` what of it can be written down and done again, `shrink` makes a failing one small. `workload`
is what users do, `interest` what they ask for and must see, `faults` what goes wrong, `nodes` the server and the
clients, `network`, `disk` and `files` what they stand on; `checks`, `partial` and `refusals` the invariants by name,
`mutants` planted bugs that must be noticed. `python -m tests.sim 17` replays seed 17, and with `--shrink` it says what
it is about.
"""
