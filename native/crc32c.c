/* CRC-32C: SSE4.2 where the CPU has it (asked at run time), eight tables elsewhere. */
#include "crc32c.h"

#include <pthread.h>
#include <string.h>

#if defined(__x86_64__)
#define DQ_CRC32C_SSE 1
#include <nmmintrin.h>
#endif

#define POLYNOMIAL 0x82F63B78u /* reflected */

static uint32_t tables[8][256];
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void build_tables(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ (POLYNOMIAL & (0u - (crc & 1u)));
        }
        tables[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++) {
        for (int slice = 1; slice < 8; slice++) {
            uint32_t before = tables[slice - 1][byte];
            tables[slice][byte] = (before >> 8) ^ tables[0][before & 0xff];
        }
    }
}

static uint32_t load_le32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

uint32_t dq_crc32c_portable(uint32_t seed, const uint8_t *data, size_t size) {
    pthread_once(&tables_once, build_tables);
    uint32_t crc = ~seed;
    for (; size >= 8; data += 8, size -= 8) {
        uint32_t low = crc ^ load_le32(data);
        uint32_t high = load_le32(data + 4);
        crc = tables[7][low & 0xff] ^ tables[6][(low >> 8) & 0xff] ^ tables[5][(low >> 16) & 0xff] ^
              tables[4][low >> 24] ^ tables[3][high & 0xff] ^ tables[2][(high >> 8) & 0xff] ^
              tables[1][(high >> 16) & 0xff] ^ tables[0][high >> 24];
    }
    for (; size > 0; data++, size--) {
        crc = (crc >> 8) ^ tables[0][(crc ^ *data) & 0xff];
    }
    return ~crc;
}

#ifdef DQ_CRC32C_SSE

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse(uint32_t seed, const uint8_t *data, size_t size) {
    uint64_t crc = (uint32_t)~seed;
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        crc = _mm_crc32_u64(crc, word);
    }
    for (; size > 0; data++, size--) {
        crc = _mm_crc32_u8((uint32_t)crc, *data);
    }
    return ~(uint32_t)crc;
}

uint32_t dq_crc32c(uint32_t seed, const uint8_t *data, size_t size) {
    return __builtin_cpu_supports("sse4.2") ? crc32c_sse(seed, data, size)
                                            : dq_crc32c_portable(seed, data, size);
}

#else

uint32_t dq_crc32c(uint32_t seed, const uint8_t *data, size_t size) {
    return dq_crc32c_portable(seed, data, size);
}

#endif
