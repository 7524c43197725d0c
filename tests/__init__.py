"""The tests of tripleweb; how they are run, and what applies to all of them, stands in CONTRIBUTING.md."""
