/* State hash of a database: xor over its pages of XXH3(content, seeded with the page number).
 *
 * A function of content only, so it does not depend on checkpoints, history or the way of a restore. Kept
 * incrementally from the WAL frames of each transaction (vfs.c) and recomputed by a scan when a database is
 * opened. Left out, because they differ between equal nodes: page 1 bytes 24-27 (change counter), 40-43
 * (schema cookie), 92-99 (version-valid-for, SQLite version). A page of zeros counts as nothing: holes of the
 * file (the lock-byte page) are never written to the WAL.
 */
#ifndef DQ_PAGE_HASH_H
#define DQ_PAGE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DQ_PAGE_SIZE_MAX 65536

uint64_t dq_page_hash(const uint8_t *page, uint32_t page_size, uint32_t number);

/* Xor of the hashes of `count` consecutive pages, the first of which has `first_number` (1-based). */
uint64_t dq_hash_pages(const uint8_t *pages, size_t count, uint32_t page_size, uint32_t first_number);

struct dq_changed_page {
    uint32_t number;
    uint64_t hash;
};

/* Frames are collected while SQLite writes them; they count only when the SQL commit has succeeded. */
struct dq_pages {
    uint32_t page_size;
    uint32_t page_count;
    uint64_t state;
    uint64_t *hashes; /* by page number - 1; zero beyond page_count */
    size_t capacity;
    struct dq_changed_page *changed;
    size_t changed_count;
    size_t changed_capacity;
    uint32_t new_page_count; /* of the commit frame; 0: none was written */
};

void dq_pages_free(struct dq_pages *pages);
/* Forget everything and prepare for a scan of `page_count` pages; false: no memory. */
bool dq_pages_reset(struct dq_pages *pages, uint32_t page_size, uint32_t page_count);
void dq_pages_scan(struct dq_pages *pages, const uint8_t *data, size_t count, uint32_t first_number);
/* Note a frame; `commit_pages` is not 0 in a commit frame. false: no memory, refuse the write. */
bool dq_pages_note(struct dq_pages *pages, uint32_t number, const uint8_t *page, uint32_t commit_pages);
void dq_pages_commit(struct dq_pages *pages);
void dq_pages_discard(struct dq_pages *pages);

#endif
