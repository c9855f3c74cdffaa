#include "xxh3.h"

#define XXH_INLINE_ALL
#include "xxhash.h"

uint64_t dq_xxh3_baseline(const void *data, size_t size, uint64_t seed) {
    return XXH3_64bits_withSeed(data, size, seed);
}

#ifdef __x86_64__
uint64_t dq_xxh3_avx2(const void *data, size_t size, uint64_t seed); /* xxh3_avx2.c */
#endif

uint64_t dq_xxh3(const void *data, size_t size, uint64_t seed) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) {
        return dq_xxh3_avx2(data, size, seed);
    }
#endif
    return dq_xxh3_baseline(data, size, seed);
}
