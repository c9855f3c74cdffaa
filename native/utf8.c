#include "utf8.h"

#include <endian.h>
#include <string.h>

/* Length of the valid sequence at text[0..size), 0 when it is not valid. */
static size_t sequence_length(const uint8_t *text, size_t size) {
    uint8_t lead = text[0];
    if (lead < 0x80) {
        return 1;
    }
    size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || size < length) {
        return 0;
    }
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (lead == 0xe0 && text[1] < 0xa0) || (lead == 0xf0 && text[1] < 0x90);
    bool surrogate = lead == 0xed && text[1] >= 0xa0;
    bool too_large = lead == 0xf4 && text[1] >= 0x90;
    return overlong || surrogate || too_large ? 0 : length;
}

bool dq_utf8_valid(const uint8_t *text, size_t size) {
    size_t i = 0;
    while (i < size) {
        uint64_t word, words[4];
        if (size - i >= 32) {
            memcpy(words, text + i, sizeof words);
            if (((words[0] | words[1] | words[2] | words[3]) & 0x8080808080808080u) == 0) {
                i += 32;
                continue;
            }
        }
        if (size - i >= 8 && (memcpy(&word, text + i, 8), (word & 0x8080808080808080u) == 0)) {
            i += 8;
            continue;
        }
        if (size - i < 8 && size >= 8) { /* the last bytes, with some before them */
            memcpy(&word, text + size - 8, 8);
            if ((le64toh(word) >> (8 * (8 - (size - i))) & 0x8080808080808080u) == 0) {
                return true;
            }
        }
        size_t length = sequence_length(text + i, size - i);
        if (length == 0) {
            return false;
        }
        i += length;
    }
    return true;
}

void dq_utf8_copy(char *target, size_t capacity, const char *text) {
    size_t size = strlen(text), used = 0;
    for (size_t i = 0; i < size;) {
        size_t length = sequence_length((const uint8_t *)text + i, size - i);
        size_t taken = length ? length : 1;
        if (used + taken >= capacity) {
            break;
        }
        if (length) {
            memcpy(target + used, text + i, length);
        } else {
            target[used] = '?';
        }
        used += taken;
        i += taken;
    }
    target[used] = '\0';
}
