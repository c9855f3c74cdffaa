#include "msgpack.h"

#include <stdlib.h>
#include <string.h>

#include "memory.h"

/* -- reading ------------------------------------------------------------------------------------------ */

static bool take(struct dq_reader *reader, size_t size, const uint8_t **bytes) {
    if ((size_t)(reader->end - reader->at) < size) {
        return false;
    }
    *bytes = reader->at;
    reader->at += size;
    return true;
}

static bool take_be(struct dq_reader *reader, unsigned size, uint64_t *value) {
    const uint8_t *bytes;
    if (!take(reader, size, &bytes)) {
        return false;
    }
    *value = 0;
    for (unsigned i = 0; i < size; i++) {
        *value = *value << 8 | bytes[i];
    }
    return true;
}

static bool take_sized(struct dq_reader *reader, struct dq_item *item, enum dq_type type, unsigned width) {
    uint64_t size;
    return take_be(reader, width, &size) && dq_read_bytes(reader, item, type, size);
}

static bool take_ext(struct dq_reader *reader, struct dq_item *item, unsigned width) {
    uint64_t size;
    return take_be(reader, width, &size) && dq_read_bytes(reader, item, DQ_EXT, size + 1);
}

static bool take_count(struct dq_reader *reader, struct dq_item *item, enum dq_type type, unsigned width) {
    uint64_t count;
    if (!take_be(reader, width, &count)) {
        return false;
    }
    item->type = type;
    item->size = (uint32_t)count;
    return true;
}

static bool take_unsigned(struct dq_reader *reader, struct dq_item *item, unsigned width) {
    uint64_t value;
    if (!take_be(reader, width, &value)) {
        return false;
    }
    item->type = value > INT64_MAX ? DQ_BIG_UINT : DQ_INT;
    item->as.integer = value > INT64_MAX ? INT64_MAX : (int64_t)value;
    return true;
}

static bool take_signed(struct dq_reader *reader, struct dq_item *item, unsigned width) {
    uint64_t value;
    if (!take_be(reader, width, &value)) {
        return false;
    }
    unsigned shift = 64 - 8 * width;
    item->type = DQ_INT;
    item->as.integer = (int64_t)(value << shift) >> shift;
    return true;
}

static bool take_float(struct dq_reader *reader, struct dq_item *item, unsigned width) {
    uint64_t bits;
    if (!take_be(reader, width, &bits)) {
        return false;
    }
    item->type = DQ_FLOAT;
    if (width == 4) {
        uint32_t half = (uint32_t)bits;
        float value;
        memcpy(&value, &half, sizeof value);
        item->as.real = value;
    } else {
        memcpy(&item->as.real, &bits, sizeof item->as.real);
    }
    return true;
}

bool dq_read_marked(struct dq_reader *reader, struct dq_item *item, uint8_t mark) {
    switch (mark) {
    case 0xc0: item->type = DQ_NIL; return true;
    case 0xc2: case 0xc3: item->type = DQ_BOOL; item->as.integer = mark & 1; return true;
    case 0xc4: case 0xc5: case 0xc6: return take_sized(reader, item, DQ_BLOB, 1u << (mark - 0xc4));
    case 0xc7: case 0xc8: case 0xc9: return take_ext(reader, item, 1u << (mark - 0xc7));
    case 0xca: return take_float(reader, item, 4);
    case 0xcb: return take_float(reader, item, 8);
    case 0xcc: case 0xcd: case 0xce: case 0xcf: return take_unsigned(reader, item, 1u << (mark - 0xcc));
    case 0xd0: case 0xd1: case 0xd2: case 0xd3: return take_signed(reader, item, 1u << (mark - 0xd0));
    case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8:
        return dq_read_bytes(reader, item, DQ_EXT, (1u << (mark - 0xd4)) + 1);
    case 0xd9: case 0xda: case 0xdb: return take_sized(reader, item, DQ_TEXT, 1u << (mark - 0xd9));
    case 0xdc: return take_count(reader, item, DQ_ARRAY, 2);
    case 0xdd: return take_count(reader, item, DQ_ARRAY, 4);
    case 0xde: return take_count(reader, item, DQ_MAP, 2);
    case 0xdf: return take_count(reader, item, DQ_MAP, 4);
    default: return false; /* 0xc1 */
    }
}

/* -- writing ------------------------------------------------------------------------------------------ */

void dq_buffer_free(struct dq_buffer *buffer) {
    free(buffer->data);
    memset(buffer, 0, sizeof *buffer);
}

/* Room for `size` more bytes, or NULL when nothing is to be stored. */
static uint8_t *room(struct dq_buffer *buffer, size_t size) {
    if (buffer->discard || buffer->failed) {
        return NULL;
    }
    void *data = buffer->data;
    if (size > SIZE_MAX - buffer->size || !dq_grow(&data, &buffer->capacity, buffer->size + size, 1)) {
        buffer->failed = true;
        return NULL;
    }
    buffer->data = data;
    uint8_t *at = buffer->data + buffer->size;
    buffer->size += size;
    return at;
}

static void put_marked(struct dq_buffer *buffer, uint8_t mark, uint64_t value, unsigned width) {
    uint8_t *at = room(buffer, 1 + width);
    if (at != NULL) {
        at[0] = mark;
        for (unsigned i = 0; i < width; i++) {
            at[1 + i] = (uint8_t)(value >> (8 * (width - 1 - i)));
        }
    }
}

void dq_put_raw(struct dq_buffer *buffer, const void *bytes, size_t size) {
    uint8_t *at = room(buffer, size);
    if (at != NULL && size > 0) {
        memcpy(at, bytes, size);
    }
}

void dq_put_nil(struct dq_buffer *buffer) {
    put_marked(buffer, 0xc0, 0, 0);
}

void dq_put_int(struct dq_buffer *buffer, int64_t value) {
    uint8_t bytes[DQ_INT_BYTES_MAX];
    dq_put_raw(buffer, bytes, dq_store_int(bytes, value));
}

void dq_put_float(struct dq_buffer *buffer, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_marked(buffer, 0xcb, bits, 8);
}

static void put_size(struct dq_buffer *buffer, uint8_t mark8, uint32_t size) {
    if (size <= UINT8_MAX) {
        put_marked(buffer, mark8, size, 1);
    } else if (size <= UINT16_MAX) {
        put_marked(buffer, (uint8_t)(mark8 + 1), size, 2);
    } else {
        put_marked(buffer, (uint8_t)(mark8 + 2), size, 4);
    }
}

void dq_put_text(struct dq_buffer *buffer, const void *text, uint32_t size) {
    if (size < 32) {
        put_marked(buffer, (uint8_t)(0xa0 | size), 0, 0);
    } else {
        put_size(buffer, 0xd9, size);
    }
    dq_put_raw(buffer, text, size);
}

void dq_put_blob(struct dq_buffer *buffer, const void *bytes, uint32_t size) {
    put_size(buffer, 0xc4, size);
    dq_put_raw(buffer, bytes, size);
}

void dq_put_array(struct dq_buffer *buffer, uint32_t count) {
    if (count < 16) {
        put_marked(buffer, (uint8_t)(0x90 | count), 0, 0);
    } else if (count <= UINT16_MAX) {
        put_marked(buffer, 0xdc, count, 2);
    } else {
        put_marked(buffer, 0xdd, count, 4);
    }
}

static void set_be(struct dq_buffer *buffer, size_t place, uint64_t value, unsigned width) {
    if (buffer->discard || buffer->failed) {
        return;
    }
    for (unsigned i = 0; i < width; i++) {
        buffer->data[place + 1 + i] = (uint8_t)(value >> (8 * (width - 1 - i)));
    }
}

size_t dq_put_open_array(struct dq_buffer *buffer) {
    size_t place = buffer->size;
    put_marked(buffer, 0xdd, 0, 4);
    return place;
}

void dq_set_array(struct dq_buffer *buffer, size_t place, uint32_t count) {
    set_be(buffer, place, count, 4);
}

size_t dq_put_open_int(struct dq_buffer *buffer) {
    size_t place = buffer->size;
    put_marked(buffer, 0xd3, 0, 8);
    return place;
}

void dq_set_int(struct dq_buffer *buffer, size_t place, int64_t value) {
    set_be(buffer, place, (uint64_t)value, 8);
}
