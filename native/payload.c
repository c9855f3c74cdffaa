#include "payload.h"

#include "utf8.h"

#define COMMAND_VERSION 1
#define KIND_UNITS 1

static bool read_int(struct dq_reader *reader, int64_t *value) {
    struct dq_item item;
    if (!dq_read(reader, &item) || item.type != DQ_INT) {
        return false;
    }
    *value = item.as.integer;
    return true;
}

static bool read_array(struct dq_reader *reader, uint32_t *count) {
    struct dq_item item;
    if (!dq_read(reader, &item) || item.type != DQ_ARRAY) {
        return false;
    }
    *count = item.size;
    return true;
}

static bool is_text(const struct dq_item *item) {
    return item->type == DQ_TEXT && dq_utf8_valid(item->as.bytes, item->size);
}

static bool is_sql_value(const struct dq_item *item) {
    return item->type == DQ_NIL || item->type == DQ_INT || item->type == DQ_FLOAT || item->type == DQ_BLOB ||
           is_text(item);
}

/* nil, or [index, 8 bytes]: the leader's claim, which Python compares. */
static bool check_state_hash(struct dq_reader *reader) {
    struct dq_item item;
    if (!dq_read(reader, &item)) {
        return false;
    }
    if (item.type == DQ_NIL) {
        return true;
    }
    if (item.type != DQ_ARRAY || item.size != 2) {
        return false;
    }
    if (!dq_read(reader, &item) || (item.type != DQ_INT && item.type != DQ_BIG_UINT)) {
        return false;
    }
    return dq_read(reader, &item) && item.type == DQ_BLOB && item.size == 8;
}

static bool check_params(struct dq_reader *reader) {
    struct dq_item params, item;
    if (!dq_read(reader, &params) || (params.type != DQ_ARRAY && params.type != DQ_MAP)) {
        return false;
    }
    if (params.size > DQ_PARAMS_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < params.size; i++) {
        if (params.type == DQ_MAP && !(dq_read(reader, &item) && is_text(&item))) {
            return false;
        }
        if (!dq_read(reader, &item) || !is_sql_value(&item)) {
            return false;
        }
    }
    return true;
}

static bool check_statement(struct dq_reader *reader, int64_t *texts) {
    uint32_t fields;
    struct dq_item sql;
    if (!read_array(reader, &fields) || fields != 2 || !dq_read(reader, &sql)) {
        return false;
    }
    if (is_text(&sql)) {
        (*texts)++;
    } else if (sql.type != DQ_INT || sql.as.integer < 0 || sql.as.integer >= *texts) {
        return false;
    }
    return check_params(reader);
}

static bool open_statements(struct dq_reader *reader, struct dq_body *body) {
    int64_t texts = 0;
    if (!read_array(reader, &body->statement_count)) {
        return false;
    }
    body->statements = *reader;
    for (uint32_t i = 0; i < body->statement_count; i++) {
        if (!check_statement(reader, &texts)) {
            return false;
        }
    }
    return true;
}

bool dq_body_open(struct dq_reader *reader, struct dq_body *body) {
    return open_statements(reader, body) && body->statement_count > 0;
}

/* nil and 0, or 16 bytes and a number from 1. */
static bool open_key(struct dq_reader *reader, struct dq_unit *unit) {
    struct dq_item session;
    if (!dq_read(reader, &session) || !read_int(reader, &unit->sequence)) {
        return false;
    }
    if (session.type == DQ_NIL) {
        unit->session = NULL;
        return unit->sequence == 0;
    }
    unit->session = session.as.bytes;
    return session.type == DQ_BLOB && session.size == DQ_SESSION_BYTES && unit->sequence > 0;
}

static bool open_groups(struct dq_reader *reader, struct dq_unit *unit) {
    struct dq_item digest;
    struct dq_body group;
    if (!read_array(reader, &unit->as.groups.count) || unit->as.groups.count == 0) {
        return false;
    }
    unit->as.groups.reader = *reader;
    for (uint32_t i = 0; i < unit->as.groups.count; i++) {
        if (!dq_body_open(reader, &group)) {
            return false;
        }
    }
    if (!dq_read(reader, &digest) || digest.type != DQ_BLOB || digest.size != DQ_DIGEST_BYTES) {
        return false;
    }
    unit->digest = digest.as.bytes;
    return true;
}

static bool open_unit(struct dq_reader *reader, struct dq_unit *unit) {
    uint32_t fields;
    if (!read_array(reader, &fields) || (fields != 3 && fields != 4) || !open_key(reader, unit)) {
        return false;
    }
    if (fields == 4) {
        return open_groups(reader, unit);
    }
    unit->digest = NULL;
    return open_statements(reader, &unit->as.body) && (unit->as.body.statement_count > 0 || unit->session != NULL);
}

static bool open_units(struct dq_payload *payload, struct dq_reader *reader) {
    int64_t kind;
    struct dq_item item;
    if (!read_int(reader, &kind) || kind != KIND_UNITS) {
        return false;
    }
    if (!dq_read(reader, &item) || !is_text(&item) || !read_int(reader, &payload->now_us)) {
        return false;
    }
    if (!dq_read(reader, &item) || item.type != DQ_BLOB || item.size != DQ_SEED_BYTES) {
        return false;
    }
    payload->seed = item.as.bytes;
    if (!check_state_hash(reader) || !read_array(reader, &payload->unit_count)) {
        return false;
    }
    if (payload->unit_count == 0 || payload->unit_count > DQ_UNITS_MAX) {
        return false;
    }
    payload->has_sessions = false;
    for (uint32_t i = 0; i < payload->unit_count; i++) {
        struct dq_unit *unit = &payload->units[i];
        if (!open_unit(reader, unit) || (unit->digest != NULL && payload->unit_count > 1)) {
            return false;
        }
        payload->has_sessions = payload->has_sessions || unit->session != NULL;
    }
    return reader->at == reader->end;
}

enum dq_payload_verdict dq_payload_open(struct dq_payload *payload, const uint8_t *bytes, size_t size) {
    struct dq_reader reader = {bytes, bytes + size};
    uint32_t fields;
    int64_t version;
    if (!read_array(&reader, &fields) || !read_int(&reader, &version)) {
        return DQ_PAYLOAD_MALFORMED;
    }
    if (version != COMMAND_VERSION) {
        return DQ_PAYLOAD_UNKNOWN_VERSION;
    }
    return fields == 7 && open_units(payload, &reader) ? DQ_PAYLOAD_OK : DQ_PAYLOAD_MALFORMED;
}
