/* One log entry to one SQLite transaction (design: determinism). The same bytes give the same state and the same
 * results on every node, whatever its cache, checkpoints or history.
 *
 * A pass executes all units between BEGIN and COMMIT. Passes are repeated when
 * - a unit rolled the whole transaction back (OR ROLLBACK, RAISE(ROLLBACK)): again without that unit;
 * - a unit without a savepoint failed and may have left rows behind: again with savepoints round every unit.
 * Whether units have savepoints must follow from the entry and the state alone, never from what this node did
 * before: FTS5 writes its pending terms at each savepoint, so that the pages depend on it. The last pass is the same
 * on every node.
 */
#include <string.h>

#include "body.h"
#include "group.h"
#include "live.h"

#define NO_UNIT UINT32_MAX

enum pass_verdict { PASS_DONE, PASS_AGAIN, PASS_BROKEN };

struct pass {
    const uint8_t *seed;
    bool want_results;
    struct dq_error error; /* of the unit at hand, or why the pass broke */
};

static enum pass_verdict broken(struct dq_engine *engine, struct pass *pass, int code) {
    dq_error_take(&pass->error, engine->db, code);
    return PASS_BROKEN;
}

/* -- one unit ---------------------------------------------------------------------------------------------- */

static void begin_unit(struct dq_engine *engine, const struct pass *pass, uint32_t position, uint32_t statement_count) {
    dq_body_start(engine);
    engine->schema_changed = false;
    engine->changes_are_old = true;
    dq_functions_begin_unit(&engine->functions, pass->seed, position);
    if (statement_count > 1) { /* with one, it is enough that dq_run_statement does it where it matters */
        dq_functions_start_total(&engine->functions);
    }
    if (!engine->rowid_is_zero) {
        sqlite3_set_last_insert_rowid(engine->db, 0);
        engine->rowid_is_zero = true;
    }
}

static enum dq_verdict run_statements(struct dq_engine *engine, const struct dq_body *body, struct pass *pass,
                                      uint32_t *failed_at) {
    enum dq_verdict verdict = dq_body_run(engine, body, &pass->error, failed_at);
    if (verdict == DQ_DONE && dq_has_open_foreign_keys(engine)) { /* COMMIT would fail and take the other units along */
        dq_open_foreign_keys(&pass->error);
        *failed_at = body->statement_count - 1;
        return DQ_FAILED_WRITING;
    }
    return verdict;
}

static int undo_unit(struct dq_engine *engine) {
    int code = dq_run_own(engine->rollback_to);
    if (code == SQLITE_OK && engine->schema_changed) {
        code = dq_reload_schema(engine);
    }
    return code;
}

/* The transaction is gone. Remember the unit's error and go on without it. */
static enum pass_verdict note_killer(struct dq_engine *engine, struct pass *pass, uint32_t position, uint32_t failed_at) {
    if (engine->killer_count == DQ_KILLERS_MAX) {
        engine->refused_from = position;
        return PASS_AGAIN;
    }
    struct dq_killer *killer = &engine->killers[engine->killer_count++];
    killer->unit = position;
    killer->failed_at = failed_at;
    killer->error = pass->error;
    return PASS_AGAIN;
}

static enum pass_verdict run_unit(struct dq_engine *engine, struct pass *pass, uint32_t position) {
    const struct dq_unit *unit = &engine->payload.units[position];
    const struct dq_body *body = unit->digest != NULL ? NULL : &unit->as.body;
    bool has_savepoint = engine->use_savepoints || body == NULL || body->statement_count > 1;
    size_t results_start = engine->results.size;
    uint64_t row_bytes_start = engine->row_bytes;
    uint32_t failed_at = 0;
    /* The savepoint first: what FTS5 writes at it belongs to the units before. */
    int code = has_savepoint ? dq_run_own(engine->savepoint) : SQLITE_OK;
    if (code != SQLITE_OK) {
        return broken(engine, pass, code);
    }
    enum dq_verdict verdict;
    if (body != NULL) {
        begin_unit(engine, pass, position, body->statement_count);
        dq_put_success(&engine->results, body->statement_count);
        verdict = run_statements(engine, body, pass, &failed_at);
    } else {
        dq_transaction_start(engine);
        dq_put_success(&engine->results, 0);
        verdict = dq_groups_replay(engine, unit, pass->seed, &pass->error);
    }
    if (verdict == DQ_BROKEN) {
        return PASS_BROKEN;
    }
    /* Only a failing statement can have rolled the transaction back; COMMIT would notice another. */
    if (verdict != DQ_DONE && sqlite3_get_autocommit(engine->db)) {
        return note_killer(engine, pass, position, failed_at);
    }
    if (verdict == DQ_FAILED_WRITING && !has_savepoint) {
        engine->use_savepoints = true;
        return PASS_AGAIN;
    }
    if (verdict != DQ_DONE) {
        engine->results.size = results_start;
        engine->row_bytes = row_bytes_start;
        dq_put_failure(&engine->results, &pass->error, failed_at);
        code = has_savepoint ? undo_unit(engine) : SQLITE_OK;
    }
    if (code == SQLITE_OK && has_savepoint) {
        code = dq_run_own(engine->release);
    }
    return code == SQLITE_OK ? PASS_DONE : broken(engine, pass, code);
}

/* -- one pass ---------------------------------------------------------------------------------------------- */

/* Put the result of a unit that is not executed in this pass; false when it is to be executed. */
static bool put_skipped(struct dq_engine *engine, uint32_t position) {
    for (uint32_t i = 0; i < engine->killer_count; i++) {
        if (engine->killers[i].unit == position) {
            dq_put_failure(&engine->results, &engine->killers[i].error, engine->killers[i].failed_at);
            return true;
        }
    }
    if (position >= engine->refused_from) {
        struct dq_error error;
        dq_error_set(&error, SQLITE_ABORT_ROLLBACK,
                     "not executed: too many units before it in the same log entry used ROLLBACK; send it again");
        dq_put_failure(&engine->results, &error, 0);
        return true;
    }
    return false;
}

static enum pass_verdict settle_unit(struct dq_engine *engine, struct pass *pass, uint32_t position) {
    return put_skipped(engine, position) ? PASS_DONE : run_unit(engine, pass, position);
}

/* A unit with a session: its result is kept also where nobody waits for it. */
static enum pass_verdict settle_keyed(struct dq_engine *engine, struct pass *pass, uint32_t position) {
    const struct dq_payload *payload = &engine->payload;
    struct dq_buffer *results = &engine->results;
    size_t start = results->size;
    enum dq_fate fate = dq_sessions_fate(&engine->sessions, payload, position);
    results->discard = !pass->want_results && !dq_fate_is_kept(fate);
    if (fate == DQ_FATE_EXECUTED) {
        enum pass_verdict verdict = settle_unit(engine, pass, position);
        if (verdict != PASS_DONE) {
            return verdict;
        }
    } else {
        int code = dq_sessions_answer(&engine->sessions, payload, position, results, &pass->error);
        if (code != SQLITE_OK) {
            return PASS_BROKEN;
        }
    }
    if (dq_fate_is_kept(fate) && (results->failed || !dq_sessions_keep(&engine->sessions, payload, position,
                                                                       results->data + start, results->size - start))) {
        return broken(engine, pass, SQLITE_NOMEM);
    }
    if (!pass->want_results) {
        results->size = start;
    }
    return PASS_DONE;
}

static enum pass_verdict run_units(struct dq_engine *engine, struct pass *pass) {
    engine->results.discard = !pass->want_results;
    dq_put_array(&engine->results, engine->payload.unit_count);
    for (uint32_t i = 0; i < engine->payload.unit_count; i++) {
        enum pass_verdict verdict = engine->payload.units[i].session != NULL ? settle_keyed(engine, pass, i)
                                                                             : settle_unit(engine, pass, i);
        engine->results.discard = !pass->want_results;
        if (verdict != PASS_DONE) {
            return verdict;
        }
    }
    return engine->results.failed ? broken(engine, pass, SQLITE_NOMEM) : PASS_DONE;
}

static int set_index(struct dq_engine *engine, int64_t index) {
    int code = sqlite3_bind_int64(engine->set_index, 1, index);
    return code ? code : dq_run_own(engine->set_index);
}

static int commit_index(struct dq_engine *engine, int64_t index) {
    bool has_row = false; /* of the client sessions: it shows the index, and saves writing another page */
    int code = dq_sessions_write(&engine->sessions, &engine->payload, index, &has_row);
    if (code == SQLITE_OK && !has_row) {
        code = set_index(engine, index);
    }
    if (code == SQLITE_OK && engine->before_commit != NULL) {
        engine->before_commit(engine->before_commit_context);
    }
    /* The index goes into the SAME transaction: after a crash the database is exactly the state at its index. */
    return code == SQLITE_OK ? dq_run_own(engine->commit) : code;
}

static enum pass_verdict run_pass(struct dq_engine *engine, struct pass *pass, int64_t index) {
    engine->results.size = 0;
    engine->row_bytes = 0;
    dq_sessions_begin_pass(&engine->sessions);
    int code = dq_begin(engine);
    if (code != SQLITE_OK) {
        return broken(engine, pass, code);
    }
    enum pass_verdict verdict = run_units(engine, pass);
    if (verdict == PASS_DONE) {
        code = commit_index(engine, index);
        if (code != SQLITE_OK) {
            verdict = broken(engine, pass, code);
        }
    }
    if (verdict != PASS_DONE) {
        if (!sqlite3_get_autocommit(engine->db)) {
            code = dq_run_own(engine->rollback);
            if (code != SQLITE_OK) {
                verdict = broken(engine, pass, code);
            }
        }
        dq_forget_schema(engine); /* prepared against a schema that may be undone */
    }
    return verdict;
}

static enum pass_verdict run_passes(struct dq_engine *engine, struct pass *pass, int64_t index, dq_outcome *outcome) {
    engine->killer_count = 0;
    engine->refused_from = NO_UNIT;
    engine->use_savepoints = false;
    enum pass_verdict verdict;
    do {
        verdict = run_pass(engine, pass, index);
        outcome->passes++;
    } while (verdict == PASS_AGAIN);
    return verdict;
}

/* Bring what is in memory to what is in the database; nothing here can fail. */
static void conclude(struct dq_engine *engine, int64_t index, bool is_committed) {
    if (!is_committed) {
        dq_pages_discard(&engine->watch.pages);
        dq_sessions_undo(&engine->sessions);
        return;
    }
    dq_pages_commit(&engine->watch.pages);
    if (engine->sessions.is_new) {
        dq_forget_schema(engine); /* a table more */
    }
    dq_sessions_commit(&engine->sessions, &engine->payload, index);
    if (engine->guard.saw_follow) {
        engine->guard.saw_follow = false;
        dq_learn_followed(engine);
    }
}

static int report(struct dq_engine *engine, struct pass *pass, enum pass_verdict verdict, dq_outcome *outcome) {
    struct dq_watch *watch = &engine->watch;
    outcome->state_hash = watch->pages.state;
    outcome->page_count = watch->pages.page_count;
    outcome->wal_frames = watch->wal_frames;
    outcome->wal_generation = watch->wal_generation;
    if (verdict == PASS_DONE) {
        outcome->results = engine->results.data;
        outcome->results_size = engine->results.size;
        return DQ_APPLIED;
    }
    engine->last_error = pass->error;
    outcome->code = engine->last_error.code;
    outcome->message = watch->refused ? "SQLite wrote to the WAL what the state hash cannot follow"
                                      : engine->last_error.message;
    outcome->system_errno = sqlite3_system_errno(engine->db);
    return DQ_ENVIRONMENT;
}

int dq_apply(dq_engine *engine, const uint8_t *payload, size_t size, int64_t index, int want_results,
             dq_outcome *outcome) {
    memset(outcome, 0, sizeof *outcome);
    outcome->state_hash = engine->watch.pages.state;
    switch (dq_payload_open(&engine->payload, payload, size)) {
    case DQ_PAYLOAD_OK: break;
    case DQ_PAYLOAD_UNKNOWN_VERSION: return DQ_VERSION;
    default: return DQ_FORMAT;
    }
    dq_live_stop(engine); /* a failure of it is met again at BEGIN */
    struct pass pass = {.seed = engine->payload.seed, .want_results = want_results};
    engine->results.failed = false;
    engine->watch.refused = false;
    engine->rowid_is_zero = false;
    dq_pages_discard(&engine->watch.pages);
    dq_vfs_begin(engine->db);
    sqlite3_mutex *mutex = sqlite3_db_mutex(engine->db);
    sqlite3_mutex_enter(mutex);
    dq_vfs_fix_time(engine->payload.now_us / 1000);
    enum pass_verdict verdict = PASS_BROKEN;
    if (dq_sessions_plan(&engine->sessions, &engine->payload)) {
        verdict = run_passes(engine, &pass, index, outcome);
        conclude(engine, index, verdict == PASS_DONE);
    } else {
        dq_error_set(&pass.error, SQLITE_NOMEM, "out of memory");
    }
    dq_vfs_release_time();
    int result = report(engine, &pass, verdict, outcome);
    sqlite3_mutex_leave(mutex);
    return result;
}
