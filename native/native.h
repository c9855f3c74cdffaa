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

/* Called by dq_apply when all of an entry is written, right before COMMIT, on the same thread; it may read through the
 * connection. Another pass may follow, and then another call. NULL: none. */
typedef void (*dq_hook)(void *context);
void dq_engine_before_commit(dq_engine *engine, dq_hook hook, void *context);
/* Whether hooks see each row that is deleted (guard.h). */
int dq_engine_is_followed(const dq_engine *engine);
/* Tables, virtual ones too, that statements were allowed to drop so far; it counts on from 2^32 at 0. */
uint32_t dq_engine_drops(const dq_engine *engine);

int dq_apply(dq_engine *engine, const uint8_t *payload, size_t size, int64_t index, int want_results,
             dq_outcome *outcome);

/* A live transaction (live.h). One engine has at most one; dq_apply and dq_engine_close roll it back. */
typedef struct {
    int code;            /* as in dq_outcome; 0: no error beside what is in the results */
    int is_open;         /* the transaction; 0: it is rolled back */
    int is_recorded;     /* the group is part of what a commit replays */
    int has_written;     /* the group, or at the end the transaction, did more than reading and savepoint control */
    const char *message; /* this and the next two: valid until the next call */
    const uint8_t *results; /* [0, [result, ...]] or [code, message, position] */
    size_t results_size;
    const uint8_t *decltypes; /* [text or nil, ...], of the last statement with columns; may be empty */
    size_t decltypes_size;
    uint8_t digest[8]; /* at the end */
} dq_live_outcome;

/* An SQLite code. `seed` is 16 bytes. */
int dq_live_begin(dq_engine *engine, int64_t now_us, const uint8_t *seed, dq_live_outcome *outcome);
/* Run a group: msgpack as in a unit. timeout_us below 0: none. `flag` is 1 while it may be interrupted, 2 once it was.
 * DQ_APPLIED: it ran, perhaps into an error. DQ_FORMAT: malformed, or there is no transaction; nothing ran.
 * `look`, unless it is NULL, is called now and then, and interrupts when it gives anything but 0.
 * DQ_ENVIRONMENT: out of memory; there are no results. */
int dq_live_run(dq_engine *engine, const uint8_t *body, size_t size, int64_t timeout_us, const int32_t *flag,
                int (*look)(void), dq_live_outcome *outcome);
/* Roll back, as every live transaction ends; an SQLite code. */
int dq_live_end(dq_engine *engine, dq_live_outcome *outcome);
int dq_live_has_open_foreign_keys(dq_engine *engine);
/* From any thread: 1 becomes 2, everything else stays. */
void dq_live_interrupt(int32_t *flag);

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
