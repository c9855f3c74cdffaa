/* CRC-32C (Castagnoli), as used by the journal and the peer frames. */
#ifndef DQ_CRC32C_H
#define DQ_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* CRC of `size` bytes; chain blocks by passing the previous result as `seed` (0 at the start). */
uint32_t dq_crc32c(uint32_t seed, const uint8_t *data, size_t size);

/* The portable path alone: tests compare it with the one chosen at run time. */
uint32_t dq_crc32c_portable(uint32_t seed, const uint8_t *data, size_t size);

#endif
