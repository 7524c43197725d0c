"""Benchmarks: each module has `run() -> dict[str, float]`, figures by name with their unit in the name."""
