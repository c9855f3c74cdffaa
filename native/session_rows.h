/* The table _dqlite_sessions on the writer connection: its rows as SQLite holds them, and how they are read at open.
 * Part of sessions.c. */
#ifndef DQ_SESSION_ROWS_H
#define DQ_SESSION_ROWS_H

#include "session_table.h"
#include "sessions.h"

#define DQ_RECORD_HEAD_BYTES (DQ_SESSION_BYTES + 12) /* session, sequence, size */
#define DQ_HORIZON_BYTES 8

static inline uint64_t dq_load_be(const uint8_t *at, unsigned size) {
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        value = value << 8 | at[i];
    }
    return value;
}

/* Make sessions->table unless it is there. false: out of memory. */
bool dq_have_session_table(struct dq_sessions *sessions);

/* SQLite codes. The statements are prepared when the table exists, or is made by the first insert. */
int dq_rows_prepare(struct dq_sessions *sessions);
void dq_rows_finalize(struct dq_sessions *sessions);
int dq_rows_insert(struct dq_sessions *sessions, int64_t index, int64_t now_us, const uint8_t *results, size_t size);
int dq_rows_remove(struct dq_sessions *sessions, int64_t index);
/* Append the result at `offset` of a row, if it is the one of that key. */
int dq_rows_put_result(struct dq_sessions *sessions, int64_t index, uint32_t offset, uint32_t size,
                       const struct dq_unit *unit, struct dq_buffer *results);

#endif
