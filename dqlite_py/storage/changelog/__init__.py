"""Row changes of a database, captured as its entries are applied and kept in files of this node (format.py).

capture.py watches the writer with SQLite's session extension, log.py keeps what it finds, cursor.py reads it for one
subscriber, decode.py makes `Change`s of it. Derived data: losing it costs subscribers a fresh start, never the node.
"""
