#include "live.h"

#include <string.h>
#include <time.h>

#include "body.h"
#include "group.h"

#define PROGRESS_OPS 1000 /* of SQLite's machine, between two looks at flag and clock: some 10 us */
#define LOOK_EVERY_US 20000

enum flag { IDLE, RUNNING, INTERRUPTED };

static int64_t monotonic_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* -- interrupting -------------------------------------------------------------------------------------------- */

void dq_live_interrupt(int32_t *flag) {
    int32_t expected = RUNNING;
    __atomic_compare_exchange_n(flag, &expected, INTERRUPTED, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static int must_stop(void *context) {
    struct dq_live *live = context;
    if (__atomic_load_n(live->flag, __ATOMIC_RELAXED) == INTERRUPTED) {
        return 1;
    }
    if (live->deadline_us != INT64_MAX || live->look != NULL) {
        int64_t now_us = monotonic_us();
        live->is_late = live->is_late || now_us >= live->deadline_us;
        if (live->look != NULL && now_us >= live->look_us) {
            live->is_left = live->look() != 0 || live->is_left;
            live->look_us = now_us + LOOK_EVERY_US;
        }
    }
    return live->is_late || live->is_left;
}

static void explain_interrupt(const struct dq_live *live, struct dq_error *error) {
    dq_error_set(error, SQLITE_INTERRUPT, live->is_late ? "interrupted: the statement took longer than it may" :
                 "interrupted");
}

/* -- begin and end ---------------------------------------------------------------------------------------------- */

static int report(struct dq_engine *engine, dq_live_outcome *outcome, int code) {
    outcome->is_open = engine->live.is_open;
    if (code != SQLITE_OK) {
        dq_error_take(&engine->last_error, engine->db, code);
        outcome->code = engine->last_error.code;
        outcome->message = engine->last_error.message;
    }
    return outcome->code;
}

static int begin(struct dq_engine *engine) {
    int code = dq_begin(engine);
    if (code != SQLITE_OK) {
        return code;
    }
    engine->live.is_open = true;
    /* The replay has one: FTS writes its pending terms by savepoints. */
    return dq_run_own(engine->savepoint);
}

int dq_live_begin(dq_engine *engine, int64_t now_us, const uint8_t *seed, dq_live_outcome *outcome) {
    memset(outcome, 0, sizeof *outcome);
    sqlite3_mutex *mutex = sqlite3_db_mutex(engine->db);
    sqlite3_mutex_enter(mutex);
    dq_live_stop(engine);
    memset(&engine->live, 0, sizeof engine->live);
    engine->live.now_us = now_us;
    memcpy(engine->live.seed, seed, DQ_SEED_BYTES);
    engine->results.discard = engine->results.failed = engine->decltypes.failed = false;
    int code = report(engine, outcome, begin(engine));
    if (code == SQLITE_OK) {
        dq_transaction_start(engine);
    } else {
        dq_live_stop(engine);
        outcome->is_open = false;
    }
    sqlite3_mutex_leave(mutex);
    return code;
}

int dq_live_stop(struct dq_engine *engine) {
    if (!engine->live.is_open) {
        return SQLITE_OK;
    }
    engine->live.is_open = false;
    if (engine->schema_touched) {
        dq_forget_schema(engine);
    }
    return sqlite3_get_autocommit(engine->db) ? SQLITE_OK : dq_run_own(engine->rollback);
}

int dq_live_end(dq_engine *engine, dq_live_outcome *outcome) {
    memset(outcome, 0, sizeof *outcome);
    sqlite3_mutex *mutex = sqlite3_db_mutex(engine->db);
    sqlite3_mutex_enter(mutex);
    int code = report(engine, outcome, dq_live_stop(engine));
    memcpy(outcome->digest, engine->live.digest, DQ_DIGEST_BYTES);
    outcome->has_written = engine->live.has_changed;
    sqlite3_mutex_leave(mutex);
    return code;
}

int dq_live_has_open_foreign_keys(dq_engine *engine) {
    return engine->live.is_open && dq_has_open_foreign_keys(engine);
}

/* -- a group ---------------------------------------------------------------------------------------------------- */

static enum dq_verdict run_statements(struct dq_engine *engine, const struct dq_body *group, struct dq_error *error,
                                      uint32_t *failed_at) {
    struct dq_reader reader = group->statements;
    for (uint32_t i = 0; i < group->statement_count; i++) {
        *failed_at = i;
        if (must_stop(&engine->live)) {
            explain_interrupt(&engine->live, error);
            return DQ_BROKEN;
        }
        enum dq_verdict verdict = dq_body_next(engine, &reader, group->statement_count == 1, error);
        if (verdict != DQ_DONE) {
            if (error->code == SQLITE_INTERRUPT) {
                explain_interrupt(&engine->live, error);
            }
            return verdict;
        }
    }
    return DQ_DONE;
}

/* What the replay could not repeat. */
static bool has_ended(const struct dq_engine *engine, enum dq_verdict verdict, const struct dq_error *error) {
    bool is_harmless = error->code == SQLITE_INTERRUPT && !engine->wrote;
    return sqlite3_get_autocommit(engine->db) || engine->max_rowid_used || (verdict == DQ_BROKEN && !is_harmless);
}

static void run_group(struct dq_engine *engine, const struct dq_body *group, dq_live_outcome *outcome) {
    struct dq_live *live = &engine->live;
    struct dq_error *error = &engine->last_error;
    uint32_t failed_at = 0;
    error->code = SQLITE_OK;
    size_t start = dq_group_start(engine, group, live->seed, live->recorded, live->digest);
    enum dq_verdict verdict = run_statements(engine, group, error, &failed_at);
    if (verdict != DQ_DONE) {
        dq_group_fail(engine, start, error, failed_at);
        engine->decltypes.size = 0;
    }
    engine->results.failed = engine->results.failed || engine->decltypes.failed;
    if (has_ended(engine, verdict, error) || engine->results.failed) {
        sqlite3_progress_handler(engine->db, 0, NULL, NULL); /* it must not stop the ROLLBACK */
        dq_live_stop(engine); /* a failure of it is met again at the next BEGIN */
    } else if (engine->wrote) {
        live->recorded++;
        live->has_changed = live->has_changed || engine->changed;
        dq_group_digest(engine, start, live->digest);
        outcome->is_recorded = true;
    }
}

static void run_watched(struct dq_engine *engine, const struct dq_body *group, dq_live_outcome *outcome) {
    sqlite3_mutex *mutex = sqlite3_db_mutex(engine->db);
    sqlite3_mutex_enter(mutex);
    dq_vfs_fix_time(engine->live.now_us / 1000);
    sqlite3_progress_handler(engine->db, PROGRESS_OPS, must_stop, &engine->live);
    /* Only what is alone and reads is sure not to become part of the log. */
    engine->guard.place = group->statement_count == 1 ? DQ_LOOKING : DQ_IN_GROUP;
    engine->keeps_decltypes = true;
    run_group(engine, group, outcome);
    engine->keeps_decltypes = false;
    engine->guard.place = DQ_IN_UNIT;
    sqlite3_progress_handler(engine->db, 0, NULL, NULL);
    dq_vfs_release_time();
    sqlite3_mutex_leave(mutex);
}

int dq_live_run(dq_engine *engine, const uint8_t *body, size_t size, int64_t timeout_us, const int32_t *flag,
                int (*look)(void), dq_live_outcome *outcome) {
    memset(outcome, 0, sizeof *outcome);
    struct dq_live *live = &engine->live;
    struct dq_reader reader = {body, body + size};
    struct dq_body group;
    outcome->is_open = live->is_open;
    if (!live->is_open || !dq_body_open(&reader, &group) || reader.at != reader.end) {
        return DQ_FORMAT;
    }
    live->flag = flag;
    live->is_late = live->is_left = false;
    live->look = look;
    live->look_us = look == NULL ? 0 : monotonic_us() + LOOK_EVERY_US;
    live->deadline_us = timeout_us < 0 ? INT64_MAX : monotonic_us() + timeout_us;
    engine->results.size = engine->decltypes.size = 0;
    run_watched(engine, &group, outcome);
    outcome->is_open = live->is_open;
    outcome->has_written = engine->changed;
    if (engine->results.failed) {
        outcome->code = SQLITE_NOMEM;
        outcome->message = "out of memory";
        return DQ_ENVIRONMENT;
    }
    outcome->results = engine->results.data + DQ_DIGEST_BYTES;
    outcome->results_size = engine->results.size - DQ_DIGEST_BYTES;
    outcome->decltypes = engine->decltypes.data;
    outcome->decltypes_size = engine->decltypes.size;
    return DQ_APPLIED;
}
