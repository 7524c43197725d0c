"""The sync core: frames in, frames and commits out; no sockets, files, threads, clocks or randomness."""
