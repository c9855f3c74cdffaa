/* The statements that are executed together: those of a unit, or of one group of a transaction. */
#ifndef DQ_BODY_H
#define DQ_BODY_H

#include "run_statement.h"

/* Before the first statement of a body. */
void dq_body_start(struct dq_engine *engine);
/* Run the next statement at `reader` and append its result; `is_alone`: no other can refer to its text. */
enum dq_verdict dq_body_next(struct dq_engine *engine, struct dq_reader *reader, bool is_alone,
                             struct dq_error *error);
/* Run all up to the first failure, whose position is then *failed_at. */
enum dq_verdict dq_body_run(struct dq_engine *engine, const struct dq_body *body, struct dq_error *error,
                            uint32_t *failed_at);

/* Are there violations of deferred foreign keys that would make a COMMIT fail now? */
bool dq_has_open_foreign_keys(const struct dq_engine *engine);
void dq_open_foreign_keys(struct dq_error *error);

/* [0, [...]]: `statement_count` results must follow. */
void dq_put_success(struct dq_buffer *results, uint32_t statement_count);
void dq_put_failure(struct dq_buffer *results, const struct dq_error *error, uint32_t position);

#endif
