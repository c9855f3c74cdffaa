/* One open file of the shim; used by vfs.c and vfs_wal.c only. */
#ifndef DQ_VFS_FILE_H
#define DQ_VFS_FILE_H

#include "vfs.h"

/* Below 128 KiB: unixWrite masks its length with 0x1ffff. */
#define DQ_WAL_JOIN_BYTES 65536

struct dq_file {
    sqlite3_file base;
    sqlite3_file *real;     /* in the same allocation, right behind this struct */
    struct dq_file *main;   /* of a WAL: the database file it belongs to */
    struct dq_watch *watch; /* of a database file: set on the writer's connection only */

    uint8_t *joined; /* DQ_WAL_JOIN_BYTES, allocated at the first frame */
    size_t joined_size;
    sqlite3_int64 joined_offset;

    bool in_frame; /* a frame header was written, its page comes next */
    sqlite3_int64 frame_offset;
    uint32_t frame_page;
    uint32_t frame_commit_pages;
    sqlite3_int64 next_frame_offset; /* within a transaction frames follow each other; 0: at its start */
};

int dq_wal_write(struct dq_file *wal, struct dq_watch *watch, const uint8_t *data, int size, sqlite3_int64 offset);
int dq_wal_flush(struct dq_file *wal);
void dq_wal_discard(struct dq_file *wal);
void dq_wal_free(struct dq_file *wal);

#endif
