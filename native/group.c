#include "group.h"

#include "body.h"
#include "xxh3.h"

#define FIRST_POSITION 0x80000000u /* in the entry, as the generator of random() sees it: no unit has it */

void dq_transaction_start(struct dq_engine *engine) {
    engine->schema_changed = false;
    engine->changes_are_old = true;
    dq_functions_start_total(&engine->functions);
    sqlite3_set_last_insert_rowid(engine->db, 0);
    engine->rowid_is_zero = true;
}

size_t dq_group_start(struct dq_engine *engine, const struct dq_body *group, const uint8_t *seed, uint32_t ordinal,
                      const uint8_t digest[DQ_DIGEST_BYTES]) {
    dq_body_start(engine);
    engine->wrote = engine->changed = false;
    engine->row_bytes = 0;
    dq_functions_begin_unit(&engine->functions, seed, FIRST_POSITION + ordinal);
    size_t start = engine->results.size;
    dq_put_raw(&engine->results, digest, DQ_DIGEST_BYTES);
    dq_put_success(&engine->results, group->statement_count);
    return start;
}

void dq_group_fail(struct dq_engine *engine, size_t start, const struct dq_error *error, uint32_t position) {
    engine->results.size = start + DQ_DIGEST_BYTES;
    dq_put_failure(&engine->results, error, position);
}

void dq_group_digest(const struct dq_engine *engine, size_t start, uint8_t digest[DQ_DIGEST_BYTES]) {
    const struct dq_buffer *results = &engine->results;
    dq_store_be64(digest, dq_xxh3(results->data + start, results->size - start, 0));
}

static void differs(struct dq_error *error) {
    dq_error_set(error, DQ_DIGEST_DIFFERS,
                 "the transaction does not give the results that it gave before: nothing of it was applied");
}

/* DQ_FAILED: another result than the live one, for it would not have been recorded. */
static enum dq_verdict replay_one(struct dq_engine *engine, const struct dq_body *group, size_t start,
                                  struct dq_error *error) {
    uint32_t failed_at = 0;
    enum dq_verdict verdict = dq_body_run(engine, group, error, &failed_at);
    if (verdict == DQ_BROKEN) {
        return DQ_BROKEN;
    }
    if (engine->max_rowid_used || sqlite3_get_autocommit(engine->db)) {
        return DQ_FAILED;
    }
    if (verdict != DQ_DONE) {
        dq_group_fail(engine, start, error, failed_at);
    }
    if (engine->results.failed) {
        dq_error_set(error, SQLITE_NOMEM, "out of memory");
        return DQ_BROKEN;
    }
    return DQ_DONE;
}

static enum dq_verdict replay_all(struct dq_engine *engine, const struct dq_unit *unit, const uint8_t *seed,
                                  struct dq_error *error) {
    struct dq_reader reader = unit->as.groups.reader;
    uint8_t digest[DQ_DIGEST_BYTES] = {0};
    for (uint32_t i = 0; i < unit->as.groups.count; i++) {
        struct dq_body group;
        dq_body_open(&reader, &group); /* checked by dq_payload_open */
        size_t start = dq_group_start(engine, &group, seed, i, digest);
        enum dq_verdict verdict = replay_one(engine, &group, start, error);
        if (verdict != DQ_DONE) {
            return verdict;
        }
        dq_group_digest(engine, start, digest);
        engine->results.size = start;
    }
    return memcmp(digest, unit->digest, DQ_DIGEST_BYTES) == 0 ? DQ_DONE : DQ_FAILED;
}

enum dq_verdict dq_groups_replay(struct dq_engine *engine, const struct dq_unit *unit, const uint8_t *seed,
                                 struct dq_error *error) {
    bool discard = engine->results.discard;
    size_t start = engine->results.size;
    engine->results.discard = false; /* they are what the digest is of */
    engine->guard.place = DQ_IN_GROUP;
    enum dq_verdict verdict = replay_all(engine, unit, seed, error);
    engine->guard.place = DQ_IN_UNIT;
    engine->results.discard = discard;
    if (verdict == DQ_FAILED) {
        differs(error);
        verdict = DQ_FAILED_WRITING;
    }
    if (verdict == DQ_DONE && dq_has_open_foreign_keys(engine)) {
        dq_open_foreign_keys(error);
        verdict = DQ_FAILED_WRITING;
    }
    engine->results.size = start;
    return verdict;
}
