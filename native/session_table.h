/* The client sessions in memory: a hash map from session to its newest write, and the rows that hold the results. */
#ifndef DQ_SESSION_TABLE_H
#define DQ_SESSION_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "bounds.h"
#include "payload.h"
#include "sessions.h"

#define DQ_NONE UINT32_MAX
#define DQ_SESSION_SLOTS (DQ_SESSIONS_MAX + DQ_UNITS_MAX) /* an entry adds before the oldest are forgotten */
#define DQ_ROW_SLOTS (DQ_SESSIONS_MAX + 1)                /* each has a session; and the row of the entry at hand */
#define DQ_SESSION_PLACES (1u << 17)                      /* of the hash map: a power of two, about twice the slots */

struct dq_session {
    uint8_t id[DQ_SESSION_BYTES];
    int64_t sequence;        /* newest */
    uint32_t row;            /* slot of the row that holds its result */
    uint32_t offset, size;   /* of the result in that row; for the entry at hand `offset` is the unit's position */
    uint32_t next, previous; /* sessions of the same row; `next` links free slots, too */
};

struct dq_session_row {
    int64_t index, now_us;
    uint32_t size;
    uint32_t session_count; /* whose newest result is in this row */
    uint32_t first;         /* of them */
    uint32_t newer, older;  /* rows in log order; `newer` links free slots, too */
};

/* What is decided about a unit with a session. */
struct dq_session_step {
    enum dq_fate fate;
    uint32_t session;
    int64_t old_sequence; /* of the session before this unit, to undo; of DQ_FATE_KEPT where the answer is */
    uint32_t old_row, old_offset, old_size;
    uint32_t offset, size; /* of the result in the row of this entry; of DQ_FATE_REPEATED `offset` is a position */
};

struct dq_session_table {
    uint32_t places[DQ_SESSION_PLACES]; /* slot + 1, or 0 */
    struct dq_session sessions[DQ_SESSION_SLOTS];
    struct dq_session_row rows[DQ_ROW_SLOTS];
    uint32_t session_count, unused_session, free_session; /* slots from `unused` on were never used */
    uint32_t unused_row, free_row;
    uint32_t oldest, newest; /* rows */
    uint64_t rows_size;
    int64_t horizon;

    struct dq_session_step steps[DQ_UNITS_MAX]; /* by position of the unit */
    uint32_t unit_count;                        /* of the entry at hand; 0: none of them has a session */
    uint32_t kept_count;
    uint32_t current; /* row of the entry at hand, not yet in log order */
    uint32_t dead_count, dropped_count;
    uint32_t dropped[DQ_UNITS_MAX + DQ_SESSION_EVICTIONS_MAX]; /* rows: the dead, left by their sessions; the evicted */
    int64_t new_horizon;
};

/* NULL: out of memory. */
struct dq_session_table *dq_table_new(void);

/* The session's slot, or DQ_NONE. */
uint32_t dq_table_find(const struct dq_session_table *table, const uint8_t *id);
/* A new session that is in no row. There must be a slot. */
uint32_t dq_table_add(struct dq_session_table *table, const uint8_t *id);
/* Forget a session that is in no row. */
void dq_table_remove(struct dq_session_table *table, uint32_t slot);

/* Put a session that is in no row into one; take it out. */
void dq_table_attach(struct dq_session_table *table, uint32_t slot, uint32_t row);
void dq_table_detach(struct dq_session_table *table, uint32_t slot);

/* A new row, not yet in log order. There must be a slot. */
uint32_t dq_table_add_row(struct dq_session_table *table);
void dq_table_link_newest(struct dq_session_table *table, uint32_t row);
/* Forget a row that is in log order, with its sessions. */
void dq_table_drop_row(struct dq_session_table *table, uint32_t row);
/* Forget a row without sessions that is not in log order. */
void dq_table_free_row(struct dq_session_table *table, uint32_t row);

#endif
