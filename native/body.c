#include "body.h"

#include "memory.h"

void dq_body_start(struct dq_engine *engine) {
    engine->text_count = 0;
    engine->max_rowid_used = false;
}

/* For references by position. */
static bool remember_text(struct dq_engine *engine, struct dq_sql_text text) {
    void *texts = engine->texts;
    if (!dq_grow(&texts, &engine->text_capacity, engine->text_count + 1, sizeof *engine->texts)) {
        return false;
    }
    engine->texts = texts;
    engine->texts[engine->text_count++] = text;
    return true;
}

enum dq_verdict dq_body_next(struct dq_engine *engine, struct dq_reader *reader, bool is_alone,
                             struct dq_error *error) {
    struct dq_item item;
    dq_read(reader, &item); /* the array [sql, params]; checked by dq_body_open, as all that follows */
    dq_read(reader, &item);
    if (item.type == DQ_INT) {
        return dq_run_statement(engine, engine->texts[item.as.integer], reader, error);
    }
    struct dq_sql_text text = {(const char *)item.as.bytes, item.size};
    if (!is_alone && !remember_text(engine, text)) {
        dq_error_set(error, SQLITE_NOMEM, "out of memory");
        return DQ_BROKEN;
    }
    return dq_run_statement(engine, text, reader, error);
}

enum dq_verdict dq_body_run(struct dq_engine *engine, const struct dq_body *body, struct dq_error *error,
                            uint32_t *failed_at) {
    struct dq_reader reader = body->statements;
    for (uint32_t i = 0; i < body->statement_count; i++) {
        enum dq_verdict verdict = dq_body_next(engine, &reader, body->statement_count == 1, error);
        if (verdict != DQ_DONE) {
            *failed_at = i;
            return verdict;
        }
    }
    return DQ_DONE;
}

bool dq_has_open_foreign_keys(const struct dq_engine *engine) {
    if (engine->words.is_known && !engine->words.has_references) {
        return false;
    }
    int current = 0, highest = 0;
    int code = sqlite3_db_status(engine->db, SQLITE_DBSTATUS_DEFERRED_FKS, &current, &highest, 0);
    return code == SQLITE_OK && current != 0;
}

void dq_open_foreign_keys(struct dq_error *error) {
    dq_error_set(error, SQLITE_CONSTRAINT_FOREIGNKEY, "FOREIGN KEY constraint failed");
}

void dq_put_success(struct dq_buffer *results, uint32_t statement_count) {
    static const uint8_t success[] = {0x92, 0x00}; /* an array of 2, the first of them 0 */
    dq_put_raw(results, success, sizeof success);
    dq_put_array(results, statement_count);
}

void dq_put_failure(struct dq_buffer *results, const struct dq_error *error, uint32_t position) {
    dq_put_array(results, 3);
    dq_put_int(results, error->code);
    dq_put_text(results, error->message, (uint32_t)strlen(error->message));
    dq_put_int(results, position);
}
