#include "sessions.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session_rows.h"

bool dq_have_session_table(struct dq_sessions *sessions) {
    if (sessions->table == NULL) {
        sessions->table = dq_table_new();
    }
    return sessions->table != NULL;
}

void dq_sessions_close(struct dq_sessions *sessions) {
    dq_rows_finalize(sessions);
    dq_buffer_free(&sessions->row);
    free(sessions->table);
    sessions->table = NULL;
}

/* -- planning -------------------------------------------------------------------------------------------- */

static int64_t saturated_sum(int64_t left, int64_t right) {
    int64_t sum;
    return __builtin_add_overflow(left, right, &sum) ? (right < 0 ? INT64_MIN : INT64_MAX) : sum;
}

static void keep_nothing(struct dq_session_step *step, const struct dq_session_table *table, uint32_t slot,
                         int64_t sequence) {
    const struct dq_session *session = &table->sessions[slot];
    if (sequence < session->sequence) {
        step->fate = DQ_FATE_SUPERSEDED;
    } else if (session->row == table->current) {
        step->fate = DQ_FATE_REPEATED;
        step->offset = session->offset;
    } else {
        step->fate = DQ_FATE_KEPT;
        step->old_row = session->row;
        step->old_offset = session->offset;
        step->old_size = session->size;
    }
}

static void plan_unit(struct dq_session_table *table, const struct dq_payload *payload, uint32_t position) {
    const struct dq_unit *unit = &payload->units[position];
    struct dq_session_step *step = &table->steps[position];
    uint32_t slot = dq_table_find(table, unit->session);
    if (slot != DQ_NONE && unit->sequence <= table->sessions[slot].sequence) {
        keep_nothing(step, table, slot, unit->sequence);
        return;
    }
    if ((slot == DQ_NONE && unit->sequence <= table->horizon) ||
        unit->sequence > saturated_sum(payload->now_us, DQ_SESSION_AHEAD_US)) {
        step->fate = DQ_FATE_EXPIRED;
        return;
    }
    bool is_fence = unit->digest == NULL && unit->as.body.statement_count == 0;
    step->fate = is_fence ? DQ_FATE_VOID : DQ_FATE_EXECUTED;
    step->session = slot == DQ_NONE ? dq_table_add(table, unit->session) : slot;
    struct dq_session *session = &table->sessions[step->session];
    step->old_sequence = session->sequence;
    step->old_row = session->row;
    step->old_offset = session->offset;
    step->old_size = session->size;
    if (session->row != DQ_NONE) {
        dq_table_detach(table, step->session);
        if (step->old_row != table->current && table->rows[step->old_row].session_count == 0) {
            table->dropped[table->dead_count++] = step->old_row;
        }
    }
    session->sequence = unit->sequence;
    session->offset = position;
    dq_table_attach(table, step->session, table->current);
    table->kept_count++;
}

bool dq_sessions_plan(struct dq_sessions *sessions, const struct dq_payload *payload) {
    if (payload->has_sessions && !dq_have_session_table(sessions)) {
        return false;
    }
    struct dq_session_table *table = sessions->table;
    if (table == NULL) {
        return true;
    }
    table->kept_count = table->dead_count = table->dropped_count = 0;
    table->unit_count = payload->has_sessions ? payload->unit_count : 0;
    table->new_horizon = table->horizon;
    if (!payload->has_sessions) {
        return true;
    }
    table->current = dq_table_add_row(table);
    for (uint32_t i = 0; i < payload->unit_count; i++) {
        table->steps[i].fate = DQ_FATE_PLAIN;
        if (payload->units[i].session != NULL) {
            plan_unit(table, payload, i);
        }
    }
    return true;
}

enum dq_fate dq_sessions_fate(const struct dq_sessions *sessions, const struct dq_payload *payload, uint32_t position) {
    return payload->has_sessions ? sessions->table->steps[position].fate : DQ_FATE_PLAIN;
}

/* -- a pass ---------------------------------------------------------------------------------------------- */

void dq_sessions_begin_pass(struct dq_sessions *sessions) {
    sessions->row.size = 0;
    sessions->row.failed = false;
}

static void put_refusal(struct dq_buffer *results, int code, const char *message) {
    dq_put_array(results, 3);
    dq_put_int(results, code);
    dq_put_text(results, message, (uint32_t)strlen(message));
    dq_put_int(results, 0);
}

/* The answer that an earlier entry gave. The table is read: memory has only the place. */
static int answer_kept(struct dq_sessions *sessions, const struct dq_unit *unit, const struct dq_session_step *step,
                       struct dq_buffer *results) {
    int64_t index = sessions->table->rows[step->old_row].index;
    return dq_rows_put_result(sessions, index, step->old_offset, step->old_size, unit, results);
}

int dq_sessions_answer(struct dq_sessions *sessions, const struct dq_payload *payload, uint32_t position,
                       struct dq_buffer *results, struct dq_error *error) {
    const struct dq_session_table *table = sessions->table;
    const struct dq_session_step *step = &table->steps[position];
    char message[160];
    int code = SQLITE_OK;
    switch (step->fate) {
    case DQ_FATE_KEPT:
        code = results->discard ? SQLITE_OK : answer_kept(sessions, &payload->units[position], step, results);
        break;
    case DQ_FATE_REPEATED:
        step = &table->steps[step->offset];
        dq_put_raw(results, sessions->row.data + step->offset, step->size);
        break;
    case DQ_FATE_SUPERSEDED:
        put_refusal(results, DQ_SUPERSEDED,
                    "the session has gone on to a newer write: whether this one happened is not known any more");
        break;
    case DQ_FATE_EXPIRED:
        snprintf(message, sizeof message,
                 "the write's key is out of the time for which keys are remembered (log time %" PRId64 " us)",
                 payload->now_us);
        put_refusal(results, DQ_EXPIRED, message);
        break;
    default: put_refusal(results, DQ_VOID, "the write has not happened and never will: its key is void"); break;
    }
    if (code != SQLITE_OK) {
        dq_error_set(error, code, code == SQLITE_CORRUPT ? "_dqlite_sessions lacks a result" : sqlite3_errstr(code));
    }
    return code;
}

static void skip_item(struct dq_reader *reader) {
    struct dq_item item;
    for (uint64_t left = 1; left > 0 && dq_read(reader, &item); left--) {
        left += item.type == DQ_ARRAY ? item.size : item.type == DQ_MAP ? 2 * (uint64_t)item.size : 0;
    }
}

/* [0, nil, rows changed by all statements (-1: none of them counts rows), last_insert_rowid] in place of a large
 * result. An error is never as large. */
static void put_summary(struct dq_buffer *row, const uint8_t *result, size_t size) {
    struct dq_reader reader = {result, result + size};
    struct dq_item item;
    int64_t rowcount = -1, rowid = 0;
    dq_read(&reader, &item); /* [0, [[rowcount, rowid, columns, rows], ...]] */
    dq_read(&reader, &item);
    dq_read(&reader, &item);
    for (uint32_t left = item.size; left > 0; left--) {
        dq_read(&reader, &item);
        dq_read(&reader, &item);
        if (item.as.integer >= 0) {
            rowcount = (rowcount < 0 ? 0 : rowcount) + item.as.integer;
        }
        dq_read(&reader, &item);
        rowid = item.as.integer;
        skip_item(&reader);
        skip_item(&reader);
    }
    dq_put_array(row, 4);
    dq_put_int(row, 0);
    dq_put_nil(row);
    dq_put_int(row, rowcount);
    dq_put_int(row, rowid);
}

bool dq_sessions_keep(struct dq_sessions *sessions, const struct dq_payload *payload, uint32_t position,
                      const uint8_t *result, size_t size) {
    const struct dq_unit *unit = &payload->units[position];
    struct dq_session_step *step = &sessions->table->steps[position];
    struct dq_buffer *row = &sessions->row;
    uint8_t head[DQ_RECORD_HEAD_BYTES];
    size_t start = row->size;
    bool is_large = size > DQ_SESSION_RESULT_BYTES_MAX ||
                    start + DQ_RECORD_HEAD_BYTES + size > DQ_SESSION_ROW_BYTES_MAX;
    memcpy(head, unit->session, DQ_SESSION_BYTES);
    dq_store_be64(head + DQ_SESSION_BYTES, (uint64_t)unit->sequence);
    dq_put_raw(row, head, sizeof head);
    if (is_large && size > 1 && result[1] == 0) { /* not an error */
        put_summary(row, result, size);
    } else {
        dq_put_raw(row, result, size);
    }
    if (row->failed) {
        return false;
    }
    step->offset = (uint32_t)(start + DQ_RECORD_HEAD_BYTES);
    step->size = (uint32_t)(row->size - start - DQ_RECORD_HEAD_BYTES);
    for (unsigned i = 0; i < 4; i++) {
        row->data[step->offset - 4 + i] = (uint8_t)(step->size >> (8 * (3 - i)));
    }
    return true;
}

/* -- the end of a pass ----------------------------------------------------------------------------------- */

static void evict(struct dq_session_table *table, const struct dq_session_row *row) {
    for (uint32_t slot = row->first; slot != DQ_NONE; slot = table->sessions[slot].next) {
        int64_t sequence = table->sessions[slot].sequence;
        table->new_horizon = sequence > table->new_horizon ? sequence : table->new_horizon;
    }
}

/* Choose what is forgotten for its age, or for those that came after it. */
static void choose_evicted(struct dq_session_table *table, int64_t now_us, size_t row_size) {
    int64_t keep_from_us = saturated_sum(now_us, -DQ_SESSION_KEEP_US);
    uint32_t sessions = table->session_count, count = 0;
    uint64_t rows_size = table->rows_size + row_size;
    table->dropped_count = table->dead_count;
    for (uint32_t i = 0; i < table->dead_count; i++) {
        rows_size -= table->rows[table->dropped[i]].size;
    }
    for (uint32_t slot = table->oldest; slot != DQ_NONE && count < DQ_SESSION_EVICTIONS_MAX;
         slot = table->rows[slot].newer) {
        const struct dq_session_row *row = &table->rows[slot];
        if (row->session_count == 0) {
            continue; /* dead */
        }
        if (row->now_us >= keep_from_us && sessions <= DQ_SESSIONS_MAX && rows_size <= DQ_SESSION_ROWS_BYTES_MAX) {
            return;
        }
        evict(table, row);
        sessions -= row->session_count;
        rows_size -= row->size;
        table->dropped[table->dropped_count++] = slot;
        count++;
    }
}

int dq_sessions_write(struct dq_sessions *sessions, const struct dq_payload *payload, int64_t index, bool *has_row) {
    struct dq_session_table *table = sessions->table;
    *has_row = false;
    if (table == NULL) {
        return SQLITE_OK;
    }
    *has_row = table->kept_count > 0;
    choose_evicted(table, payload->now_us, *has_row ? sessions->row.size : 0);
    int code = SQLITE_OK;
    /* First what goes, so that what comes takes its pages. */
    for (uint32_t i = 0; i < table->dropped_count && code == SQLITE_OK; i++) {
        code = dq_rows_remove(sessions, table->rows[table->dropped[i]].index);
    }
    if (code == SQLITE_OK && table->new_horizon != table->horizon) {
        uint8_t horizon[DQ_HORIZON_BYTES];
        dq_store_be64(horizon, (uint64_t)table->new_horizon);
        code = dq_rows_insert(sessions, 0, 0, horizon, sizeof horizon);
    }
    if (code == SQLITE_OK && *has_row) {
        code = dq_rows_insert(sessions, index, payload->now_us, sessions->row.data, sessions->row.size);
    }
    return code;
}

void dq_sessions_commit(struct dq_sessions *sessions, const struct dq_payload *payload, int64_t index) {
    struct dq_session_table *table = sessions->table;
    if (table == NULL) {
        return;
    }
    sessions->is_new = false;
    table->horizon = table->new_horizon;
    for (uint32_t i = 0; i < table->dropped_count; i++) {
        dq_table_drop_row(table, table->dropped[i]);
    }
    for (uint32_t i = 0; i < table->unit_count && table->kept_count > 0; i++) {
        const struct dq_session_step *step = &table->steps[i];
        if (dq_fate_is_kept(step->fate)) {
            table->sessions[step->session].offset = step->offset;
            table->sessions[step->session].size = step->size;
        }
    }
    if (table->kept_count > 0) {
        struct dq_session_row *row = &table->rows[table->current];
        row->index = index;
        row->now_us = payload->now_us;
        row->size = (uint32_t)sessions->row.size;
        dq_table_link_newest(table, table->current);
    } else if (table->current != DQ_NONE) {
        dq_table_free_row(table, table->current);
    }
    table->current = DQ_NONE;
}

void dq_sessions_undo(struct dq_sessions *sessions) {
    struct dq_session_table *table = sessions->table;
    if (table == NULL) {
        return;
    }
    for (uint32_t i = table->unit_count; i-- > 0;) {
        const struct dq_session_step *step = &table->steps[i];
        if (!dq_fate_is_kept(step->fate)) {
            continue;
        }
        dq_table_detach(table, step->session);
        if (step->old_row == DQ_NONE) {
            dq_table_remove(table, step->session);
            continue;
        }
        struct dq_session *session = &table->sessions[step->session];
        session->sequence = step->old_sequence;
        session->offset = step->old_offset;
        session->size = step->old_size;
        dq_table_attach(table, step->session, step->old_row);
    }
    if (table->current != DQ_NONE) {
        dq_table_free_row(table, table->current);
        table->current = DQ_NONE;
    }
    if (sessions->is_new) { /* it does not exist any more */
        dq_rows_finalize(sessions);
        sessions->is_new = false;
    }
}
