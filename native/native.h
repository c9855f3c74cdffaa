/* The functions that Python calls, apart from crc32c.h; build_native.py repeats these declarations for cffi.
 *
 * Handles are `sqlite3 *` as integers (apsw: Connection.sqlite3_pointer()). A dq_engine belongs to one thread;
 * the other functions may run on any thread that owns the connection.
 */
#ifndef DQ_NATIVE_H
#define DQ_NATIVE_H

#include <stddef.h>
#include <stdint.h>

/* Results of dq_apply. Nothing was applied unless it is DQ_APPLIED. */
#define DQ_APPLIED 0
#define DQ_FORMAT 1       /* malformed payload */
#define DQ_VERSION 2      /* payload of an unknown version */
#define DQ_ENVIRONMENT 3  /* this node's disk, memory or files failed: outcome.code and outcome.message */

typedef struct dq_engine dq_engine;

typedef struct {
    int code;            /* SQLite's extended result code */
    int system_errno;    /* errno of the failed system call, as far as SQLite knows */
    const char *message; /* valid until the next call */
    const uint8_t *results;
    size_t results_size;
    uint64_t state_hash;
    uint64_t wal_frames;
    uint64_t wal_generation;
    uint32_t page_count;
    uint32_t passes; /* times the entry was executed: above 1 when units had to be undone */
} dq_outcome;

/* SQLite's version number once it is bootstrapped (sqlite3_dqlitenative_init was loaded), else 0. */
int dq_ready(void);

/* NULL: out of memory, or outcome->code and message say why. `results_max` bounds the rows of one entry. */
dq_engine *dq_engine_open(uintptr_t handle, uint32_t statements_max, uint64_t results_max, dq_outcome *outcome);
/* Recompute the state hash from the database file; the WAL must be empty. An SQLite code. */
int dq_engine_scan(dq_engine *engine, dq_outcome *outcome);
/* Finalizes every statement: BEFORE the connection is closed. random() and friends are then gone from it. */
void dq_engine_close(dq_engine *engine);

int dq_apply(dq_engine *engine, const uint8_t *payload, size_t size, int64_t index, int want_results,
             dq_outcome *outcome);

/* Xor of the hashes of consecutive pages; page_size is at most 65536. */
uint64_t dq_file_hash(const uint8_t *pages, size_t count, uint32_t page_size, uint32_t first_number);

/* Files of a connection opened with the VFS "dqlite", read below SQLite without a descriptor of our own (closing
 * one would drop the process's locks). which: 0 the database, 1 its WAL. SQLite codes; a short read is an error. */
int dq_file_size(uintptr_t handle, int which, int64_t *size);
int dq_file_read(uintptr_t handle, int which, int64_t offset, uint8_t *target, int size);
int dq_file_sync(uintptr_t handle, int which);

/* Prepare without executing, for a writer's eyes. 0: *is_readonly is set; else an SQLite code and message[512]. */
int dq_inspect(uintptr_t handle, const char *sql, size_t size, int *is_readonly, char *message);
/* Refused by its first words? 1 and message[512], or 0. */
int dq_refused(const char *sql, size_t size, char *message);

#endif
