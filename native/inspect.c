/* Looking at SQL and at files without changing anything. */
#include <stdio.h>
#include <string.h>

#include "native.h"
#include "page_hash.h"
#include "sql_text.h"
#include "statements.h"
#include "utf8.h"
#include "vfs.h"

#define MESSAGE_BYTES 512

uint64_t dq_file_hash(const uint8_t *pages, size_t count, uint32_t page_size, uint32_t first_number) {
    return page_size > 0 && page_size <= DQ_PAGE_SIZE_MAX ? dq_hash_pages(pages, count, page_size, first_number) : 0;
}

int dq_file_size(uintptr_t handle, int which, int64_t *size) {
    sqlite3_file *file = dq_vfs_real_file((sqlite3 *)handle, which);
    sqlite3_int64 found = 0;
    int code = file ? file->pMethods->xFileSize(file, &found) : SQLITE_NOTFOUND;
    *size = found;
    return code;
}

int dq_file_read(uintptr_t handle, int which, int64_t offset, uint8_t *target, int size) {
    sqlite3_file *file = dq_vfs_real_file((sqlite3 *)handle, which);
    return file ? file->pMethods->xRead(file, target, size, offset) : SQLITE_NOTFOUND;
}

int dq_file_sync(uintptr_t handle, int which) {
    sqlite3_file *file = dq_vfs_real_file((sqlite3 *)handle, which);
    return file ? file->pMethods->xSync(file, SQLITE_SYNC_NORMAL) : SQLITE_NOTFOUND;
}

int dq_refused(const char *sql, size_t size, char *message) {
    struct dq_guard guard = {0};
    bool refused = dq_guard_check(&guard, sql, size);
    dq_utf8_copy(message, MESSAGE_BYTES, guard.reason);
    return refused;
}

int dq_inspect(uintptr_t handle, const char *sql, size_t size, int *is_readonly, char *message) {
    sqlite3 *db = (sqlite3 *)handle;
    sqlite3_stmt *statement = NULL;
    const char *tail = NULL;
    message[0] = '\0';
    if (memchr(sql, '\0', size) != NULL) {
        dq_utf8_copy(message, MESSAGE_BYTES, "the SQL text contains a NUL character");
        return SQLITE_ERROR;
    }
    if (size > INT32_MAX) {
        return SQLITE_TOOBIG;
    }
    sqlite3_mutex *mutex = sqlite3_db_mutex(db);
    sqlite3_mutex_enter(mutex); /* keeps the message ours */
    int code = sqlite3_prepare_v2(db, sql, (int)size, &statement, &tail);
    if (code != SQLITE_OK) {
        code = sqlite3_extended_errcode(db);
        dq_utf8_copy(message, MESSAGE_BYTES, sqlite3_errmsg(db));
    } else if (statement == NULL) {
        code = SQLITE_ERROR;
        dq_utf8_copy(message, MESSAGE_BYTES, "the SQL text holds no statement");
    } else if (!dq_sql_is_blank(tail, sql + size)) {
        code = SQLITE_MISUSE;
        dq_utf8_copy(message, MESSAGE_BYTES, "several statements in one string: send them one by one");
    } else {
        *is_readonly = sqlite3_stmt_readonly(statement) != 0;
    }
    sqlite3_finalize(statement);
    sqlite3_mutex_leave(mutex);
    return code;
}
