/* A write group of the journal: its bytes (the table is in dqlite_py/raft/journal/format.py), and writing it.
 *
 * Any thread. Whoever calls has checked what these take for granted: entries ascend one by one, the group has less
 * than 2**30 bytes. build_native.py repeats these declarations for cffi.
 */
#ifndef DQ_JOURNAL_H
#define DQ_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

/* One data group of `count` entries from index `first` on: term, kind, payload size and payload of each.
 * `truncate_from` 0: no truncation record. Both functions give 0 or an errno. */

/* Put the group, made for `offset` of a file, into `target`; EOVERFLOW unless it has exactly `size` bytes. */
int dq_group_build(uint8_t *target, size_t size, uint64_t sequence, uint64_t offset, uint32_t salt,
                   uint64_t truncate_from, uint64_t first, uint32_t count, const uint64_t *terms, const uint8_t *kinds,
                   const uint32_t *sizes, const uint8_t *const *payloads);

/* Write the group at `offset` of `fd`, whole, then fdatasync. After an error nobody knows what is on the disk. */
int dq_group_write(int fd, uint64_t sequence, uint64_t offset, uint32_t salt, uint64_t truncate_from, uint64_t first,
                   uint32_t count, const uint64_t *terms, const uint8_t *kinds, const uint32_t *sizes,
                   const uint8_t *const *payloads);

#endif
