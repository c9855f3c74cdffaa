"""The C part of the simulated disk: built when needed, loaded once, put under apsw's SQLite.

The shared object is compiled into build/simdisk/<hash of its sources>/ and moved there whole, so that two processes
may build at once. Knows nothing of what a disk is; disk.py gives the callbacks their meaning.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, Final

import apsw
import cffi
from cffi.recompiler import make_c_source

MODULE: Final = "_simdisk"
HERE: Final = Path(__file__).resolve().parent / "native"
ROOT: Final = HERE.parents[3]
BUILD: Final = ROOT / "build" / "simdisk"
SOURCES: Final = ("files.c", "power.c", "vfs.c")
HEADERS: Final = ("simdisk.h", "callbacks.h", "files.h")
FLAGS: Final = (
    "-std=c11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-D_GNU_SOURCE",
)

PREAMBLE: Final = '#include "callbacks.h"\n'
CDEF: Final = """
#define SD_CRASHED ...

typedef struct sd_machine {
    int id;
    int life;
    int is_dead;
    int64_t crash_after;
    double torn_at;
    int is_full;
    int64_t capacity_bytes;
    int64_t used_bytes;
    int64_t fail_syncs;
    int64_t operations;
    int64_t writes;
    int64_t written_bytes;
    int64_t syncs;
    int64_t failed_syncs;
    int64_t refused_full;
    int64_t sqlite_operations;
    ...;
} sd_machine;

typedef struct {
    int fd;
    int refs;
    int64_t size;
    size_t count;
    int has_doomed;
    ...;
} sd_file;

typedef struct {
    int64_t kept;
    int64_t lost;
    int64_t torn;
    int64_t sizes_lost;
} sd_losses;

sd_machine *sd_machine_new(int id, const char *folder);
void sd_machine_free(sd_machine *machine);
int sd_step(sd_machine *machine);
int sd_crash(sd_machine *machine);
sd_file *sd_file_new(sd_machine *machine);
void sd_file_free(sd_file *file);
int sd_file_open(sd_file *file, const char *path);
void sd_file_close(sd_file *file);
int64_t sd_write(sd_file *file, const char *data, int64_t size, int64_t offset);
int sd_truncate(sd_file *file, int64_t size);
int sd_sync(sd_file *file);
int sd_settle(sd_file *file, const char *path, uint64_t seed, sd_losses *losses);
int sd_vfs_is_installed(void);
void sd_vfs_seed(uint64_t seed);
void sd_vfs_set_time(int64_t unix_ms);

extern "Python+C" {
    void sd_py_crashed(int id);
    int sd_py_open(int id, const char *path, int create, int exclusive, sd_file **file);
    int sd_py_unlink(int id, const char *path);
    int sd_py_sync_folder(int id, const char *path);
}
"""


def _target() -> Path:
    digest = hashlib.sha256()
    for name in (*SOURCES, *HEADERS):
        digest.update((HERE / name).read_bytes())
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
    digest.update(repr((CDEF, FLAGS, suffix, cffi.__version__)).encode())
    return BUILD / digest.hexdigest()[:16] / (MODULE + suffix)


def build() -> Path:
    """Compile unless this version is there; returns the shared object. Raises RuntimeError with gcc's words."""
    target = _target()
    if target.exists():
        return target
    BUILD.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="making-", dir=BUILD))
    try:
        builder = cffi.FFI()
        builder.cdef(CDEF)
        make_c_source(builder, MODULE, PREAMBLE, str(folder / "module.c"), verbose=False)
        includes = [HERE, ROOT / "native" / "vendor", sysconfig.get_paths()["include"]]
        command = [
            os.environ.get("CC", "gcc"),
            *FLAGS,
            *(f"-I{include}" for include in includes),
            str(folder / "module.c"),
            *(str(HERE / name) for name in SOURCES),
            "-o",
            str(folder / target.name),
        ]
        if shutil.which(command[0]) is None:
            raise RuntimeError(f"the simulated disk needs the C compiler {command[0]}: install it, or set CC")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"the simulated disk does not compile: {' '.join(command)}\n{done.stderr}")
        try:
            folder.rename(target.parent)
        except OSError:
            if not target.exists():  # not another process that was faster
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return target


def _load() -> Any:
    path = build()
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    connection = apsw.Connection(":memory:")
    try:
        connection.enable_load_extension(True)
        connection.load_extension(str(path), "sqlite3_simdisk_init")
    finally:
        connection.close()
    if not module.lib.sd_vfs_is_installed():
        raise RuntimeError(f"{path} was loaded twice: SQLite does not see the simulated disk")
    return module


_module = _load()
ffi: Final[Any] = _module.ffi
lib: Final[Any] = _module.lib
