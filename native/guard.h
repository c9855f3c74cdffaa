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

#include "sqlite_api.h"

struct dq_guard {
    bool active;
    bool is_alter;    /* the statement at hand begins with ALTER */
    bool is_dml;      /* the statement at hand begins with INSERT, REPLACE, UPDATE, DELETE or WITH */
    char reason[320]; /* of the last refusal; empty when there was none */
};

/* First words of `sql`; true when the statement is refused, with guard->reason set. Also sets guard->is_alter and guard->is_dml. */
bool dq_guard_check(struct dq_guard *guard, const char *sql, size_t size);

/* Install the authorizer on the writer connection (expires its prepared statements). */
int dq_guard_install(struct dq_guard *guard, sqlite3 *db);

#endif
