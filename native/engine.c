/* Opening, scanning and closing the writer. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

#include "live.h"

#define STATEMENT_TEXT_BYTES_MAX (8u << 20)
#define SCAN_PAGES 256

int dq_run_own(sqlite3_stmt *statement) {
    int code = sqlite3_step(statement);
    int reset_code = sqlite3_reset(statement);
    if (code == SQLITE_DONE || code == SQLITE_ROW) {
        return SQLITE_OK;
    }
    return reset_code ? reset_code : code;
}

void dq_forget_schema(struct dq_engine *engine) {
    dq_statements_clear(&engine->statements);
    engine->words.is_known = false;
}

int dq_reload_schema(struct dq_engine *engine) {
    dq_forget_schema(engine);
    return sqlite3_exec(engine->db, "PRAGMA writable_schema = RESET", NULL, NULL, NULL);
}

int dq_begin(struct dq_engine *engine) {
    int code = engine->schema_touched ? dq_reload_schema(engine) : SQLITE_OK;
    if (code != SQLITE_OK) {
        return code;
    }
    engine->schema_touched = false;
    return dq_run_own(engine->begin);
}

int dq_learn_followed(struct dq_engine *engine) {
    int code = sqlite3_step(engine->is_followed);
    bool found = code == SQLITE_ROW;
    int reset_code = sqlite3_reset(engine->is_followed);
    if (reset_code == SQLITE_OK && found != engine->guard.deletes_rows) {
        dq_forget_schema(engine); /* prepared under the other rule */
        engine->guard.deletes_rows = found;
    }
    return reset_code;
}

uint32_t dq_engine_drops(const dq_engine *engine) { return engine->guard.drops; }

int dq_engine_is_followed(const dq_engine *engine) { return engine->guard.deletes_rows; }

void dq_engine_before_commit(dq_engine *engine, dq_hook hook, void *context) {
    engine->before_commit = hook;
    engine->before_commit_context = context;
}

/* The largest rowid makes SQLite choose later rowids at random: no unit may use it. */
static void on_row_change(void *context, int action, const char *schema, const char *table, sqlite3_int64 rowid) {
    (void)schema;
    (void)table;
    if (rowid == INT64_MAX && action != SQLITE_DELETE) {
        ((struct dq_engine *)context)->max_rowid_used = true;
    }
}

struct own_statement {
    size_t place; /* of the sqlite3_stmt * in struct dq_engine */
    const char *sql;
};

static const struct own_statement own_statements[] = {
    {offsetof(struct dq_engine, begin), "BEGIN IMMEDIATE"},
    {offsetof(struct dq_engine, commit), "COMMIT"},
    {offsetof(struct dq_engine, rollback), "ROLLBACK"},
    {offsetof(struct dq_engine, savepoint), "SAVEPOINT _dqlite_unit"},
    {offsetof(struct dq_engine, release), "RELEASE _dqlite_unit"},
    {offsetof(struct dq_engine, rollback_to), "ROLLBACK TO _dqlite_unit"},
    {offsetof(struct dq_engine, set_index), "UPDATE _dqlite_meta SET applied_index = ?1"},
    /* Sets changes() to 0: triggers would read what an earlier entry left. */
    {offsetof(struct dq_engine, reset_changes), "DELETE FROM _dqlite_meta WHERE 0"},
    {offsetof(struct dq_engine, schema_words),
     "SELECT max(sql LIKE '%changes%'), max(sql LIKE '%references%') FROM sqlite_schema"},
    {offsetof(struct dq_engine, is_followed), "SELECT 1 FROM sqlite_schema WHERE name = '" DQ_FOLLOW_TABLE "'"},
};

#define OWN_STATEMENTS (sizeof own_statements / sizeof *own_statements)

static sqlite3_stmt **own_place(struct dq_engine *engine, size_t i) {
    return (sqlite3_stmt **)((char *)engine + own_statements[i].place);
}

static int prepare_own(struct dq_engine *engine) {
    for (size_t i = 0; i < OWN_STATEMENTS; i++) {
        int code = sqlite3_prepare_v3(engine->db, own_statements[i].sql, -1, SQLITE_PREPARE_PERSISTENT,
                                      own_place(engine, i), NULL);
        if (code != SQLITE_OK) {
            return code;
        }
    }
    return SQLITE_OK;
}

static void fail(dq_outcome *outcome, int code, const char *message) {
    outcome->code = code;
    outcome->message = message;
}

dq_engine *dq_engine_open(uintptr_t handle, uint32_t statements_max, uint64_t results_max, dq_outcome *outcome) {
    memset(outcome, 0, sizeof *outcome);
    if (!dq_ready()) {
        fail(outcome, SQLITE_MISUSE, "the native library is not bootstrapped");
        return NULL;
    }
    struct dq_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) {
        fail(outcome, SQLITE_NOMEM, "out of memory");
        return NULL;
    }
    engine->db = (sqlite3 *)handle;
    engine->statements.count_max = statements_max ? statements_max : 1;
    engine->statements.bytes_max = STATEMENT_TEXT_BYTES_MAX;
    engine->row_bytes_max = results_max;
    /* Authorizer and functions BEFORE our own statements: installing them expires what is prepared. */
    int code = dq_guard_install(&engine->guard, engine->db);
    if (code == SQLITE_OK) {
        code = dq_functions_install(&engine->functions, engine->db);
    }
    if (code == SQLITE_OK) {
        code = prepare_own(engine);
    }
    if (code == SQLITE_OK) {
        code = dq_sessions_load(&engine->sessions, engine->db, &engine->last_error);
    }
    if (code == SQLITE_OK) {
        code = dq_learn_followed(engine);
    }
    if (code == SQLITE_OK && !dq_vfs_watch(engine->db, &engine->watch)) {
        code = SQLITE_MISUSE;
    }
    if (code != SQLITE_OK) {
        static _Thread_local char message[sizeof engine->last_error.message]; /* outlives the engine */
        memcpy(message, engine->last_error.message, sizeof message);
        fail(outcome, code, message[0] ? message : sqlite3_errstr(code));
        dq_engine_close(engine);
        return NULL;
    }
    sqlite3_update_hook(engine->db, on_row_change, engine);
    return engine;
}

static int page_size_of(sqlite3 *db, uint32_t *page_size) {
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(db, "PRAGMA page_size", -1, &statement, NULL);
    if (code == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW) {
        *page_size = (uint32_t)sqlite3_column_int(statement, 0);
    }
    int finalize_code = sqlite3_finalize(statement);
    return code ? code : finalize_code;
}

static int scan_file(struct dq_pages *pages, sqlite3_file *file) {
    uint8_t *chunk = malloc((size_t)SCAN_PAGES * pages->page_size);
    if (chunk == NULL) {
        return SQLITE_NOMEM;
    }
    int code = SQLITE_OK;
    for (uint32_t done = 0; done < pages->page_count && code == SQLITE_OK;) {
        uint32_t count = pages->page_count - done < SCAN_PAGES ? pages->page_count - done : SCAN_PAGES;
        sqlite3_int64 offset = (sqlite3_int64)done * pages->page_size;
        code = file->pMethods->xRead(file, chunk, (int)(count * pages->page_size), offset);
        if (code == SQLITE_OK) {
            dq_pages_scan(pages, chunk, count, done + 1);
        }
        done += count;
    }
    free(chunk);
    return code;
}

int dq_engine_scan(dq_engine *engine, dq_outcome *outcome) {
    memset(outcome, 0, sizeof *outcome);
    sqlite3_file *file = dq_vfs_real_file(engine->db, 0);
    uint32_t page_size = 0;
    sqlite3_int64 size = 0;
    int code = file ? page_size_of(engine->db, &page_size) : SQLITE_MISUSE;
    if (code == SQLITE_OK) {
        code = file->pMethods->xFileSize(file, &size);
    }
    if (code == SQLITE_OK && (page_size == 0 || size % page_size != 0 || size / page_size > UINT32_MAX)) {
        code = SQLITE_CORRUPT;
    }
    if (code == SQLITE_OK && !dq_pages_reset(&engine->watch.pages, page_size, (uint32_t)(size / page_size))) {
        code = SQLITE_NOMEM;
    }
    if (code == SQLITE_OK) {
        code = scan_file(&engine->watch.pages, file);
    }
    engine->watch.wal_frames = 0;
    outcome->state_hash = engine->watch.pages.state;
    outcome->page_count = engine->watch.pages.page_count;
    outcome->wal_generation = engine->watch.wal_generation;
    if (code != SQLITE_OK) {
        fail(outcome, code, sqlite3_errstr(code));
    }
    return code;
}

void dq_engine_close(dq_engine *engine) {
    dq_live_stop(engine);
    dq_statements_clear(&engine->statements);
    for (size_t i = 0; i < OWN_STATEMENTS; i++) {
        sqlite3_finalize(*own_place(engine, i));
    }
    dq_vfs_watch(engine->db, NULL);
    sqlite3_update_hook(engine->db, NULL, NULL);
    sqlite3_set_authorizer(engine->db, NULL, NULL);
    dq_functions_remove(engine->db);
    dq_pages_free(&engine->watch.pages);
    dq_sessions_close(&engine->sessions);
    dq_buffer_free(&engine->results);
    dq_buffer_free(&engine->decltypes);
    free(engine->texts);
    free(engine->named);
    free(engine);
}
