/* The limit for the apply path: the same statements in plain transactions, and nothing else. Built and loaded by
 * apply_path.py as an SQLite extension, so that it runs on the same library. */
#include <stddef.h>
#include <stdint.h>

#include "sqlite3ext.h"
SQLITE_EXTENSION_INIT1

int sqlite3_bareloop_init(sqlite3 *db, char **message, const sqlite3_api_routines *api) {
    SQLITE_EXTENSION_INIT2(api);
    (void)db;
    (void)message;
    return SQLITE_OK_LOAD_PERMANENTLY;
}

static int run(sqlite3_stmt *statement) {
    int code = sqlite3_step(statement);
    sqlite3_reset(statement);
    return code == SQLITE_DONE ? SQLITE_OK : code;
}

/* `count` rows of a key and a value, each of one size, `batch` of them in one transaction. */
int bare_loop(uintptr_t handle, const char *sql, const uint8_t *keys, int key_size, const uint8_t *values, int value_size,
              int count, int batch) {
    sqlite3 *db = (sqlite3 *)handle;
    sqlite3_stmt *begin = NULL, *commit = NULL, *statement = NULL;
    int code = sqlite3_prepare_v3(db, "BEGIN IMMEDIATE", -1, SQLITE_PREPARE_PERSISTENT, &begin, NULL);
    code = code ? code : sqlite3_prepare_v3(db, "COMMIT", -1, SQLITE_PREPARE_PERSISTENT, &commit, NULL);
    code = code ? code : sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL);
    for (int done = 0; done < count && code == SQLITE_OK;) {
        code = run(begin);
        for (int i = 0; i < batch && done < count && code == SQLITE_OK; i++, done++) {
            sqlite3_bind_blob(statement, 1, keys + (size_t)done * key_size, key_size, SQLITE_STATIC);
            sqlite3_bind_blob(statement, 2, values + (size_t)done * value_size, value_size, SQLITE_STATIC);
            code = run(statement);
        }
        code = code ? code : run(commit);
    }
    sqlite3_finalize(statement);
    sqlite3_finalize(commit);
    sqlite3_finalize(begin);
    return code;
}
