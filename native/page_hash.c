#include "page_hash.h"

#include <stdlib.h>
#include <string.h>

#include "memory.h"

#include "xxh3.h"

static bool is_zero(const uint8_t *page, uint32_t size) {
    return page[0] == 0 && memcmp(page, page + 1, size - 1) == 0;
}

uint64_t dq_page_hash(const uint8_t *page, uint32_t page_size, uint32_t number) {
    if (is_zero(page, page_size)) {
        return 0;
    }
    if (number != 1) {
        return dq_xxh3(page, page_size, number);
    }
    uint8_t masked[DQ_PAGE_SIZE_MAX];
    memcpy(masked, page, page_size);
    memset(masked + 24, 0, 4);
    memset(masked + 40, 0, 4);
    memset(masked + 92, 0, 8);
    return dq_xxh3(masked, page_size, number);
}

uint64_t dq_hash_pages(const uint8_t *pages, size_t count, uint32_t page_size, uint32_t first_number) {
    uint64_t state = 0;
    for (size_t i = 0; i < count; i++) {
        state ^= dq_page_hash(pages + i * page_size, page_size, first_number + (uint32_t)i);
    }
    return state;
}

void dq_pages_free(struct dq_pages *pages) {
    free(pages->hashes);
    free(pages->changed);
    memset(pages, 0, sizeof *pages);
}

static bool reserve(struct dq_pages *pages, uint32_t page_count) {
    size_t before = pages->capacity;
    void *hashes = pages->hashes;
    if (!dq_grow(&hashes, &pages->capacity, page_count, sizeof *pages->hashes)) {
        return false;
    }
    pages->hashes = hashes;
    if (pages->capacity > before) {
        memset(pages->hashes + before, 0, (pages->capacity - before) * sizeof *pages->hashes);
    }
    return true;
}

bool dq_pages_reset(struct dq_pages *pages, uint32_t page_size, uint32_t page_count) {
    dq_pages_free(pages);
    pages->page_size = page_size;
    pages->page_count = page_count;
    return reserve(pages, page_count);
}

void dq_pages_scan(struct dq_pages *pages, const uint8_t *data, size_t count, uint32_t first_number) {
    for (size_t i = 0; i < count; i++) {
        uint32_t number = first_number + (uint32_t)i;
        uint64_t hash = dq_page_hash(data + i * pages->page_size, pages->page_size, number);
        pages->hashes[number - 1] = hash;
        pages->state ^= hash;
    }
}

bool dq_pages_note(struct dq_pages *pages, uint32_t number, const uint8_t *page, uint32_t commit_pages) {
    void *changed = pages->changed;
    if (!dq_grow(&changed, &pages->changed_capacity, pages->changed_count + 1, sizeof *pages->changed)) {
        return false;
    }
    pages->changed = changed;
    /* Reserved BEFORE the commit frame is written: the update after the commit cannot fail. */
    if (commit_pages != 0 && !reserve(pages, commit_pages)) {
        return false;
    }
    struct dq_changed_page *note = &pages->changed[pages->changed_count++];
    note->number = number;
    note->hash = dq_page_hash(page, pages->page_size, number);
    pages->new_page_count = commit_pages;
    return true;
}

void dq_pages_commit(struct dq_pages *pages) {
    if (pages->new_page_count == 0) {
        dq_pages_discard(pages);
        return;
    }
    for (size_t i = 0; i < pages->changed_count; i++) {
        struct dq_changed_page *note = &pages->changed[i];
        if (note->number <= pages->new_page_count) {
            pages->state ^= pages->hashes[note->number - 1] ^ note->hash;
            pages->hashes[note->number - 1] = note->hash;
        }
    }
    for (uint32_t number = pages->new_page_count + 1; number <= pages->page_count; number++) {
        pages->state ^= pages->hashes[number - 1];
        pages->hashes[number - 1] = 0;
    }
    pages->page_count = pages->new_page_count;
    dq_pages_discard(pages);
}

void dq_pages_discard(struct dq_pages *pages) {
    pages->changed_count = 0;
    pages->new_page_count = 0;
}
