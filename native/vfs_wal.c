/* WAL writes of the watched connection (file format: sqlite.org/walformat.html).
 *
 * With cache_spill off and synchronous=NORMAL SQLite writes a transaction's frames once, in order, at commit:
 * per frame a 24-byte header, then the page. Anything else is refused with an I/O error, because the state hash
 * could not follow it.
 */
#include <stdlib.h>
#include <string.h>

#include "vfs_file.h"

#define WAL_HEADER_BYTES 32
#define FRAME_HEADER_BYTES 24

static uint32_t be32(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | (uint32_t)at[3];
}

static int write_through(struct dq_file *wal, const uint8_t *data, size_t size, sqlite3_int64 offset) {
    while (size > 0) {
        size_t piece = size < DQ_WAL_JOIN_BYTES ? size : DQ_WAL_JOIN_BYTES;
        int code = wal->real->pMethods->xWrite(wal->real, data, (int)piece, offset);
        if (code != SQLITE_OK) {
            return code;
        }
        data += piece;
        size -= piece;
        offset += (sqlite3_int64)piece;
    }
    return SQLITE_OK;
}

int dq_wal_flush(struct dq_file *wal) {
    if (wal->joined_size == 0) {
        return SQLITE_OK;
    }
    size_t size = wal->joined_size;
    wal->joined_size = 0; /* after an error SQLite gives the whole transaction up */
    return write_through(wal, wal->joined, size, wal->joined_offset);
}

void dq_wal_discard(struct dq_file *wal) {
    wal->joined_size = 0;
    wal->in_frame = false;
    wal->next_frame_offset = 0;
}

void dq_wal_free(struct dq_file *wal) {
    free(wal->joined);
    wal->joined = NULL;
}

static int join(struct dq_file *wal, const uint8_t *data, size_t size, sqlite3_int64 offset) {
    if (wal->joined == NULL) {
        wal->joined = malloc(DQ_WAL_JOIN_BYTES);
        if (wal->joined == NULL) {
            return SQLITE_IOERR_NOMEM;
        }
    }
    bool follows = offset == wal->joined_offset + (sqlite3_int64)wal->joined_size;
    if (!follows || wal->joined_size + size > DQ_WAL_JOIN_BYTES) {
        int code = dq_wal_flush(wal);
        if (code != SQLITE_OK) {
            return code;
        }
    }
    if (size > DQ_WAL_JOIN_BYTES) {
        return write_through(wal, data, size, offset);
    }
    if (wal->joined_size == 0) {
        wal->joined_offset = offset;
    }
    memcpy(wal->joined + wal->joined_size, data, size);
    wal->joined_size += size;
    return SQLITE_OK;
}

static int write_wal_header(struct dq_file *wal, struct dq_watch *watch, const uint8_t *data, int size) {
    int code = dq_wal_flush(wal);
    wal->in_frame = false;
    wal->next_frame_offset = 0;
    if (code == SQLITE_OK) {
        watch->wal_generation++;
        watch->wal_frames = 0;
        code = write_through(wal, data, (size_t)size, 0);
    }
    return code;
}

static int write_frame_header(struct dq_file *wal, const uint8_t *data, sqlite3_int64 offset) {
    wal->in_frame = true;
    wal->frame_offset = offset;
    wal->frame_page = be32(data);
    wal->frame_commit_pages = be32(data + 4);
    return join(wal, data, FRAME_HEADER_BYTES, offset);
}

static int write_frame_page(struct dq_file *wal, struct dq_watch *watch, const uint8_t *data, sqlite3_int64 offset) {
    uint32_t page_size = watch->pages.page_size;
    wal->in_frame = false;
    wal->next_frame_offset = offset + page_size;
    if (!dq_pages_note(&watch->pages, wal->frame_page, data, wal->frame_commit_pages)) {
        return SQLITE_IOERR_NOMEM;
    }
    int code = join(wal, data, page_size, offset);
    if (code == SQLITE_OK && wal->frame_commit_pages != 0) {
        code = dq_wal_flush(wal); /* BEFORE the frame becomes visible in the WAL index */
        watch->wal_frames = (uint64_t)(offset - WAL_HEADER_BYTES) / (page_size + FRAME_HEADER_BYTES) + 1;
    }
    return code;
}

int dq_wal_write(struct dq_file *wal, struct dq_watch *watch, const uint8_t *data, int size, sqlite3_int64 offset) {
    uint32_t page_size = watch->pages.page_size;
    if (offset == 0 && size == WAL_HEADER_BYTES) {
        return write_wal_header(wal, watch, data, size);
    }
    if (offset >= WAL_HEADER_BYTES) {
        sqlite3_int64 within = (offset - WAL_HEADER_BYTES) % (page_size + FRAME_HEADER_BYTES);
        bool follows = wal->next_frame_offset == 0 || offset == wal->next_frame_offset;
        if (within == 0 && size == FRAME_HEADER_BYTES && follows) {
            return write_frame_header(wal, data, offset);
        }
        bool expected = wal->in_frame && offset == wal->frame_offset + FRAME_HEADER_BYTES;
        if (expected && (uint32_t)size == page_size) {
            return write_frame_page(wal, watch, data, offset);
        }
    }
    watch->refused = true;
    return SQLITE_IOERR_WRITE;
}
