/* The writer of one database: everything that dq_apply needs, on a connection that only one thread uses. */
#ifndef DQ_ENGINE_H
#define DQ_ENGINE_H

#include "functions.h"
#include "guard.h"
#include "msgpack.h"
#include "native.h"
#include "payload.h"
#include "sqlite_api.h"
#include "statements.h"
#include "vfs.h"

/* A unit that rolls the whole SQLite transaction back (OR ROLLBACK, RAISE(ROLLBACK)) costs a replay of the entry. */
#define DQ_KILLERS_MAX 64

struct dq_killer {
    uint32_t unit;
    uint32_t failed_at; /* position of the statement */
    struct dq_error error;
};

struct dq_sql_text {
    const char *sql;
    size_t size;
};

struct dq_engine {
    sqlite3 *db;
    sqlite3_stmt *begin, *commit, *rollback, *savepoint, *release, *rollback_to, *set_index, *reset_changes;
    struct dq_statements statements;
    struct dq_guard guard;
    struct dq_functions functions;
    struct dq_watch watch;

    struct dq_payload payload;
    struct dq_sql_text *texts; /* string SQL of the unit at hand, for references by position */
    size_t text_count, text_capacity;
    struct dq_item *named; /* values of a statement's named parameters, with their names */
    size_t named_capacity;

    struct dq_buffer results;
    uint64_t row_bytes, row_bytes_max; /* of the entry's result rows, counted the same with and without output */
    struct dq_killer killers[DQ_KILLERS_MAX];
    uint32_t killer_count;
    uint32_t refused_from; /* units from here on are refused: too many killers before them */
    bool use_savepoints;   /* every unit has a savepoint in this pass */
    bool max_rowid_used;
    bool schema_changed;
    struct dq_error last_error; /* behind outcome.message */
};

/* Step a statement of our own to its end and reset it; an SQLite code. */
int dq_run_own(sqlite3_stmt *statement);

#endif
