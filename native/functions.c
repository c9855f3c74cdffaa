#include "functions.h"

#include <string.h>

static uint64_t rotate_left(uint64_t value, unsigned bits) {
    return value << bits | value >> (64 - bits);
}

static uint64_t split_mix(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t load_le64(const uint8_t *at) {
    uint64_t value = 0;
    for (unsigned i = 0; i < 8; i++) {
        value |= (uint64_t)at[i] << (8 * i);
    }
    return value;
}

static void seed_generator(struct dq_functions *functions) {
    uint64_t low = load_le64(functions->seed) + (uint64_t)functions->position * 0xd1342543de82ef95u;
    uint64_t high = load_le64(functions->seed + 8) ^ functions->position;
    for (int i = 0; i < 4; i++) {
        functions->random_state[i] = split_mix(&low) ^ split_mix(&high);
    }
    functions->random_state[0] |= 1; /* never all zero */
    functions->is_seeded = true;
}

/* xoshiro256** (Blackman, Vigna; public domain). */
static uint64_t next_random(struct dq_functions *functions) {
    if (!functions->is_seeded) {
        seed_generator(functions);
    }
    uint64_t *s = functions->random_state;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9, shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotate_left(s[3], 45);
    return result;
}

void dq_functions_begin_unit(struct dq_functions *functions, const uint8_t seed[16], uint32_t position) {
    functions->seed = seed;
    functions->position = position;
    functions->is_seeded = false;
}

void dq_functions_start_total(struct dq_functions *functions) {
    functions->total_changes_start = sqlite3_total_changes64(functions->db);
}

static void sql_random(sqlite3_context *context, int count, sqlite3_value **values) {
    (void)count;
    (void)values;
    int64_t value = (int64_t)next_random(sqlite3_user_data(context));
    if (value < 0) {
        value = -(value & INT64_MAX); /* as SQLite does: abs() of it never overflows */
    }
    sqlite3_result_int64(context, value);
}

static void sql_randomblob(sqlite3_context *context, int count, sqlite3_value **values) {
    (void)count;
    struct dq_functions *functions = sqlite3_user_data(context);
    int64_t size = sqlite3_value_int64(values[0]);
    if (size < 1) {
        size = 1;
    }
    if (size > sqlite3_limit(functions->db, SQLITE_LIMIT_LENGTH, -1)) {
        sqlite3_result_error_toobig(context);
        return;
    }
    uint8_t *bytes = sqlite3_malloc64((sqlite3_uint64)size);
    if (bytes == NULL) {
        sqlite3_result_error_nomem(context);
        return;
    }
    for (int64_t i = 0; i < size; i += 8) {
        uint64_t word = next_random(functions);
        for (int64_t k = i; k < size && k < i + 8; k++, word >>= 8) {
            bytes[k] = (uint8_t)word;
        }
    }
    sqlite3_result_blob64(context, bytes, (sqlite3_uint64)size, sqlite3_free);
}

static void sql_total_changes(sqlite3_context *context, int count, sqlite3_value **values) {
    (void)count;
    (void)values;
    struct dq_functions *functions = sqlite3_user_data(context);
    sqlite3_result_int64(context, sqlite3_total_changes64(functions->db) - functions->total_changes_start);
}

int dq_functions_install(struct dq_functions *functions, sqlite3 *db) {
    int flags = SQLITE_UTF8 | SQLITE_INNOCUOUS; /* usable in triggers and defaults, as the built-in ones */
    functions->db = db;
    int code = sqlite3_create_function_v2(db, "random", 0, flags, functions, sql_random, NULL, NULL, NULL);
    if (code == SQLITE_OK) {
        code = sqlite3_create_function_v2(db, "randomblob", 1, flags, functions, sql_randomblob, NULL, NULL, NULL);
    }
    if (code == SQLITE_OK) {
        code = sqlite3_create_function_v2(db, "total_changes", 0, flags, functions, sql_total_changes, NULL, NULL, NULL);
    }
    return code;
}

void dq_functions_remove(sqlite3 *db) {
    sqlite3_create_function_v2(db, "random", 0, SQLITE_UTF8, NULL, NULL, NULL, NULL, NULL);
    sqlite3_create_function_v2(db, "randomblob", 1, SQLITE_UTF8, NULL, NULL, NULL, NULL, NULL);
    sqlite3_create_function_v2(db, "total_changes", 0, SQLITE_UTF8, NULL, NULL, NULL, NULL, NULL);
}
