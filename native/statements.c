#include "statements.h"

#include <stdlib.h>
#include <string.h>

#include "sql_text.h"
#include "utf8.h"

#define XXH_INLINE_ALL
#include "xxhash.h"

void dq_error_set(struct dq_error *error, int code, const char *message) {
    error->code = code;
    dq_utf8_copy(error->message, sizeof error->message, message);
}

void dq_error_take(struct dq_error *error, sqlite3 *db, int code) {
    int extended = sqlite3_extended_errcode(db);
    bool matches = (extended & 0xff) == (code & 0xff);
    dq_error_set(error, matches ? extended : code, matches ? sqlite3_errmsg(db) : sqlite3_errstr(code));
}

/* -- list and buckets ------------------------------------------------------------------------------------ */

static void unlink_use(struct dq_statements *statements, struct dq_statement *statement) {
    *(statement->newer ? &statement->newer->older : &statements->newest) = statement->older;
    *(statement->older ? &statement->older->newer : &statements->oldest) = statement->newer;
}

static void link_newest(struct dq_statements *statements, struct dq_statement *statement) {
    statement->newer = NULL;
    statement->older = statements->newest;
    *(statements->newest ? &statements->newest->newer : &statements->oldest) = statement;
    statements->newest = statement;
}

static void drop(struct dq_statements *statements, struct dq_statement *statement) {
    struct dq_statement **link = &statements->buckets[statement->hash % DQ_STATEMENT_BUCKETS];
    while (*link != statement) {
        link = &(*link)->next_in_bucket;
    }
    *link = statement->next_in_bucket;
    unlink_use(statements, statement);
    statements->count--;
    statements->bytes -= statement->size;
    sqlite3_finalize(statement->handle);
    free(statement);
}

static bool is_it(const struct dq_statement *statement, const char *sql, size_t size) {
    return statement->size == size && memcmp(statement->sql, sql, size) == 0;
}

static struct dq_statement *find(struct dq_statements *statements, uint64_t hash, const char *sql, size_t size) {
    struct dq_statement *statement = statements->buckets[hash % DQ_STATEMENT_BUCKETS];
    while (statement != NULL && !(statement->hash == hash && is_it(statement, sql, size))) {
        statement = statement->next_in_bucket;
    }
    return statement;
}

static void make_room(struct dq_statements *statements, size_t size) {
    while (statements->oldest != NULL &&
           (statements->count >= statements->count_max || statements->bytes + size > statements->bytes_max)) {
        drop(statements, statements->oldest);
    }
}

void dq_statements_clear(struct dq_statements *statements) {
    while (statements->oldest != NULL) {
        drop(statements, statements->oldest);
    }
}

/* -- preparing ------------------------------------------------------------------------------------------- */

/* SQLite calls savepoint control reading, and reading the journal mode writing. */
static bool only_reads(const struct dq_guard *guard, sqlite3_stmt *handle) {
    bool is_reading = sqlite3_stmt_readonly(handle) != 0 || sqlite3_stmt_isexplain(handle) != 0 || guard->is_pragma;
    return is_reading && guard->control == DQ_NO_CONTROL;
}

static sqlite3_stmt *prepare(sqlite3 *db, struct dq_guard *guard, const char *sql, size_t size, struct dq_error *error) {
    sqlite3_stmt *handle = NULL;
    const char *tail = NULL;
    if (memchr(sql, '\0', size) != NULL) {
        dq_error_set(error, SQLITE_ERROR, "the SQL text contains a NUL character");
        return NULL;
    }
    if (dq_guard_check(guard, sql, size)) {
        dq_error_set(error, SQLITE_AUTH, guard->reason);
        return NULL;
    }
    guard->active = true;
    int code = sqlite3_prepare_v3(db, sql, (int)size, SQLITE_PREPARE_PERSISTENT, &handle, &tail);
    guard->active = false;
    if (code != SQLITE_OK) {
        dq_error_take(error, db, code);
        if (guard->is_refused) { /* a refused function is an ordinary ERROR to SQLite */
            dq_error_set(error, SQLITE_AUTH, guard->reason);
        }
        return NULL;
    }
    if (handle == NULL) {
        dq_error_set(error, SQLITE_ERROR, "the SQL text holds no statement");
        return NULL;
    }
    if (!dq_sql_is_blank(tail, sql + size)) {
        sqlite3_finalize(handle);
        dq_error_set(error, SQLITE_AUTH, "several statements in one string: send them one by one, in one unit");
        return NULL;
    }
    if (guard->needed == DQ_LOOKING && !only_reads(guard, handle)) {
        sqlite3_finalize(handle);
        dq_error_set(error, SQLITE_AUTH, guard->reason);
        return NULL;
    }
    return handle;
}

static struct dq_statement *wrap(sqlite3_stmt *handle, const struct dq_guard *guard, const char *sql, size_t size) {
    struct dq_statement *statement = calloc(1, sizeof *statement + size + 1);
    if (statement == NULL) {
        return NULL;
    }
    memcpy(statement->sql, sql, size);
    statement->size = size;
    statement->handle = handle;
    statement->parameter_count = sqlite3_bind_parameter_count(handle);
    statement->column_count = sqlite3_column_count(handle);
    statement->needed = guard->needed;
    statement->control = guard->control;
    statement->is_readonly = only_reads(guard, handle);
    statement->is_dml = guard->is_dml && !statement->is_readonly;
    statement->names_changes = dq_sql_contains(sql, size, "changes");
    return statement;
}

struct dq_statement *dq_statements_get(struct dq_statements *statements, sqlite3 *db, struct dq_guard *guard,
                                       const char *sql, size_t size, struct dq_error *error) {
    struct dq_statement *statement = statements->newest;
    if (statement != NULL && statement->needed <= guard->place && is_it(statement, sql, size)) {
        return statement; /* units from many clients of one program, or the rows of executemany */
    }
    uint64_t hash = XXH3_64bits(sql, size);
    statement = find(statements, hash, sql, size);
    if (statement != NULL && statement->needed <= guard->place) { /* else it will be refused */
        if (statement != statements->newest) {
            unlink_use(statements, statement);
            link_newest(statements, statement);
        }
        return statement;
    }
    sqlite3_stmt *handle = prepare(db, guard, sql, size, error);
    if (handle == NULL) {
        return NULL;
    }
    statement = wrap(handle, guard, sql, size);
    if (statement == NULL) {
        sqlite3_finalize(handle);
        dq_error_set(error, SQLITE_NOMEM, "out of memory");
        return NULL;
    }
    make_room(statements, size);
    statement->hash = hash;
    statement->next_in_bucket = statements->buckets[hash % DQ_STATEMENT_BUCKETS];
    statements->buckets[hash % DQ_STATEMENT_BUCKETS] = statement;
    link_newest(statements, statement);
    statements->count++;
    statements->bytes += size;
    return statement;
}
