/* Growing arrays with checked sizes. */
#ifndef DQ_MEMORY_H
#define DQ_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

/* Make *array hold at least `needed` items; false when memory is short (the old array stays valid and owned). */
bool dq_grow(void **array, size_t *capacity, size_t needed, size_t item_size);

#endif
