"""The simulator: the real cores under a fake clock, network and disk, every random choice from one seed.

`world` runs a seed: first anything may fail, then everything is healed and has to converge. `nodes` has the server and
the clients, `network` and `disk` what goes wrong, `workload` what the users do, `checks` the invariants by name,
`mutants` planted bugs that must be noticed. `python -m tests.sim 17` replays seed 17.
"""
