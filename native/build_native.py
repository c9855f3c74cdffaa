"""Describe the extension dqlite_py._native to cffi (API mode); setup.py names `ffibuilder`.

Run by the build only. The same shared object is a SQLite loadable extension: native/README.md.
"""

from __future__ import annotations

import os

import cffi

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)

SOURCES = ["crc32c.c"]

CDEF = """
uint32_t dq_crc32c(uint32_t seed, const uint8_t *data, size_t size);
uint32_t dq_crc32c_portable(uint32_t seed, const uint8_t *data, size_t size);
"""

PREAMBLE = """
#include "crc32c.h"
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
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter"],
    extra_link_args=["-pthread"],
    py_limited_api=True,
)
