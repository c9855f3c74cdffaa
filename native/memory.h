/* Growing arrays with checked sizes. */
#ifndef DQ_MEMORY_H
#define DQ_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

bool dq_grow_now(void **array, size_t *capacity, size_t needed, size_t item_size);

/* Make *array hold at least `needed` items; false when memory is short (the old array stays valid and owned). */
static inline bool dq_grow(void **array, size_t *capacity, size_t needed, size_t item_size) {
    return needed <= *capacity || dq_grow_now(array, capacity, needed, item_size);
}

#endif
