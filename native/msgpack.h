/* msgpack: a bounds-checked item reader without recursion, and a growing writer. */
#ifndef DQ_MSGPACK_H
#define DQ_MSGPACK_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dq_type {
    DQ_NIL,
    DQ_BOOL,
    DQ_INT,
    DQ_BIG_UINT, /* above INT64_MAX: fits no SQL integer */
    DQ_FLOAT,
    DQ_TEXT,
    DQ_BLOB,
    DQ_ARRAY,
    DQ_MAP,
    DQ_EXT,
};

struct dq_item {
    enum dq_type type;
    uint32_t size; /* bytes of TEXT, BLOB, EXT; items of ARRAY, pairs of MAP */
    union {
        int64_t integer;
        double real;
        const uint8_t *bytes; /* points into the reader's buffer */
    } as;
};

struct dq_reader {
    const uint8_t *at;
    const uint8_t *end;
};

/* The rest of an item whose first byte is `mark`, from 0xc0 to 0xdf. */
bool dq_read_marked(struct dq_reader *reader, struct dq_item *item, uint8_t mark);

static inline bool dq_read_bytes(struct dq_reader *reader, struct dq_item *item, enum dq_type type, uint64_t size) {
    item->type = type;
    item->size = (uint32_t)size;
    item->as.bytes = reader->at;
    if ((size_t)(reader->end - reader->at) < size) {
        return false;
    }
    reader->at += size;
    return true;
}

/* Read one item (for containers: the header only); false at the end of the buffer or on an invalid byte. In the
 * header, because most items of a payload are of the short forms. */
static inline bool dq_read(struct dq_reader *reader, struct dq_item *item) {
    if (reader->at == reader->end) {
        return false;
    }
    uint8_t mark = *reader->at++;
    item->size = 0;
    if (mark < 0x80 || mark >= 0xe0) {
        item->type = DQ_INT;
        item->as.integer = (int8_t)mark;
        return true;
    }
    if (mark < 0xa0) {
        item->type = mark < 0x90 ? DQ_MAP : DQ_ARRAY;
        item->size = mark & 0x0f;
        return true;
    }
    if (mark < 0xc0) {
        return dq_read_bytes(reader, item, DQ_TEXT, mark & 0x1f);
    }
    if ((mark == 0xc4 || mark == 0xd9) && reader->at < reader->end) {
        uint8_t size = *reader->at++;
        return dq_read_bytes(reader, item, mark == 0xc4 ? DQ_BLOB : DQ_TEXT, size);
    }
    return dq_read_marked(reader, item, mark);
}

/* Output. A failed allocation sets `failed`; later writes do nothing. With `discard` nothing is stored at all. */
struct dq_buffer {
    uint8_t *data;
    size_t size;
    size_t capacity;
    bool failed;
    bool discard;
};

void dq_buffer_free(struct dq_buffer *buffer);
void dq_put_nil(struct dq_buffer *buffer);
void dq_put_int(struct dq_buffer *buffer, int64_t value);
void dq_put_float(struct dq_buffer *buffer, double value);
void dq_put_text(struct dq_buffer *buffer, const void *text, uint32_t size);
void dq_put_blob(struct dq_buffer *buffer, const void *bytes, uint32_t size);
void dq_put_array(struct dq_buffer *buffer, uint32_t count);
/* Append msgpack that is ready as it is. */
void dq_put_raw(struct dq_buffer *buffer, const void *bytes, size_t size);
/* Store 8 bytes, most significant first. */
static inline void dq_store_be64(uint8_t *at, uint64_t value) {
    value = htobe64(value);
    memcpy(at, &value, sizeof value);
}

#define DQ_INT_BYTES_MAX 9

/* Store an integer in the form that dq_put_int gives it; returns its size. */
static inline size_t dq_store_int(uint8_t *at, int64_t value) {
    uint64_t bits = (uint64_t)value;
    if (value >= -32 && value < 128) {
        at[0] = (uint8_t)bits;
        return 1;
    }
    if (value < 0 || value > UINT32_MAX) {
        at[0] = value < 0 ? 0xd3 : 0xcf;
        dq_store_be64(at + 1, bits);
        return 9;
    }
    unsigned width = value <= UINT8_MAX ? 1 : value <= UINT16_MAX ? 2 : 4;
    at[0] = width == 1 ? 0xcc : width == 2 ? 0xcd : 0xce;
    uint32_t ordered = htobe32((uint32_t)bits);
    memcpy(at + 1, (const uint8_t *)&ordered + 4 - width, width);
    return 1 + width;
}

/* An array whose length is known only later: returns the place to pass to dq_set_array. */
size_t dq_put_open_array(struct dq_buffer *buffer);
void dq_set_array(struct dq_buffer *buffer, size_t place, uint32_t count);
/* The same for an integer. */
size_t dq_put_open_int(struct dq_buffer *buffer);
void dq_set_int(struct dq_buffer *buffer, size_t place, int64_t value);

#endif
