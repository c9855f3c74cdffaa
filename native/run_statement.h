/* One statement of a unit: parameters in, rows out. */
#ifndef DQ_RUN_STATEMENT_H
#define DQ_RUN_STATEMENT_H

#include "engine.h"

enum dq_verdict {
    DQ_DONE,
    DQ_FAILED,         /* deterministic: the unit's result on every node */
    DQ_FAILED_WRITING, /* the same, and rows may already have been changed: the unit must be undone */
    DQ_BROKEN,         /* environmental: nothing of the entry may be applied */
};

/* Run `sql` with the params at `reader`, append [rowcount, rowid, columns, rows] to engine->results. */
enum dq_verdict dq_run_statement(struct dq_engine *engine, struct dq_sql_text text, struct dq_reader *reader,
                                 struct dq_error *error);

/* Is this SQLite code a failure of this node (disk, memory, files) and not of the statement? */
bool dq_is_environmental(int code);

#endif
