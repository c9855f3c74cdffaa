#include "memory.h"

#include <stdint.h>
#include <stdlib.h>

bool dq_grow_now(void **array, size_t *capacity, size_t needed, size_t item_size) {
    size_t wanted = *capacity ? *capacity : 64;
    while (wanted < needed) {
        if (wanted > SIZE_MAX / 2) {
            return false;
        }
        wanted *= 2;
    }
    if (wanted > SIZE_MAX / item_size) {
        return false;
    }
    void *grown = realloc(*array, wanted * item_size);
    if (grown == NULL) {
        return false;
    }
    *array = grown;
    *capacity = wanted;
    return true;
}
