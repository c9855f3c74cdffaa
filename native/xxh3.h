/* XXH3 of pages, with the widest vectors that this processor has: the same value with each. */
#ifndef DQ_XXH3_H
#define DQ_XXH3_H

#include <stddef.h>
#include <stdint.h>

uint64_t dq_xxh3(const void *data, size_t size, uint64_t seed);

/* What dq_xxh3 chooses from, for tests. */
uint64_t dq_xxh3_baseline(const void *data, size_t size, uint64_t seed);

#endif
