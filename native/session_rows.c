#include "session_rows.h"

#include <string.h>

static int step_own(sqlite3_stmt *statement) {
    int code = sqlite3_step(statement);
    int reset_code = sqlite3_reset(statement);
    return code == SQLITE_DONE || code == SQLITE_ROW ? SQLITE_OK : reset_code ? reset_code : code;
}

void dq_rows_finalize(struct dq_sessions *sessions) {
    sqlite3_finalize(sessions->insert);
    sqlite3_finalize(sessions->remove);
    sqlite3_finalize(sessions->find);
    sessions->insert = sessions->remove = sessions->find = NULL;
}

int dq_rows_prepare(struct dq_sessions *sessions) {
    const struct {
        sqlite3_stmt **place;
        const char *sql;
    } own[] = {
        {&sessions->insert, "REPLACE INTO _dqlite_sessions (log_index, now_us, results) VALUES (?1, ?2, ?3)"},
        {&sessions->remove, "DELETE FROM _dqlite_sessions WHERE log_index = ?1"},
        {&sessions->find, "SELECT results FROM _dqlite_sessions WHERE log_index = ?1"},
    };
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        int code = sqlite3_prepare_v3(sessions->db, own[i].sql, -1, SQLITE_PREPARE_PERSISTENT, own[i].place, NULL);
        if (code != SQLITE_OK) {
            dq_rows_finalize(sessions);
            return code;
        }
    }
    return SQLITE_OK;
}

static int create_table(struct dq_sessions *sessions) {
    int code = sqlite3_exec(sessions->db,
                            "CREATE TABLE _dqlite_sessions (log_index INTEGER PRIMARY KEY, now_us INTEGER NOT NULL, "
                            "results BLOB NOT NULL)",
                            NULL, NULL, NULL);
    sessions->is_new = true;
    return code ? code : dq_rows_prepare(sessions);
}

int dq_rows_insert(struct dq_sessions *sessions, int64_t index, int64_t now_us, const uint8_t *results, size_t size) {
    int code = sessions->insert == NULL ? create_table(sessions) : SQLITE_OK;
    if (code == SQLITE_OK) {
        code = sqlite3_bind_int64(sessions->insert, 1, index);
    }
    if (code == SQLITE_OK) {
        code = sqlite3_bind_int64(sessions->insert, 2, now_us);
    }
    if (code == SQLITE_OK) {
        code = sqlite3_bind_blob(sessions->insert, 3, results, (int)size, SQLITE_STATIC);
    }
    return code ? code : step_own(sessions->insert);
}

int dq_rows_remove(struct dq_sessions *sessions, int64_t index) {
    int code = sqlite3_bind_int64(sessions->remove, 1, index);
    return code ? code : step_own(sessions->remove);
}

int dq_rows_put_result(struct dq_sessions *sessions, int64_t index, uint32_t offset, uint32_t size,
                       const struct dq_unit *unit, struct dq_buffer *results) {
    int code = sqlite3_bind_int64(sessions->find, 1, index);
    if (code == SQLITE_OK) {
        code = sqlite3_step(sessions->find);
    }
    if (code == SQLITE_ROW) {
        const uint8_t *row = sqlite3_column_blob(sessions->find, 0);
        uint64_t row_size = (uint64_t)sqlite3_column_bytes(sessions->find, 0);
        bool is_there = (uint64_t)offset + size <= row_size;
        if (is_there) {
            const uint8_t *head = row + offset - DQ_RECORD_HEAD_BYTES;
            is_there = memcmp(head, unit->session, DQ_SESSION_BYTES) == 0 &&
                       dq_load_be(head + DQ_SESSION_BYTES, 8) == (uint64_t)unit->sequence;
        }
        if (is_there) {
            dq_put_raw(results, row + offset, size);
        }
        code = is_there ? SQLITE_OK : SQLITE_CORRUPT;
    } else if (code == SQLITE_DONE) {
        code = SQLITE_CORRUPT;
    }
    sqlite3_reset(sessions->find);
    return code;
}
