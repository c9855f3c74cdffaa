/* Prepared statements of clients' SQL on the writer connection: a bounded cache, least recently used goes first. */
#ifndef DQ_STATEMENTS_H
#define DQ_STATEMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guard.h"
#include "sqlite_api.h"

#define DQ_STATEMENT_BUCKETS 1024

struct dq_statement {
    struct dq_statement *next_in_bucket;
    struct dq_statement *newer, *older; /* in order of use */
    sqlite3_stmt *handle;
    uint64_t hash;
    int parameter_count;
    int column_count;
    enum dq_place needed; /* where it may be */
    enum dq_control control; /* of savepoints: neither is_readonly nor is_dml */
    bool is_readonly;
    bool is_dml;        /* INSERT, REPLACE, UPDATE, DELETE: has a row count */
    bool names_changes; /* the text may call changes() */
    size_t size;
    char sql[]; /* `size` bytes and a NUL */
};

struct dq_statements {
    struct dq_statement *buckets[DQ_STATEMENT_BUCKETS];
    struct dq_statement *newest, *oldest;
    size_t count, count_max;
    size_t bytes, bytes_max;
};

/* An SQL error: extended result code and message. */
struct dq_error {
    int code; /* 0: none */
    char message[1024];
};

/* Find or prepare for guard->place; NULL with `error` set. The statement stays valid until the next call. */
struct dq_statement *dq_statements_get(struct dq_statements *statements, sqlite3 *db, struct dq_guard *guard,
                                       const char *sql, size_t size, struct dq_error *error);
/* Finalize all: after a change of the schema every statement must pass the guard again. */
void dq_statements_clear(struct dq_statements *statements);

void dq_error_set(struct dq_error *error, int code, const char *message);
void dq_error_take(struct dq_error *error, sqlite3 *db, int code);

#endif
