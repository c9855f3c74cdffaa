/* The UNITS payload of dqlite_py/command.py, checked to its last byte before anything of it is executed. */
#ifndef DQ_PAYLOAD_H
#define DQ_PAYLOAD_H

#include <stdint.h>

#include "msgpack.h"

#define DQ_UNITS_MAX 4096   /* limits.ENTRY_UNITS_MAX */
#define DQ_PARAMS_MAX 32766 /* limits.STATEMENT_PARAMS_MAX */
#define DQ_SEED_BYTES 16

enum dq_payload_verdict { DQ_PAYLOAD_OK, DQ_PAYLOAD_MALFORMED, DQ_PAYLOAD_UNKNOWN_VERSION };

struct dq_unit {
    struct dq_reader statements; /* at the first [sql, params] */
    uint32_t statement_count;
};

/* Pointers lead into the caller's bytes. */
struct dq_payload {
    int64_t now_us;
    const uint8_t *seed;
    uint32_t unit_count;
    struct dq_unit units[DQ_UNITS_MAX];
};

enum dq_payload_verdict dq_payload_open(struct dq_payload *payload, const uint8_t *bytes, size_t size);

#endif
