#include "run_statement.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "utf8.h"

bool dq_is_environmental(int code) {
    switch (code & 0xff) {
    case SQLITE_CORRUPT:
        /* FTS reports these for what a client wrote into its index, on every node alike. */
        return code != SQLITE_CORRUPT_VTAB && code != SQLITE_CORRUPT_SEQUENCE;
    case SQLITE_INTERNAL:
    case SQLITE_BUSY:
    case SQLITE_NOMEM:
    case SQLITE_READONLY:
    case SQLITE_INTERRUPT:
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_PROTOCOL:
    case SQLITE_SCHEMA:
    case SQLITE_MISUSE:
    case SQLITE_NOLFS:
    case SQLITE_NOTADB:
        return true;
    default:
        /* FULL too is deterministic here: pages are written at COMMIT only, so that inside a statement it is an
         * exhausted AUTOINCREMENT. */
        return false;
    }
}

static enum dq_verdict failure(const struct dq_error *error) {
    return dq_is_environmental(error->code) ? DQ_BROKEN : DQ_FAILED;
}

/* -- parameters ------------------------------------------------------------------------------------------ */

static int bind(sqlite3_stmt *handle, int position, const struct dq_item *value) {
    switch (value->type) {
    case DQ_INT: return sqlite3_bind_int64(handle, position, value->as.integer);
    case DQ_FLOAT: return sqlite3_bind_double(handle, position, value->as.real);
    case DQ_TEXT:
        return sqlite3_bind_text(handle, position, (const char *)value->as.bytes, (int)value->size, SQLITE_STATIC);
    case DQ_BLOB: return sqlite3_bind_blob(handle, position, value->as.bytes, (int)value->size, SQLITE_STATIC);
    default: return sqlite3_bind_null(handle, position);
    }
}

static bool bind_all(struct dq_engine *engine, struct dq_statement *statement, struct dq_reader *reader, uint32_t count,
                     struct dq_error *error) {
    if ((int64_t)count != statement->parameter_count) {
        char message[120];
        snprintf(message, sizeof message, "the statement has %d parameters, and %u were given",
                 statement->parameter_count, (unsigned)count);
        dq_error_set(error, SQLITE_RANGE, message);
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct dq_item value;
        dq_read(reader, &value); /* checked by dq_payload_open */
        int code = bind(statement->handle, (int)i + 1, &value);
        if (code != SQLITE_OK) {
            dq_error_take(error, engine->db, code);
            return false;
        }
    }
    return true;
}

/* Names and values alternate in engine->named, sorted by name, so that many parameters stay cheap. */
struct named_pair {
    struct dq_item name, value;
};

static int compare_names(const void *left, const void *right) {
    const struct dq_item *a = left, *b = right;
    uint32_t common = a->size < b->size ? a->size : b->size;
    int order = memcmp(a->as.bytes, b->as.bytes, common);
    if (order == 0) {
        order = (a->size > b->size) - (a->size < b->size);
    }
    if (order == 0) { /* of equal names the last one counts: it sorts first */
        order = (a->as.bytes < b->as.bytes) - (a->as.bytes > b->as.bytes);
    }
    return order;
}

static const struct dq_item *find_name(const struct named_pair *pairs, uint32_t count, const char *name) {
    size_t size = strlen(name);
    uint32_t low = 0, high = count;
    while (low < high) { /* first pair whose name is not below `name` */
        uint32_t middle = low + (high - low) / 2;
        const struct dq_item *at = &pairs[middle].name;
        size_t common = at->size < size ? at->size : size;
        int order = memcmp(at->as.bytes, name, common);
        if (order < 0 || (order == 0 && at->size < size)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    bool found = low < count && pairs[low].name.size == size && memcmp(pairs[low].name.as.bytes, name, size) == 0;
    return found ? &pairs[low].value : NULL;
}

static bool bind_named(struct dq_engine *engine, struct dq_statement *statement, struct dq_reader *reader,
                       uint32_t count, struct dq_error *error) {
    void *grown = engine->named;
    if (!dq_grow(&grown, &engine->named_capacity, 2 * (size_t)count, sizeof *engine->named)) {
        dq_error_set(error, SQLITE_NOMEM, "out of memory");
        return false;
    }
    engine->named = grown;
    for (uint32_t i = 0; i < 2 * count; i++) {
        dq_read(reader, &engine->named[i]); /* checked by dq_payload_open */
    }
    struct named_pair *pairs = (struct named_pair *)engine->named;
    if (count > 1) {
        qsort(pairs, count, sizeof *pairs, compare_names);
    }
    for (int position = 1; position <= statement->parameter_count; position++) {
        const char *name = sqlite3_bind_parameter_name(statement->handle, position);
        const struct dq_item *value = name && count ? find_name(pairs, count, name + 1) : NULL;
        if (value == NULL) {
            char message[200];
            snprintf(message, sizeof message, name ? "no value was given for parameter %.100s" :
                     "parameter %.100s has no name, and the values were given by name", name ? name : "?");
            dq_error_set(error, SQLITE_RANGE, message);
            return false;
        }
        int code = bind(statement->handle, position, value);
        if (code != SQLITE_OK) {
            dq_error_take(error, engine->db, code);
            return false;
        }
    }
    return true;
}

static bool bind_params(struct dq_engine *engine, struct dq_statement *statement, struct dq_reader *reader,
                        struct dq_error *error) {
    struct dq_item params;
    dq_read(reader, &params); /* checked by dq_payload_open */
    return params.type == DQ_MAP ? bind_named(engine, statement, reader, params.size, error)
                                 : bind_all(engine, statement, reader, params.size, error);
}

/* -- rows ------------------------------------------------------------------------------------------------ */

static void put_text(struct dq_buffer *results, const uint8_t *text, int size) {
    if (dq_utf8_valid(text, (size_t)size)) {
        dq_put_text(results, text, (uint32_t)size);
    } else {
        dq_put_blob(results, text, (uint32_t)size); /* a client's decoder would stumble over it */
    }
}

/* Append a value; returns the bytes it counts for. */
static uint64_t put_value(struct dq_buffer *results, sqlite3_stmt *handle, int column) {
    switch (sqlite3_column_type(handle, column)) {
    case SQLITE_INTEGER: dq_put_int(results, sqlite3_column_int64(handle, column)); return 9;
    case SQLITE_FLOAT: dq_put_float(results, sqlite3_column_double(handle, column)); return 9;
    case SQLITE_TEXT: {
        const uint8_t *text = sqlite3_column_text(handle, column);
        int size = sqlite3_column_bytes(handle, column);
        if (!results->discard) {
            put_text(results, text, text ? size : 0);
        }
        return (uint64_t)size + 5;
    }
    case SQLITE_BLOB: {
        const void *bytes = sqlite3_column_blob(handle, column);
        int size = sqlite3_column_bytes(handle, column);
        dq_put_blob(results, bytes, (uint32_t)size);
        return (uint64_t)size + 5;
    }
    default: dq_put_nil(results); return 1;
    }
}

static void put_columns(struct dq_buffer *results, const struct dq_statement *statement) {
    if (results->discard) {
        return;
    }
    dq_put_array(results, (uint32_t)statement->column_count);
    for (int i = 0; i < statement->column_count; i++) {
        const char *name = sqlite3_column_name(statement->handle, i);
        const char *text = name ? name : "";
        put_text(results, (const uint8_t *)text, (int)strlen(text));
    }
}

static bool put_row(struct dq_engine *engine, const struct dq_statement *statement, struct dq_error *error) {
    dq_put_array(&engine->results, (uint32_t)statement->column_count);
    engine->row_bytes += 5;
    for (int i = 0; i < statement->column_count; i++) {
        engine->row_bytes += put_value(&engine->results, statement->handle, i);
    }
    if (engine->row_bytes <= engine->row_bytes_max) {
        return true;
    }
    dq_error_set(error, SQLITE_TOOBIG, "the result rows are too large: fetch less, or read with a query of its own");
    return false;
}

/* [rowcount, rowid, nil, nil] of a statement without columns. */
static void put_counts(struct dq_buffer *results, int64_t rowcount, int64_t rowid) {
    uint8_t bytes[3 + 2 * DQ_INT_BYTES_MAX];
    size_t size = 0;
    bytes[size++] = 0x94;
    size += dq_store_int(bytes + size, rowcount);
    size += dq_store_int(bytes + size, rowid);
    bytes[size++] = 0xc0;
    bytes[size++] = 0xc0;
    dq_put_raw(results, bytes, size);
}

static int64_t rowid_of(struct dq_engine *engine) {
    int64_t rowid = sqlite3_last_insert_rowid(engine->db);
    engine->rowid_is_zero = rowid == 0;
    return rowid;
}

static int64_t rowcount_of(struct dq_engine *engine, const struct dq_statement *statement) {
    return statement->is_dml ? sqlite3_changes64(engine->db) : -1;
}

static enum dq_verdict step_failed(struct dq_engine *engine, const struct dq_statement *statement, int code,
                                   struct dq_error *error) {
    dq_error_take(error, engine->db, code);
    enum dq_verdict verdict = failure(error);
    return verdict == DQ_FAILED && !statement->is_readonly ? DQ_FAILED_WRITING : verdict;
}

/* Step a statement with columns to its end. */
static enum dq_verdict run_rows(struct dq_engine *engine, struct dq_statement *statement, struct dq_error *error) {
    struct dq_buffer *results = &engine->results;
    dq_put_array(results, 4); /* [rowcount, rowid, columns, rows]: the numbers are known last */
    size_t rowcount_place = dq_put_open_int(results);
    size_t rowid_place = dq_put_open_int(results);
    put_columns(results, statement);
    size_t place = dq_put_open_array(results);
    uint32_t rows = 0;
    int code;
    while ((code = sqlite3_step(statement->handle)) == SQLITE_ROW) {
        if (!put_row(engine, statement, error)) {
            return statement->is_readonly ? DQ_FAILED : DQ_FAILED_WRITING;
        }
        rows++;
    }
    if (code != SQLITE_DONE) {
        return step_failed(engine, statement, code, error);
    }
    dq_set_array(results, place, rows);
    if (!results->discard) {
        dq_set_int(results, rowcount_place, rowcount_of(engine, statement));
        dq_set_int(results, rowid_place, rowid_of(engine));
    }
    return DQ_DONE;
}

static void note_decltypes(struct dq_buffer *types, const struct dq_statement *statement) {
    types->size = 0;
    dq_put_array(types, (uint32_t)statement->column_count);
    for (int i = 0; i < statement->column_count; i++) {
        const char *type = sqlite3_column_decltype(statement->handle, i);
        if (type == NULL) {
            dq_put_nil(types);
        } else {
            put_text(types, (const uint8_t *)type, (int)strlen(type));
        }
    }
}

static enum dq_verdict execute(struct dq_engine *engine, struct dq_statement *statement, struct dq_error *error) {
    if (!statement->is_readonly) {
        engine->rowid_is_zero = false;
        engine->wrote = true;
        engine->changed = engine->changed || statement->control == DQ_NO_CONTROL;
    }
    if (statement->column_count > 0) {
        if (engine->keeps_decltypes) {
            note_decltypes(&engine->decltypes, statement);
        }
        return run_rows(engine, statement, error);
    }
    int code = sqlite3_step(statement->handle);
    if (code != SQLITE_DONE) {
        return step_failed(engine, statement, code, error);
    }
    if (!engine->results.discard) {
        put_counts(&engine->results, rowcount_of(engine, statement), rowid_of(engine));
    }
    return DQ_DONE;
}

/* -- what only some statements need ------------------------------------------------------------------------ */

static void learn_schema_words(struct dq_engine *engine) {
    sqlite3_stmt *look = engine->schema_words;
    if (sqlite3_step(look) == SQLITE_ROW) {
        engine->words.has_changes = sqlite3_column_int(look, 0) != 0;
        engine->words.has_references = sqlite3_column_int(look, 1) != 0;
        engine->words.is_known = true;
    }
    sqlite3_reset(look); /* unknown, and so both assumed, if it failed: the statement will fail of the same */
}

/* changes() and total_changes() are 0 at the start of a unit: a trigger could read what an earlier entry left. Set
 * BEFORE the first statement that may read them, and before what is not DML and might leave a count of its own. */
static int reset_changes(struct dq_engine *engine, const struct dq_statement *statement) {
    if (!engine->changes_are_old) {
        return SQLITE_OK;
    }
    bool is_plain = statement->is_readonly || statement->is_dml || statement->control != DQ_NO_CONTROL;
    bool may_read = statement->names_changes || !engine->words.is_known || engine->words.has_changes;
    if (is_plain && !may_read) {
        engine->changes_are_old = !statement->is_dml; /* which sets its own count */
        return SQLITE_OK;
    }
    engine->changes_are_old = false;
    dq_functions_start_total(&engine->functions);
    return dq_run_own(engine->reset_changes);
}

enum dq_verdict dq_run_statement(struct dq_engine *engine, struct dq_sql_text text, struct dq_reader *reader,
                                 struct dq_error *error) {
    struct dq_statement *statement =
        dq_statements_get(&engine->statements, engine->db, &engine->guard, text.sql, text.size, error);
    if (statement == NULL) {
        return failure(error);
    }
    if (!engine->words.is_known && statement->is_dml) {
        learn_schema_words(engine);
    }
    int code = reset_changes(engine, statement);
    if (code != SQLITE_OK) {
        dq_error_take(error, engine->db, code);
        return DQ_BROKEN;
    }
    enum dq_verdict verdict = DQ_FAILED;
    if (bind_params(engine, statement, reader, error)) {
        verdict = execute(engine, statement, error);
    } else {
        verdict = failure(error);
    }
    /* Its code repeats the step's. The bindings stay: they point into the payload, but every run binds all
     * parameters anew BEFORE it steps. */
    sqlite3_reset(statement->handle);
    int reload_code = SQLITE_OK;
    if (statement->control == DQ_ROLLBACK_TO && engine->schema_changed) {
        reload_code = dq_reload_schema(engine);
    } else if (!statement->is_readonly && !statement->is_dml && statement->control == DQ_NO_CONTROL) {
        engine->schema_changed = engine->schema_touched = true;
        dq_forget_schema(engine);
    }
    if (reload_code != SQLITE_OK) {
        dq_error_take(error, engine->db, reload_code);
        verdict = DQ_BROKEN;
    }
    if (verdict == DQ_DONE && engine->max_rowid_used) {
        dq_error_set(error, SQLITE_CONSTRAINT_ROWID,
                     "rowid 9223372036854775807 cannot be used: rowids after it would be random");
        verdict = DQ_FAILED_WRITING;
    }
    if (engine->results.failed) {
        dq_error_set(error, SQLITE_NOMEM, "out of memory");
        verdict = DQ_BROKEN;
    }
    return verdict;
}
