/* msgpack: a bounds-checked item reader without recursion, and a growing writer. */
#ifndef DQ_MSGPACK_H
#define DQ_MSGPACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

/* Read one item (for containers: the header only); false at the end of the buffer or on an invalid byte. */
bool dq_read(struct dq_reader *reader, struct dq_item *item);

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

/* An array whose length is known only later: returns the place to pass to dq_set_array. */
size_t dq_put_open_array(struct dq_buffer *buffer);
void dq_set_array(struct dq_buffer *buffer, size_t place, uint32_t count);
/* The same for an integer. */
size_t dq_put_open_int(struct dq_buffer *buffer);
void dq_set_int(struct dq_buffer *buffer, size_t place, int64_t value);

#endif
