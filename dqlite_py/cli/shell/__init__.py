"""`dqlite-py shell`: SQL and cluster commands, typed at a terminal or read from a pipe."""
