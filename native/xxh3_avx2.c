/* XXH3 compiled for AVX2; called only where the processor has it. */
#ifdef __x86_64__

#pragma GCC target("avx2")

#include <stddef.h>
#include <stdint.h>

#define XXH_INLINE_ALL
#include "xxhash.h"

uint64_t dq_xxh3_avx2(const void *data, size_t size, uint64_t seed);

uint64_t dq_xxh3_avx2(const void *data, size_t size, uint64_t seed) {
    return XXH3_64bits_withSeed(data, size, seed);
}

#else
typedef int dq_nothing; /* a translation unit is not empty */
#endif
