/* Open files, and the VFS table. The WAL's write path is in vfs_wal.c. */
#include "vfs.h"

#include <string.h>
#include <time.h>

#include "vfs_file.h"

static sqlite3_vfs *base;
static sqlite3_vfs shim;

/* -- time --------------------------------------------------------------------------------------------- */

#define JULIAN_UNIX_EPOCH_MS 210866760000000LL /* 1970-01-01 in milliseconds of the julian day number */

static _Thread_local bool time_fixed;
static _Thread_local int64_t fixed_unix_ms;

void dq_vfs_fix_time(int64_t unix_ms) {
    time_fixed = true;
    fixed_unix_ms = unix_ms;
}

void dq_vfs_release_time(void) {
    time_fixed = false;
}

static int vfs_current_time_int64(sqlite3_vfs *vfs, sqlite3_int64 *julian_ms) {
    (void)vfs;
    if (!time_fixed) {
        return base->xCurrentTimeInt64(base, julian_ms);
    }
    *julian_ms = fixed_unix_ms + JULIAN_UNIX_EPOCH_MS;
    return SQLITE_OK;
}

static int vfs_current_time(sqlite3_vfs *vfs, double *julian_day) {
    sqlite3_int64 julian_ms = 0;
    int code = vfs_current_time_int64(vfs, &julian_ms);
    *julian_day = (double)julian_ms / 86400000.0;
    return code;
}

/* Installed process-wide in SQLite; other threads and connections see the real local time. */
static int local_time(const void *seconds, void *fields) {
    if (time_fixed) {
        return 1; /* SQL error "local time unavailable" */
    }
    return localtime_r((const time_t *)seconds, (struct tm *)fields) == NULL;
}

/* -- file methods: pass on, flushing joined frames first ------------------------------------------------- */

static sqlite3_file *real_of(sqlite3_file *file) {
    return ((struct dq_file *)file)->real;
}

static int file_close(sqlite3_file *file) {
    struct dq_file *self = (struct dq_file *)file;
    dq_wal_discard(self); /* frames without their commit frame are worth nothing */
    dq_wal_free(self);
    return self->real->pMethods ? self->real->pMethods->xClose(self->real) : SQLITE_OK;
}

static int file_read(sqlite3_file *file, void *target, int size, sqlite3_int64 offset) {
    int code = dq_wal_flush((struct dq_file *)file);
    return code ? code : real_of(file)->pMethods->xRead(real_of(file), target, size, offset);
}

static int file_write(sqlite3_file *file, const void *data, int size, sqlite3_int64 offset) {
    struct dq_file *self = (struct dq_file *)file;
    if (self->main != NULL && self->main->watch != NULL) {
        return dq_wal_write(self, self->main->watch, data, size, offset);
    }
    return self->real->pMethods->xWrite(self->real, data, size, offset);
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 size) {
    int code = dq_wal_flush((struct dq_file *)file);
    return code ? code : real_of(file)->pMethods->xTruncate(real_of(file), size);
}

static int file_sync(sqlite3_file *file, int flags) {
    int code = dq_wal_flush((struct dq_file *)file);
    return code ? code : real_of(file)->pMethods->xSync(real_of(file), flags);
}

static int file_size(sqlite3_file *file, sqlite3_int64 *size) {
    int code = dq_wal_flush((struct dq_file *)file);
    return code ? code : real_of(file)->pMethods->xFileSize(real_of(file), size);
}

static int file_lock(sqlite3_file *file, int level) {
    return real_of(file)->pMethods->xLock(real_of(file), level);
}

static int file_unlock(sqlite3_file *file, int level) {
    return real_of(file)->pMethods->xUnlock(real_of(file), level);
}

static int file_check_reserved(sqlite3_file *file, int *result) {
    return real_of(file)->pMethods->xCheckReservedLock(real_of(file), result);
}

static int file_control(sqlite3_file *file, int operation, void *argument) {
    return real_of(file)->pMethods->xFileControl(real_of(file), operation, argument);
}

static int file_sector_size(sqlite3_file *file) {
    return real_of(file)->pMethods->xSectorSize(real_of(file));
}

static int file_characteristics(sqlite3_file *file) {
    return real_of(file)->pMethods->xDeviceCharacteristics(real_of(file));
}

static int file_shm_map(sqlite3_file *file, int region, int size, int extend, void volatile **memory) {
    return real_of(file)->pMethods->xShmMap(real_of(file), region, size, extend, memory);
}

static int file_shm_lock(sqlite3_file *file, int offset, int count, int flags) {
    return real_of(file)->pMethods->xShmLock(real_of(file), offset, count, flags);
}

static void file_shm_barrier(sqlite3_file *file) {
    real_of(file)->pMethods->xShmBarrier(real_of(file));
}

static int file_shm_unmap(sqlite3_file *file, int remove) {
    return real_of(file)->pMethods->xShmUnmap(real_of(file), remove);
}

static int file_fetch(sqlite3_file *file, sqlite3_int64 offset, int size, void **page) {
    return real_of(file)->pMethods->xFetch(real_of(file), offset, size, page);
}

static int file_unfetch(sqlite3_file *file, sqlite3_int64 offset, void *page) {
    return real_of(file)->pMethods->xUnfetch(real_of(file), offset, page);
}

static const sqlite3_io_methods methods = {
    .iVersion = 3,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_check_reserved,
    .xFileControl = file_control,
    .xSectorSize = file_sector_size,
    .xDeviceCharacteristics = file_characteristics,
    .xShmMap = file_shm_map,
    .xShmLock = file_shm_lock,
    .xShmBarrier = file_shm_barrier,
    .xShmUnmap = file_shm_unmap,
    .xFetch = file_fetch,
    .xUnfetch = file_unfetch,
};

/* -- VFS methods ---------------------------------------------------------------------------------------- */

static int vfs_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *file, int flags, int *out_flags) {
    (void)vfs;
    struct dq_file *self = (struct dq_file *)file;
    memset(self, 0, sizeof *self);
    self->real = (sqlite3_file *)(self + 1);
    int code = base->xOpen(base, name, self->real, flags, out_flags);
    if (self->real->pMethods == NULL) {
        return code;
    }
    self->base.pMethods = &methods;
    if (flags & SQLITE_OPEN_WAL) {
        sqlite3_file *main = sqlite3_database_file_object(name);
        if (main != NULL && main->pMethods == &methods) {
            self->main = (struct dq_file *)main;
        }
    }
    return code;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_directory) {
    (void)vfs;
    return base->xDelete(base, name, sync_directory);
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *result) {
    (void)vfs;
    return base->xAccess(base, name, flags, result);
}

static int vfs_full_pathname(sqlite3_vfs *vfs, const char *name, int size, char *full) {
    (void)vfs;
    return base->xFullPathname(base, name, size, full);
}

static void *vfs_dl_open(sqlite3_vfs *vfs, const char *name) {
    (void)vfs;
    return base->xDlOpen(base, name);
}

static void vfs_dl_error(sqlite3_vfs *vfs, int size, char *message) {
    (void)vfs;
    base->xDlError(base, size, message);
}

static void (*vfs_dl_sym(sqlite3_vfs *vfs, void *library, const char *symbol))(void) {
    (void)vfs;
    return base->xDlSym(base, library, symbol);
}

static void vfs_dl_close(sqlite3_vfs *vfs, void *library) {
    (void)vfs;
    base->xDlClose(base, library);
}

static int vfs_randomness(sqlite3_vfs *vfs, int size, char *bytes) {
    (void)vfs;
    return base->xRandomness(base, size, bytes);
}

static int vfs_sleep(sqlite3_vfs *vfs, int microseconds) {
    (void)vfs;
    return base->xSleep(base, microseconds);
}

static int vfs_get_last_error(sqlite3_vfs *vfs, int size, char *message) {
    (void)vfs;
    return base->xGetLastError(base, size, message);
}

int dq_vfs_register(void) {
    if (base != NULL) {
        return SQLITE_OK;
    }
    sqlite3_vfs *unix_vfs = sqlite3_vfs_find("unix");
    if (unix_vfs == NULL || unix_vfs->iVersion < 2) {
        return SQLITE_NOTFOUND;
    }
    base = unix_vfs;
    shim = (sqlite3_vfs){
        .iVersion = 2,
        .szOsFile = (int)sizeof(struct dq_file) + unix_vfs->szOsFile,
        .mxPathname = unix_vfs->mxPathname,
        .zName = DQ_VFS_NAME,
        .xOpen = vfs_open,
        .xDelete = vfs_delete,
        .xAccess = vfs_access,
        .xFullPathname = vfs_full_pathname,
        .xDlOpen = vfs_dl_open,
        .xDlError = vfs_dl_error,
        .xDlSym = vfs_dl_sym,
        .xDlClose = vfs_dl_close,
        .xRandomness = vfs_randomness,
        .xSleep = vfs_sleep,
        .xCurrentTime = vfs_current_time,
        .xGetLastError = vfs_get_last_error,
        .xCurrentTimeInt64 = vfs_current_time_int64,
    };
    int code = sqlite3_vfs_register(&shim, 0);
    if (code == SQLITE_OK) {
        code = sqlite3_test_control(SQLITE_TESTCTRL_LOCALTIME_FAULT, 2, local_time);
    }
    return code;
}

/* -- from the engine ------------------------------------------------------------------------------------ */

static struct dq_file *shim_file(sqlite3 *db, int operation) {
    sqlite3_file *file = NULL;
    if (sqlite3_file_control(db, "main", operation, &file) != SQLITE_OK || file == NULL) {
        return NULL;
    }
    return file->pMethods == &methods ? (struct dq_file *)file : NULL;
}

bool dq_vfs_watch(sqlite3 *db, struct dq_watch *watch) {
    struct dq_file *file = shim_file(db, SQLITE_FCNTL_FILE_POINTER);
    if (file == NULL) {
        return false;
    }
    file->watch = watch;
    return true;
}

void dq_vfs_begin(sqlite3 *db) {
    struct dq_file *wal = shim_file(db, SQLITE_FCNTL_JOURNAL_POINTER);
    if (wal != NULL) {
        dq_wal_discard(wal);
    }
}

sqlite3_file *dq_vfs_real_file(sqlite3 *db, int which) {
    struct dq_file *file = shim_file(db, which ? SQLITE_FCNTL_JOURNAL_POINTER : SQLITE_FCNTL_FILE_POINTER);
    return file ? file->real : NULL;
}
