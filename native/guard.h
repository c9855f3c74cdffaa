/* What a replicated statement may not do, and the words that tell why (docs: SQL support).
 *
 * Two nets: dq_guard_check reads the first words (what SQLite executes while preparing, what its authorizer
 * cannot tell apart), the authorizer sees every object a statement touches. The authorizer acts only while a
 * client's statement is prepared: FTS and R-tree prepare statements of their own inside a step.
 */
#ifndef DQ_GUARD_H
#define DQ_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sqlite_api.h"

/* Where a statement may run. Each allows what those before it allow, and more. */
enum dq_place {
    DQ_IN_UNIT,  /* a unit of the log */
    DQ_IN_GROUP, /* a transaction's group, which may become part of the log: savepoint control */
    DQ_LOOKING,  /* alone in a group of a live transaction: what differs between nodes, as long as it only reads */
    DQ_NOWHERE,
};

enum dq_control { DQ_NO_CONTROL, DQ_SET_OR_RELEASE, DQ_ROLLBACK_TO };

struct dq_guard {
    enum dq_place place;     /* of the statement at hand */
    enum dq_place needed;    /* the least that allows it */
    enum dq_control control; /* of savepoints */
    bool active;
    bool is_refused;
    bool is_alter;    /* the statement at hand begins with ALTER */
    bool is_dml;      /* the statement at hand begins with INSERT, REPLACE, UPDATE, DELETE or WITH */
    bool is_pragma;   /* it is a PRAGMA: only those that read are let through */
    bool is_follow;   /* the statement at hand is DQ_FOLLOW_SQL */
    bool saw_follow;  /* it was since this was last set to false */
    uint32_t drops;   /* tables that a statement was allowed to drop so far */
    bool after_drop;  /* the last action was to drop a table or view: its rows are deleted next, as one */
    bool deletes_rows; /* DELETE without WHERE deletes row by row: changes are followed (DQ_FOLLOW_SQL) */
    char reason[320]; /* of the refusal, or why the statement needs another place than a unit; else empty */
};

/* The one statement on a reserved table: from the next entry on, on every node, each row that is deleted is seen by
 * hooks. SQLite would otherwise empty a whole table at once, unless a hook is there, and leave other pages. */
#define DQ_FOLLOW_SQL "CREATE TABLE IF NOT EXISTS _dqlite_changes (since INTEGER)"
#define DQ_FOLLOW_TABLE "_dqlite_changes"

/* First words of `sql`; true when the statement is refused, with guard->reason set. Also tells what it begins with. */
bool dq_guard_check(struct dq_guard *guard, const char *sql, size_t size);

/* Install the authorizer on the writer connection (expires its prepared statements). */
int dq_guard_install(struct dq_guard *guard, sqlite3 *db);

#endif
