/* Journal groups: heads and padding are laid out here, payloads are written from where Python keeps them. */
#include "journal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "crc32c.h"

#define GROUP_HEADER 40
#define RECORD_HEADER 32
#define ALIGNMENT 8
#define DATA_GROUP 1
#define ENTRY_RECORD 1
#define TRUNCATE_RECORD 2
#define PARTS_AT_ONCE 1024 /* IOV_MAX of Linux */
#define ENTRIES_ON_STACK 8

typedef struct {
    uint64_t sequence;
    uint64_t offset;
    uint32_t salt;
    uint64_t truncate_from;
    uint64_t first;
    uint32_t count;
    const uint64_t *terms;
    const uint8_t *kinds;
    const uint32_t *sizes;
    const uint8_t *const *payloads;
} group;

/* What a group of `count` entries takes: between two payloads lies one run of padding and the next head. */
#define PARTS(count) (2 * (size_t)(count) + 1)
#define HEADS(count) (GROUP_HEADER + RECORD_HEADER + (size_t)(count) * (RECORD_HEADER + ALIGNMENT))

static void put32(uint8_t *at, uint32_t value) {
    for (int byte = 0; byte < 4; byte++) {
        at[byte] = (uint8_t)(value >> 8 * byte);
    }
}

static void put64(uint8_t *at, uint64_t value) {
    put32(at, (uint32_t)value);
    put32(at + 4, (uint32_t)(value >> 32));
}

static void put_record(uint8_t *at, const group *of, uint8_t type, uint8_t kind, uint32_t size, uint64_t term,
                       uint64_t index) {
    put32(at + 4, size);
    at[8] = type;
    at[9] = kind;
    at[10] = at[11] = 0;
    put32(at + 12, (uint32_t)of->sequence);
    put64(at + 16, term);
    put64(at + 24, index);
    put32(at, dq_crc32c(of->salt, at + 4, RECORD_HEADER - 4));
}

static void put_group(uint8_t *at, const group *of, uint64_t body, uint32_t records) {
    memcpy(at, "DQG\1", 4);
    put64(at + 8, of->sequence);
    put64(at + 16, of->offset);
    put64(at + 24, body);
    put32(at + 32, records);
    put32(at + 36, DATA_GROUP);
    put32(at + 4, dq_crc32c(of->salt, at + 8, GROUP_HEADER - 8));
}

/* Lay the group out as PARTS pieces; `heads` has room for HEADS bytes. The pieces' sum. */
static uint64_t lay_out(const group *of, uint8_t *heads, struct iovec *parts) {
    uint8_t *start = heads, *at = heads + GROUP_HEADER;
    uint64_t body = 0;
    if (of->truncate_from) {
        put_record(at, of, TRUNCATE_RECORD, 0, 0, 0, of->truncate_from);
        at += RECORD_HEADER;
        body += RECORD_HEADER;
    }
    for (uint32_t i = 0; i < of->count; i++) {
        uint32_t size = of->sizes[i], padding = (0u - size) % ALIGNMENT;
        uint8_t *head = at;
        put_record(head, of, ENTRY_RECORD, of->kinds[i], size, of->terms[i], of->first + i);
        at += RECORD_HEADER;
        *parts++ = (struct iovec){start, (size_t)(at - start)};
        *parts++ = (struct iovec){(void *)(uintptr_t)of->payloads[i], size};
        start = at;
        memset(at, 0, padding);
        uint32_t crc = dq_crc32c(of->salt, head + 4, RECORD_HEADER - 4);
        crc = dq_crc32c(crc, of->payloads[i], size);
        put32(head, dq_crc32c(crc, at, padding));
        at += padding;
        body += RECORD_HEADER + (uint64_t)size + padding;
    }
    *parts = (struct iovec){start, (size_t)(at - start)};
    put_group(heads, of, body, of->count + (of->truncate_from != 0));
    return GROUP_HEADER + body;
}

static int write_parts(int fd, struct iovec *part, size_t count, off_t at) {
    while (count) {
        ssize_t done = pwritev(fd, part, (int)(count < PARTS_AT_ONCE ? count : PARTS_AT_ONCE), at);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return errno;
        }
        at += done;
        size_t left = (size_t)done;
        for (; count && left >= part->iov_len; part++, count--) {
            left -= part->iov_len;
        }
        if (count) {
            part->iov_base = (uint8_t *)part->iov_base + left;
            part->iov_len -= left;
            if (!done) {
                return EIO; /* a write that makes no progress */
            }
        }
    }
    return 0;
}

static int sync_data(int fd) {
    while (fdatasync(fd)) {
        if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

static void gather(uint8_t *target, const struct iovec *parts, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (parts[i].iov_len) {
            memcpy(target, parts[i].iov_base, parts[i].iov_len);
            target += parts[i].iov_len;
        }
    }
}

/* Into `target`, unless that is NULL: then to the file. */
static int put(const group *of, uint8_t *target, size_t size, int fd) {
    struct iovec few_parts[PARTS(ENTRIES_ON_STACK)], *parts = few_parts;
    uint8_t few_heads[HEADS(ENTRIES_ON_STACK)], *heads = few_heads;
    void *many = NULL;
    size_t count = PARTS(of->count);
    if (of->count > ENTRIES_ON_STACK) {
        many = malloc(count * sizeof *parts + HEADS(of->count));
        if (!many) {
            return ENOMEM;
        }
        parts = many;
        heads = (uint8_t *)(parts + count);
    }
    uint64_t total = lay_out(of, heads, parts);
    int error = 0;
    if (!target) {
        error = write_parts(fd, parts, count, (off_t)of->offset);
        error = error ? error : sync_data(fd);
    } else if (total != size) {
        error = EOVERFLOW;
    } else {
        gather(target, parts, count);
    }
    free(many);
    return error;
}

int dq_group_build(uint8_t *target, size_t size, uint64_t sequence, uint64_t offset, uint32_t salt,
                   uint64_t truncate_from, uint64_t first, uint32_t count, const uint64_t *terms, const uint8_t *kinds,
                   const uint32_t *sizes, const uint8_t *const *payloads) {
    group of = {sequence, offset, salt, truncate_from, first, count, terms, kinds, sizes, payloads};
    return put(&of, target, size, -1);
}

int dq_group_write(int fd, uint64_t sequence, uint64_t offset, uint32_t salt, uint64_t truncate_from, uint64_t first,
                   uint32_t count, const uint64_t *terms, const uint8_t *kinds, const uint32_t *sizes,
                   const uint8_t *const *payloads) {
    group of = {sequence, offset, salt, truncate_from, first, count, terms, kinds, sizes, payloads};
    return put(&of, NULL, 0, fd);
}
