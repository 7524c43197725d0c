"""Processes that tests start, kill and start again: a server, and clients that write and read."""
