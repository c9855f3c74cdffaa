"""Describe the extension dqlite_py._native to cffi (API mode); setup.py names `ffibuilder`.

Run by the build only. The same shared object is a SQLite loadable extension: native/README.md.
"""

from __future__ import annotations

import os

import cffi

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)

SOURCES = [
    "apply.c",
    "body.c",
    "bootstrap.c",
    "crc32c.c",
    "engine.c",
    "functions.c",
    "gate.c",
    "group.c",
    "guard.c",
    "inspect.c",
    "journal.c",
    "live.c",
    "memory.c",
    "msgpack.c",
    "page_hash.c",
    "payload.c",
    "run_statement.c",
    "session_load.c",
    "session_rows.c",
    "session_table.c",
    "sessions.c",
    "sql_text.c",
    "statements.c",
    "utf8.c",
    "vfs.c",
    "vfs_wal.c",
    "xxh3.c",
    "xxh3_avx2.c",
]

CDEF = """
uint32_t dq_crc32c(uint32_t seed, const uint8_t *data, size_t size);
uint32_t dq_crc32c_portable(uint32_t seed, const uint8_t *data, size_t size);

int dq_have_gates(void);
void dq_gate_open(int32_t *gate);
int dq_gate_wait(int32_t *own, int32_t *other, int64_t timeout_us);

#define DQ_APPLIED 0
#define DQ_FORMAT 1
#define DQ_VERSION 2
#define DQ_ENVIRONMENT 3

typedef struct dq_engine dq_engine;
typedef struct {
    int code;
    int system_errno;
    const char *message;
    const uint8_t *results;
    size_t results_size;
    uint64_t state_hash;
    uint64_t wal_frames;
    uint64_t wal_generation;
    uint32_t page_count;
    uint32_t passes;
} dq_outcome;

int dq_ready(void);
dq_engine *dq_engine_open(uintptr_t handle, uint32_t statements_max, uint64_t results_max, dq_outcome *outcome);
int dq_engine_scan(dq_engine *engine, dq_outcome *outcome);
void dq_engine_close(dq_engine *engine);
typedef void (*dq_hook)(void *context);
void dq_engine_before_commit(dq_engine *engine, dq_hook hook, void *context);
int dq_engine_is_followed(const dq_engine *engine);
uint32_t dq_engine_drops(const dq_engine *engine);
extern "Python" void dq_call_before_commit(void *context);
int dq_apply(dq_engine *engine, const uint8_t *payload, size_t size, int64_t index, int want_results,
             dq_outcome *outcome);

typedef struct {
    int code;
    int is_open;
    int is_recorded;
    int has_written;
    const char *message;
    const uint8_t *results;
    size_t results_size;
    const uint8_t *decltypes;
    size_t decltypes_size;
    uint8_t digest[8];
} dq_live_outcome;

int dq_live_begin(dq_engine *engine, int64_t now_us, const uint8_t *seed, dq_live_outcome *outcome);
int dq_live_run(dq_engine *engine, const uint8_t *body, size_t size, int64_t timeout_us, const int32_t *flag,
                int (*look)(void), dq_live_outcome *outcome);
extern "Python" int dq_look_at_signals(void);
int dq_live_end(dq_engine *engine, dq_live_outcome *outcome);
int dq_live_has_open_foreign_keys(dq_engine *engine);
void dq_live_interrupt(int32_t *flag);

uint64_t dq_file_hash(const uint8_t *pages, size_t count, uint32_t page_size, uint32_t first_number);
int dq_file_size(uintptr_t handle, int which, int64_t *size);
int dq_file_read(uintptr_t handle, int which, int64_t offset, uint8_t *target, int size);
int dq_file_sync(uintptr_t handle, int which);
int dq_inspect(uintptr_t handle, const char *sql, size_t size, int *is_readonly, char *message);
int dq_refused(const char *sql, size_t size, char *message);

int dq_group_build(uint8_t *target, size_t size, uint64_t sequence, uint64_t offset, uint32_t salt,
                   uint64_t truncate_from, uint64_t first, uint32_t count, const uint64_t *terms, const uint8_t *kinds,
                   const uint32_t *sizes, const uint8_t *const *payloads);
int dq_group_write(int fd, uint64_t sequence, uint64_t offset, uint32_t salt, uint64_t truncate_from, uint64_t first,
                   uint32_t count, const uint64_t *terms, const uint8_t *kinds, const uint32_t *sizes,
                   const uint8_t *const *payloads);
"""

PREAMBLE = """
#include "crc32c.h"
#include "gate.h"
#include "journal.h"
#include "native.h"
"""


def _from_cwd(name: str) -> str:
    """setuptools wants sources relative to the project root, where it runs."""
    return os.path.relpath(os.path.join(HERE, name), ROOT)


ffibuilder = cffi.FFI()
ffibuilder.cdef(CDEF)
ffibuilder.set_source(
    "dqlite_py._native",
    PREAMBLE,
    sources=[_from_cwd(name) for name in SOURCES],
    include_dirs=[_from_cwd("."), _from_cwd("vendor")],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-D_GNU_SOURCE"],
    extra_link_args=["-pthread"],
    py_limited_api=True,
)
