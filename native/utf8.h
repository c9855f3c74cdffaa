/* UTF-8 as Python's strict decoder understands it: no surrogates, no overlong forms, at most U+10FFFF. */
#ifndef DQ_UTF8_H
#define DQ_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool dq_utf8_valid(const uint8_t *text, size_t size);

/* Copy `text` (NUL-terminated) as valid UTF-8 into target[capacity]: bad bytes become '?', the end is cut. */
void dq_utf8_copy(char *target, size_t capacity, const char *text);

#endif
