/* random(), randomblob() and total_changes() of the writer connection: the same on every node. */
#ifndef DQ_FUNCTIONS_H
#define DQ_FUNCTIONS_H

#include <stdint.h>

#include "sqlite_api.h"

struct dq_functions {
    sqlite3 *db;
    uint64_t random_state[4];    /* xoshiro256** */
    int64_t total_changes_start; /* of the unit at hand */
};

int dq_functions_install(struct dq_functions *functions, sqlite3 *db);
void dq_functions_remove(sqlite3 *db);
/* Start a unit: its generator depends on the entry's seed and the unit's position only. */
void dq_functions_begin_unit(struct dq_functions *functions, const uint8_t seed[16], uint32_t position);

#endif
