"""Work on a data folder while no node runs there: verify, recover, and folders made from or read into SQLite files.

Called by the command line. Blocking; nothing here runs on a node's loop.
"""
