/* The UNITS payload of dqlite_py/command.py, checked to its last byte before anything of it is executed. */
#ifndef DQ_PAYLOAD_H
#define DQ_PAYLOAD_H

#include <stdint.h>

#include "bounds.h"
#include "msgpack.h"

#define DQ_SEED_BYTES 16
#define DQ_SESSION_BYTES 16
#define DQ_DIGEST_BYTES 8

enum dq_payload_verdict { DQ_PAYLOAD_OK, DQ_PAYLOAD_MALFORMED, DQ_PAYLOAD_UNKNOWN_VERSION };

/* The statements of a unit, or one group of a transaction unit. */
struct dq_body {
    struct dq_reader statements; /* at the first [sql, params] */
    uint32_t statement_count;    /* 0: a fence */
};

/* Pointers lead into the caller's bytes. */
struct dq_unit {
    const uint8_t *session; /* DQ_SESSION_BYTES, or NULL: no retries */
    int64_t sequence;       /* from 1; 0 without a session */
    const uint8_t *digest;  /* DQ_DIGEST_BYTES of a transaction unit, or NULL */
    union {
        struct dq_body body; /* without digest */
        struct {
            struct dq_reader reader; /* dq_body_open gives `count` groups */
            uint32_t count;
        } groups; /* with digest */
    } as;
};

struct dq_payload {
    int64_t now_us;
    const uint8_t *seed;
    uint32_t unit_count;
    bool has_sessions;
    struct dq_unit units[DQ_UNITS_MAX];
};

enum dq_payload_verdict dq_payload_open(struct dq_payload *payload, const uint8_t *bytes, size_t size);

/* Check the next array of statements, which is not empty, and move `reader` behind it; false when it is malformed. */
bool dq_body_open(struct dq_reader *reader, struct dq_body *group);

#endif
