/* The table _dqlite_sessions into memory, at open, row by row. Damage is told, never repaired. */
#include "session_rows.h"

static const char *load_result(struct dq_session_table *table, uint32_t row, const uint8_t *head, uint32_t offset,
                               uint32_t size) {
    uint64_t sequence = dq_load_be(head + DQ_SESSION_BYTES, 8);
    uint32_t slot = dq_table_find(table, head);
    if (slot == DQ_NONE) {
        if (table->session_count == DQ_SESSIONS_MAX) {
            return "more sessions than there may be";
        }
        slot = dq_table_add(table, head);
    } else {
        dq_table_detach(table, slot);
    }
    struct dq_session *session = &table->sessions[slot];
    bool is_newer = sequence <= INT64_MAX && (int64_t)sequence > session->sequence;
    session->sequence = (int64_t)sequence;
    session->offset = offset;
    session->size = size;
    dq_table_attach(table, slot, row);
    return is_newer ? NULL : "a session whose sequence does not grow";
}

static const char *load_row(struct dq_session_table *table, int64_t index, int64_t now_us, const uint8_t *results,
                            size_t size) {
    if (index == 0) {
        table->horizon = size == DQ_HORIZON_BYTES ? (int64_t)dq_load_be(results, DQ_HORIZON_BYTES) : 0;
        return table->horizon > 0 ? NULL : "a horizon that is no sequence";
    }
    if (index < 0 || size == 0 || table->unused_row == DQ_SESSIONS_MAX) {
        return index < 0 ? "a negative log index" : size ? "more rows than there may be" : "a row without results";
    }
    uint32_t row = dq_table_add_row(table);
    table->rows[row].index = index;
    table->rows[row].now_us = now_us;
    table->rows[row].size = (uint32_t)size;
    dq_table_link_newest(table, row);
    for (size_t at = 0; at < size;) {
        const uint8_t *head = results + at;
        if (size - at < DQ_RECORD_HEAD_BYTES) {
            return "a result that is cut off";
        }
        at += DQ_RECORD_HEAD_BYTES;
        uint32_t result_size = (uint32_t)dq_load_be(head + DQ_SESSION_BYTES + 8, 4);
        if (size - at < result_size || result_size == 0) {
            return "a result that is cut off";
        }
        const char *damage = load_result(table, row, head, (uint32_t)at, result_size);
        if (damage != NULL) {
            return damage;
        }
        at += result_size;
    }
    return NULL;
}

static const char *check_rows(const struct dq_session_table *table) {
    for (uint32_t row = table->oldest; row != DQ_NONE; row = table->rows[row].newer) {
        if (table->rows[row].session_count == 0) {
            return "a row that no session needs";
        }
    }
    return NULL;
}

static const char *load_columns(struct dq_session_table *table, sqlite3_stmt *rows) {
    if (sqlite3_column_type(rows, 0) != SQLITE_INTEGER || sqlite3_column_type(rows, 1) != SQLITE_INTEGER ||
        sqlite3_column_type(rows, 2) != SQLITE_BLOB) {
        return "a value of another type";
    }
    const uint8_t *results = sqlite3_column_blob(rows, 2);
    return load_row(table, sqlite3_column_int64(rows, 0), sqlite3_column_int64(rows, 1), results,
                    (size_t)sqlite3_column_bytes(rows, 2));
}

static int load_rows(struct dq_sessions *sessions, struct dq_error *error) {
    sqlite3_stmt *rows = NULL;
    const char *damage = NULL;
    int code = sqlite3_prepare_v2(sessions->db,
                                  "SELECT log_index, now_us, results FROM _dqlite_sessions ORDER BY log_index", -1,
                                  &rows, NULL);
    while (code == SQLITE_OK && damage == NULL && (code = sqlite3_step(rows)) == SQLITE_ROW) {
        code = SQLITE_OK;
        damage = load_columns(sessions->table, rows);
    }
    if (code != SQLITE_OK && code != SQLITE_DONE) {
        dq_error_take(error, sessions->db, code);
    }
    sqlite3_finalize(rows);
    damage = damage ? damage : code == SQLITE_DONE ? check_rows(sessions->table) : NULL;
    if (damage != NULL) {
        code = SQLITE_CORRUPT;
        dq_error_set(error, code, damage);
    }
    return code == SQLITE_DONE ? SQLITE_OK : code;
}

static int find_table(sqlite3 *db, bool *exists) {
    sqlite3_stmt *look = NULL;
    int code = sqlite3_prepare_v2(db, "SELECT 1 FROM sqlite_schema WHERE name = '_dqlite_sessions'", -1, &look, NULL);
    if (code == SQLITE_OK) {
        code = sqlite3_step(look);
        *exists = code == SQLITE_ROW;
    }
    sqlite3_finalize(look);
    return code == SQLITE_ROW || code == SQLITE_DONE ? SQLITE_OK : code;
}

int dq_sessions_load(struct dq_sessions *sessions, sqlite3 *db, struct dq_error *error) {
    bool exists = false;
    sessions->db = db;
    int code = find_table(db, &exists);
    if (code == SQLITE_OK && exists && !dq_have_session_table(sessions)) {
        code = SQLITE_NOMEM;
    }
    if (code == SQLITE_OK && exists) {
        code = dq_rows_prepare(sessions);
    }
    if (code != SQLITE_OK) {
        dq_error_take(error, db, code);
        return (code & 0xff) == SQLITE_ERROR ? SQLITE_CORRUPT : code; /* not our table */
    }
    return exists ? load_rows(sessions, error) : SQLITE_OK;
}
