/* The groups of a transaction: what a client ran in one call, live on the leader, then replayed from the log on every
 * node. Both give the same results, or the replay is refused.
 *
 * A failing statement ends its group; what the group did before stays, and so does the transaction. The digest is a
 * chain over the results of the groups that may have written: d = XXH3_64(d (8 bytes, most significant first), result),
 * beginning with 0. result: [0, [result, ...]] or [code, message, position], as of a unit.
 */
#ifndef DQ_GROUP_H
#define DQ_GROUP_H

#include "engine.h"

#define DQ_DIGEST_DIFFERS (4 | 203 << 8) /* SQLITE_ABORT | 203 << 8: errors.TransactionEnded */

/* Before the first group of a transaction, live or replayed. */
void dq_transaction_start(struct dq_engine *engine);

/* Before a group: `ordinal` counts those that may have written. Puts digest and the head of the result at the end of
 * engine->results; returns where. */
size_t dq_group_start(struct dq_engine *engine, const struct dq_body *group, const uint8_t *seed, uint32_t ordinal,
                      const uint8_t digest[DQ_DIGEST_BYTES]);
/* Replace the result since `start` by an error. */
void dq_group_fail(struct dq_engine *engine, size_t start, const struct dq_error *error, uint32_t position);
/* The digest with the result since `start`. */
void dq_group_digest(const struct dq_engine *engine, size_t start, uint8_t digest[DQ_DIGEST_BYTES]);

/* Replay the groups of a transaction unit inside the unit's savepoint, without a result. DQ_FAILED_WRITING: it must be
 * undone. */
enum dq_verdict dq_groups_replay(struct dq_engine *engine, const struct dq_unit *unit, const uint8_t *seed,
                                 struct dq_error *error);

#endif
