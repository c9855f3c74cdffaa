/* The VFS "dqlite": SQLite's unix VFS with three changes.
 *
 * - Time: while dq_vfs_fix_time is in force on a thread, that thread's SQLite sees a fixed clock and no
 *   'localtime' (it depends on the machine's time zone).
 * - WAL frames of a watched connection are joined: SQLite writes each as 24 + page_size bytes; they go out in
 *   pieces of at most 64 KiB, the last one at the commit frame. Any error reaches SQLite no later than the
 *   write of the commit frame.
 * - The same frames feed the state hash (page_hash.h).
 */
#ifndef DQ_VFS_H
#define DQ_VFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "page_hash.h"
#include "sqlite_api.h"

#define DQ_VFS_NAME "dqlite"

/* What the writer connection's WAL writes feed; owned by the engine, hung on the main database file. */
struct dq_watch {
    struct dq_pages pages;
    uint64_t wal_frames;     /* frames in the WAL up to the last commit frame written */
    uint64_t wal_generation; /* counts WAL headers written: the WAL began anew */
    bool refused;            /* a write that is not a frame came: the state hash cannot follow */
};

int dq_vfs_register(void);

void dq_vfs_fix_time(int64_t unix_ms);
void dq_vfs_release_time(void);

/* Watch the WAL of `db` (opened with this VFS), or end watching with NULL. false: another VFS. */
bool dq_vfs_watch(sqlite3 *db, struct dq_watch *watch);
/* Drop joined frames that an earlier, failed commit left behind. */
void dq_vfs_begin(sqlite3 *db);

/* The real file below the shim: 0 the database, 1 its WAL; NULL when there is none. */
sqlite3_file *dq_vfs_real_file(sqlite3 *db, int which);

#endif
