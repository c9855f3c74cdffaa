"""Every bound in one place. Sizes in bytes, times in milliseconds, counts as such."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# -- what clients may ask for
UNIT_BYTES_MAX: Final = 112 * MIB  # a blob of 100 MiB, and below the disk reserve
ENTRY_BYTES_MAX: Final = UNIT_BYTES_MAX + 4 * KIB
ENTRY_BATCH_BYTES: Final = 1 * MIB  # a group-committed entry is closed at this size
ENTRY_UNITS_MAX: Final = 4096
STATEMENT_PARAMS_MAX: Final = 32_766
RESULT_BYTES_MAX: Final = 256 * MIB
DATABASE_NAME_MAX: Final = 128
DATABASES_MAX: Final = 64
PENDING_UNITS_MAX: Final = 16_384  # queued at one node, not yet in an entry
PENDING_BYTES_MAX: Final = 256 * MIB
PENDING_READS_MAX: Final = 1024  # queries waiting for a reader thread, per database
STREAM_CHUNK_BYTES: Final = 64 * KIB  # of a result that is handed over in pieces, unless one row is larger
STREAM_IDLE_MS: Final = 60_000  # a result that nobody goes on reading is given up after this,
STREAM_HOLD_MS: Final = 3_600_000  # any result after this: the WAL cannot begin anew while it is open
READERS_HELD_MAX: Final = 64  # results and read transactions open at a time, per database
READER_THREADS_MAX: Final = 16  # for reads of asyncio programs, per database; started when needed
TRANSACTION_HOLD_MS: Final = 3_600_000  # no transaction of a program may be open, or idle, for longer
EXTRA_READER_CACHE_BYTES: Final = 2 * MIB  # of a reader that is there because others are held

# -- client sessions (exactly-once writes); part of the replicated state: every node must have the same
SESSION_KEEP_US: Final = 3_600_000_000  # a result is kept for this long, in log time
SESSION_AHEAD_US: Final = 10_000_000  # a sequence number may be ahead of log time by this
SESSIONS_MAX: Final = 65_536  # per database
SESSION_RESULT_BYTES_MAX: Final = 64 * KIB  # a larger result is kept as a summary
SESSION_ROW_BYTES_MAX: Final = 16 * MIB  # from here on an entry's results are kept as summaries
SESSION_ROWS_BYTES_MAX: Final = 64 * MIB  # of kept results, per database
SESSION_EVICTIONS_MAX: Final = 4_096  # rows that one entry lets go

# -- raft
UNCOMMITTED_BYTES_MAX: Final = 256 * MIB
APPEND_BYTES_MAX: Final = 1 * MIB  # per message, unless one entry is larger
APPEND_ENTRIES_MAX: Final = 1024
INFLIGHT_BYTES_MAX: Final = 8 * MIB  # per follower
INFLIGHT_MESSAGES_MAX: Final = 64
LOG_CACHE_BYTES_MAX: Final = 32 * MIB
MEMBERS_MAX: Final = 64

TICK_MS: Final = 20
HEARTBEAT_MS: Final = 60
ELECTION_MIN_MS: Final = 400
ELECTION_MAX_MS: Final = 800
LEASE_DRIFT_PERCENT: Final = 10  # of the minimum election time-out: what two clocks' rates may differ by

# -- journal
SEGMENT_BYTES: Final = 64 * MIB
RECORD_BYTES_MAX: Final = ENTRY_BYTES_MAX + 4 * KIB
DISK_RESERVE_BYTES: Final = 128 * MIB
LOG_TAIL_BYTES: Final = 64 * MIB  # kept behind the snapshot for slow followers
COMPACT_LOG_BYTES: Final = 128 * MIB  # compact when the journal holds more than this
DATABASE_PAGE_BYTES: Final = 4096
WAL_CHECKPOINT_FRAMES: Final = 4000

# -- transport
FRAME_BYTES_MAX: Final = RECORD_BYTES_MAX + 64 * KIB
FRAME_FRAGMENT_BYTES: Final = 256 * KIB
HANDSHAKE_BYTES_MAX: Final = 4 * KIB
HANDSHAKE_TIMEOUT_MS: Final = 2_000
CONNECT_TIMEOUT_MS: Final = 1_000
RECONNECT_MIN_MS: Final = 50
RECONNECT_MAX_MS: Final = 1_000
IDLE_TIMEOUT_MS: Final = 5_000
SEND_QUEUE_BYTES_MAX: Final = 32 * MIB  # per lane of a connection
CONTROL_QUEUE_BYTES_MAX: Final = 1 * MIB
WRITE_BUFFER_BYTES_MAX: Final = (
    2 * FRAME_FRAGMENT_BYTES
)  # handed to a socket; what control messages wait behind
PARTIAL_MESSAGES_MAX: Final = 4  # partly received at once, per connection
STRANGER_BYTES_MAX: Final = 64 * KIB  # a message from a caller that names another cluster or none
RPC_VALUES_MAX: Final = 64 * KIB  # elements of one array or map in an RPC body
RPC_RUNNING_MAX: Final = 1024  # requests in work, per connection
RPC_RUNNING_BYTES_MAX: Final = 256 * MIB  # their bodies, per connection
INCOMING_CONNECTIONS_MAX: Final = 512
LISTEN_BACKLOG: Final = 256

# -- dqlite's client protocol
DQLITE_REQUEST_BYTES_MAX: Final = UNIT_BYTES_MAX  # body of a request, once a database is open
DQLITE_GREETING_BYTES_MAX: Final = 64 * KIB  # body of a request before
DQLITE_RESPONSE_BYTES_MAX: Final = RESULT_BYTES_MAX  # body of a response that a client accepts
DQLITE_NAME_BYTES_MAX: Final = 1024  # of a database, an address, a VFS, a file
DQLITE_MESSAGE_BYTES_MAX: Final = 64 * KIB  # text of a failure
DQLITE_COLUMNS_MAX: Final = 32_767  # SQLite's own highest; by default 2,000
DQLITE_FILES_MAX: Final = 100
DQLITE_STATEMENTS_MAX: Final = 1024  # prepared at a time, per connection
DQLITE_CONNECTIONS_MAX: Final = 64  # of a program to a stock server
DQLITE_IDLE_CONNECTIONS_MAX: Final = 8  # of these, kept without work
DQLITE_BATCH_BYTES: Final = 4096  # a batch of rows is sent when it has grown to this size

# -- programs' connections (the extension of dqlite's protocol)
EXTENSION_FRAGMENT_BYTES: Final = 128 * KIB  # a longer body is sent in pieces of this size
EXTENSION_MESSAGE_BYTES_MAX: Final = FRAME_BYTES_MAX  # a call's or an answer's body
EXTENDED_CONNECTIONS_MAX: Final = 8192  # per node, and not more than its descriptors allow
FOLLOWERS_MAX: Final = 1024  # programs that follow changes, per node
STREAM_CREDITS_MAX: Final = 1024  # pieces of a stream that a client may allow in advance

# -- snapshots
SNAPSHOT_CHUNK_BYTES: Final = 1 * MIB
SNAPSHOT_KEEP_MS: Final = 120_000  # an unused outgoing copy is dropped after this
SNAPSHOT_WAIT_MS: Final = (
    1_000  # how long snapshot.begin waits for a copy being made before it answers "preparing"
)
SNAPSHOT_STALL_MS: Final = 60_000  # a receiver gives up when a copy makes no progress for this long
SNAPSHOT_CHUNKS_INFLIGHT: Final = 4
SNAPSHOT_SYNC_BYTES: Final = 16 * MIB  # a receiver notes its position this often
SNAPSHOT_FLUSH_BYTES: Final = 2 * MIB  # it syncs this often: others' fsyncs wait behind a long one
SNAPSHOT_COPY_PAGES: Final = 512  # per step of a copy: what is synced at once, progress, stopping
# What a source does beside writes, at least and on the whole; alone it goes as fast as it can. While it copies, the
# write-ahead log of its database cannot begin anew: the copy is the more urgent part.
SNAPSHOT_COPY_BYTES_PER_S: Final = 64 * MIB
SNAPSHOT_SEND_BYTES_PER_S: Final = 32 * MIB  # to all followers together
SNAPSHOT_REST_RATIO: Final = 3.0  # a copy rests so many times what a piece took, where that is less
SNAPSHOT_ALONE_MS: Final = 200.0  # nothing was written for so long
SNAPSHOT_LOG_BYTES: Final = 1024 * MIB  # of the log are kept behind a copy that followers fetch
DUMPS_MAX: Final = 4  # copies of databases for programs, at a time on one node
MANIFEST_BYTES_MAX: Final = 256 * KIB

# -- changes as a stream
CHANGES_KEEP_BYTES: Final = 64 * MIB  # per database, once somebody has asked for its changes
CHANGES_SEGMENT_BYTES_MIN: Final = 64 * KIB  # a change log is dropped by segments of an eighth of it
CHANGES_ENTRY_BYTES_MAX: Final = 256 * MIB  # an entry that changed more is not described row by row
CHANGES_READ_BYTES: Final = 256 * KIB  # read ahead for one subscriber, unless one entry is larger

# -- requests
REQUEST_TIMEOUT_MS: Final = 10_000
