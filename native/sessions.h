/* Client sessions: what was answered to the newest write of each, so that a write sent again takes effect once.
 *
 * Part of the replicated state, in the table _dqlite_sessions: one row per entry that has units with a session,
 *   log_index, now_us, results = for each such unit [session 16][sequence 8, big-endian][size 4, big-endian][result]
 * and, with log_index 0, the horizon (8 bytes, big-endian): the newest sequence of a session that was forgotten, at
 * first the log time at which the database was made (storage/meta.py): what is older was for one that was dropped.
 * In memory, rebuilt at open: session -> (newest sequence, row, place in the row).
 *
 * What becomes of a unit depends on the state and on the units before it in the entry, not on how they end. So an
 * entry is planned once, in memory, BEFORE its first pass; a pass only fills in results; dq_sessions_write takes part
 * in the transaction; dq_sessions_commit and dq_sessions_undo cannot fail.
 */
#ifndef DQ_SESSIONS_H
#define DQ_SESSIONS_H

#include "msgpack.h"
#include "payload.h"
#include "sqlite_api.h"
#include "statements.h"

/* Refusals, as results of units: sqlerrors.py has the same. */
#define DQ_EXPIRED (SQLITE_ABORT | 200 << 8)
#define DQ_SUPERSEDED (SQLITE_ABORT | 201 << 8)
#define DQ_VOID (SQLITE_ABORT | 202 << 8)

enum dq_fate {
    DQ_FATE_PLAIN,    /* has no session: executed */
    DQ_FATE_EXECUTED, /* executed, its result kept */
    DQ_FATE_VOID,     /* a fence of a write that has not come: its refusal is kept */
    DQ_FATE_KEPT,     /* was there before: the result in the table is the answer */
    DQ_FATE_REPEATED, /* the same, and it was in this entry */
    DQ_FATE_SUPERSEDED,
    DQ_FATE_EXPIRED,
};

struct dq_session_table; /* what is in memory, made when the first session comes */

struct dq_sessions {
    sqlite3 *db;
    sqlite3_stmt *insert, *remove, *find; /* NULL while the table does not exist */
    struct dq_session_table *table;
    struct dq_buffer row; /* of the entry at hand */
    bool is_new;          /* the transaction at hand creates the table */
};

/* Read the table of a database that was just opened. An SQLite code with `error` set; SQLITE_CORRUPT: damaged. */
int dq_sessions_load(struct dq_sessions *sessions, sqlite3 *db, struct dq_error *error);
void dq_sessions_close(struct dq_sessions *sessions);

/* Decide the fate of each unit. false: out of memory. */
bool dq_sessions_plan(struct dq_sessions *sessions, const struct dq_payload *payload);
enum dq_fate dq_sessions_fate(const struct dq_sessions *sessions, const struct dq_payload *payload, uint32_t position);
static inline bool dq_fate_is_kept(enum dq_fate fate) {
    return fate == DQ_FATE_EXECUTED || fate == DQ_FATE_VOID;
}

void dq_sessions_begin_pass(struct dq_sessions *sessions);
/* Put the result of a unit whose fate is not to be executed. An SQLite code with `error` set. */
int dq_sessions_answer(struct dq_sessions *sessions, const struct dq_payload *payload, uint32_t position,
                       struct dq_buffer *results, struct dq_error *error);
/* Keep the result of a unit. false: out of memory. */
bool dq_sessions_keep(struct dq_sessions *sessions, const struct dq_payload *payload, uint32_t position,
                      const uint8_t *result, size_t size);
/* Write what the entry leaves; *has_row: a row for `index`, which then needs no other note. An SQLite code. */
int dq_sessions_write(struct dq_sessions *sessions, const struct dq_payload *payload, int64_t index, bool *has_row);
/* COMMIT returned. */
void dq_sessions_commit(struct dq_sessions *sessions, const struct dq_payload *payload, int64_t index);
/* The transaction was rolled back: as before dq_sessions_plan. */
void dq_sessions_undo(struct dq_sessions *sessions);

#endif
