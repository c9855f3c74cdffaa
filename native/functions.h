/* random(), randomblob() and total_changes() of the writer connection: the same on every node. */
#ifndef DQ_FUNCTIONS_H
#define DQ_FUNCTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "sqlite_api.h"

struct dq_functions {
    sqlite3 *db;
    const uint8_t *seed;         /* of the entry at hand, 16 bytes */
    uint32_t position;           /* of the unit at hand */
    bool is_seeded;              /* random_state is the unit's: made when it is first asked for */
    uint64_t random_state[4];    /* xoshiro256** */
    int64_t total_changes_start; /* of the unit at hand */
};

int dq_functions_install(struct dq_functions *functions, sqlite3 *db);
void dq_functions_remove(sqlite3 *db);
/* Start a unit: its generator depends on the entry's seed and the unit's position only. `seed` stays valid until the
 * next unit. */
void dq_functions_begin_unit(struct dq_functions *functions, const uint8_t seed[16], uint32_t position);
/* Let total_changes() count from here. */
void dq_functions_start_total(struct dq_functions *functions);

#endif
