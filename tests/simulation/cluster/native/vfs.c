/* SQLite on the simulated disk: the methods of the "unix" VFS are replaced in place.
 *
 * In place, so that VFSs that already stand on "unix" are served too, whatever was loaded first. A file in no
 * machine's folder keeps its real methods. One in a machine's folder is read, written and synced through the
 * machine's log; locks and shared memory stay SQLite's own. A handle of a dead life answers SQLITE_IOERR, but lets go
 * of locks and memory, so that its connection can be closed.
 */
#include "sqlite3ext.h"

SQLITE_EXTENSION_INIT1

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "callbacks.h"
#include "simdisk.h"

#define JULIAN_UNIX_EPOCH_MS 210866760000000LL

static sqlite3_vfs *unix_vfs;
static sqlite3_vfs original;
static uint64_t random_state;
static int random_is_seeded;
static int64_t time_ms = -1;

/* `methods` comes first: a sqlite3_file's pMethods is the address of this record. */
struct handle {
    sqlite3_io_methods methods;
    const sqlite3_io_methods *real;
    sd_file *file;
    int life;
    int syncs_folder; /* the first sync of a new journal or WAL syncs its name, too, as the unix VFS does */
    char path[];
};

static struct handle *handle_of(sqlite3_file *file) {
    return (struct handle *)(uintptr_t)file->pMethods;
}

static int is_dead(const struct handle *handle) {
    const sd_machine *machine = handle->file->machine;
    return machine->is_dead || machine->life != handle->life;
}

static int failed(int64_t code, int sqlite_code) {
    errno = code == SD_CRASHED ? EIO : (int)-code;
    return code == -ENOSPC ? SQLITE_FULL : sqlite_code;
}

/* -- file methods -------------------------------------------------------------------------------------- */

static int file_close(sqlite3_file *file) {
    struct handle *handle = handle_of(file);
    file->pMethods = handle->real;
    int code = handle->real->xClose(file);
    sd_file_close(handle->file);
    free(handle);
    return code;
}

static int file_read(sqlite3_file *file, void *target, int size, sqlite3_int64 offset) {
    struct handle *handle = handle_of(file);
    if (is_dead(handle)) {
        return SQLITE_IOERR_READ;
    }
    int64_t count = sd_read(handle->file, target, size, offset);
    if (count < 0) {
        return failed(count, SQLITE_IOERR_READ);
    }
    if (count < size) {
        memset((char *)target + count, 0, (size_t)(size - count));
        return SQLITE_IOERR_SHORT_READ;
    }
    return SQLITE_OK;
}

static int file_write(sqlite3_file *file, const void *data, int size, sqlite3_int64 offset) {
    struct handle *handle = handle_of(file);
    if (is_dead(handle)) {
        return SQLITE_IOERR_WRITE;
    }
    handle->file->machine->sqlite_operations++;
    int64_t count = sd_write(handle->file, data, size, offset);
    if (count < 0) {
        return failed(count, SQLITE_IOERR_WRITE);
    }
    return count < size ? SQLITE_FULL : SQLITE_OK;
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 size) {
    struct handle *handle = handle_of(file);
    if (is_dead(handle)) {
        return SQLITE_IOERR_TRUNCATE;
    }
    handle->file->machine->sqlite_operations++;
    int code = sd_truncate(handle->file, size);
    return code == 0 ? SQLITE_OK : failed(code, SQLITE_IOERR_TRUNCATE);
}

static int file_sync(sqlite3_file *file, int flags) {
    (void)flags;
    struct handle *handle = handle_of(file);
    if (is_dead(handle)) {
        return SQLITE_IOERR_FSYNC;
    }
    handle->file->machine->sqlite_operations++;
    int code = sd_sync(handle->file);
    if (code == 0 && handle->syncs_folder) {
        handle->syncs_folder = 0;
        code = sd_py_sync_folder(handle->file->machine->id, handle->path);
    }
    return code == 0 ? SQLITE_OK : failed(code, SQLITE_IOERR_FSYNC);
}

static int file_size(sqlite3_file *file, sqlite3_int64 *size) {
    struct handle *handle = handle_of(file);
    if (is_dead(handle)) {
        return SQLITE_IOERR_FSTAT;
    }
    *size = handle->file->size;
    return SQLITE_OK;
}

static int file_lock(sqlite3_file *file, int level) {
    return is_dead(handle_of(file)) ? SQLITE_IOERR_LOCK : handle_of(file)->real->xLock(file, level);
}

static int file_unlock(sqlite3_file *file, int level) {
    return handle_of(file)->real->xUnlock(file, level);
}

static int file_check_reserved(sqlite3_file *file, int *result) {
    if (is_dead(handle_of(file))) {
        return SQLITE_IOERR_CHECKRESERVEDLOCK;
    }
    return handle_of(file)->real->xCheckReservedLock(file, result);
}

static int file_control(sqlite3_file *file, int operation, void *argument) {
    if (operation == SQLITE_FCNTL_SIZE_HINT || operation == SQLITE_FCNTL_CHUNK_SIZE) {
        return SQLITE_OK; /* the real one would allocate behind the log's back */
    }
    return handle_of(file)->real->xFileControl(file, operation, argument);
}

static int file_sector_size(sqlite3_file *file) {
    return handle_of(file)->real->xSectorSize(file);
}

static int file_characteristics(sqlite3_file *file) {
    return handle_of(file)->real->xDeviceCharacteristics(file);
}

static int file_shm_map(sqlite3_file *file, int region, int size, int extend, void volatile **memory) {
    if (is_dead(handle_of(file))) {
        *memory = NULL;
        return SQLITE_IOERR_SHMMAP;
    }
    return handle_of(file)->real->xShmMap(file, region, size, extend, memory);
}

static int file_shm_lock(sqlite3_file *file, int offset, int count, int flags) {
    if (is_dead(handle_of(file)) && !(flags & SQLITE_SHM_UNLOCK)) {
        return SQLITE_IOERR_SHMLOCK;
    }
    return handle_of(file)->real->xShmLock(file, offset, count, flags);
}

static void file_shm_barrier(sqlite3_file *file) {
    handle_of(file)->real->xShmBarrier(file);
}

static int file_shm_unmap(sqlite3_file *file, int remove) {
    return handle_of(file)->real->xShmUnmap(file, remove && !is_dead(handle_of(file)));
}

static int file_fetch(sqlite3_file *file, sqlite3_int64 offset, int size, void **page) {
    (void)file;
    (void)offset;
    (void)size;
    *page = NULL; /* no memory mapping: reads go through the machine */
    return SQLITE_OK;
}

static int file_unfetch(sqlite3_file *file, sqlite3_int64 offset, void *page) {
    (void)file;
    (void)offset;
    (void)page;
    return SQLITE_OK;
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

/* -- VFS methods --------------------------------------------------------------------------------------- */

#define TRACKED (SQLITE_OPEN_MAIN_DB | SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL)
#define NAME_SYNCED (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL)

static int vfs_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *file, int flags, int *out_flags) {
    sd_machine *machine = name != NULL && (flags & TRACKED) ? sd_machine_of(name) : NULL;
    if (machine == NULL) {
        return original.xOpen(vfs, name, file, flags, out_flags);
    }
    file->pMethods = NULL;
    if (machine->is_dead) {
        return failed(SD_CRASHED, SQLITE_IOERR);
    }
    int creates = (flags & SQLITE_OPEN_CREATE) != 0;
    int is_new = creates && access(name, F_OK) != 0;
    struct handle *handle = calloc(1, sizeof *handle + strlen(name) + 1);
    if (handle == NULL) {
        return SQLITE_NOMEM;
    }
    int code = sd_py_open(machine->id, name, creates, (flags & SQLITE_OPEN_EXCLUSIVE) != 0, &handle->file);
    if (code != 0) {
        free(handle);
        return failed(code, code == SD_CRASHED ? SQLITE_IOERR : SQLITE_CANTOPEN);
    }
    code = original.xOpen(vfs, name, file, flags & ~SQLITE_OPEN_EXCLUSIVE, out_flags);
    if (code != SQLITE_OK || file->pMethods == NULL) {
        sd_file_close(handle->file);
        free(handle);
        return code;
    }
    handle->methods = methods;
    handle->real = file->pMethods;
    handle->life = machine->life;
    handle->syncs_folder = is_new && (flags & NAME_SYNCED);
    strcpy(handle->path, name);
    file->pMethods = &handle->methods;
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_folder) {
    sd_machine *machine = sd_machine_of(name);
    if (machine == NULL) {
        return original.xDelete(vfs, name, sync_folder);
    }
    machine->sqlite_operations += !machine->is_dead;
    int code = sd_py_unlink(machine->id, name);
    if (code == -ENOENT) {
        return SQLITE_IOERR_DELETE_NOENT;
    }
    if (code == 0 && sync_folder) {
        code = sd_py_sync_folder(machine->id, name);
        return code == 0 ? SQLITE_OK : failed(code, SQLITE_IOERR_DIR_FSYNC);
    }
    return code == 0 ? SQLITE_OK : failed(code, SQLITE_IOERR_DELETE);
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *result) {
    sd_machine *machine = sd_machine_of(name);
    if (machine != NULL && machine->is_dead) {
        *result = 0;
        return SQLITE_IOERR_ACCESS;
    }
    return original.xAccess(vfs, name, flags, result);
}

static int vfs_randomness(sqlite3_vfs *vfs, int size, char *bytes) {
    if (!random_is_seeded) {
        return original.xRandomness(vfs, size, bytes);
    }
    for (int i = 0; i < size; i++) {
        bytes[i] = (char)(sd_random(&random_state) >> 32);
    }
    return size;
}

static int vfs_sleep(sqlite3_vfs *vfs, int microseconds) {
    /* A simulated clock does not move while SQLite waits: nobody else runs. */
    return time_ms >= 0 ? microseconds : original.xSleep(vfs, microseconds);
}

static int vfs_current_time_int64(sqlite3_vfs *vfs, sqlite3_int64 *julian_ms) {
    if (time_ms < 0) {
        return original.xCurrentTimeInt64(vfs, julian_ms);
    }
    *julian_ms = time_ms + JULIAN_UNIX_EPOCH_MS;
    return SQLITE_OK;
}

static int vfs_current_time(sqlite3_vfs *vfs, double *julian_day) {
    if (time_ms < 0) {
        return original.xCurrentTime(vfs, julian_day);
    }
    *julian_day = (double)(time_ms + JULIAN_UNIX_EPOCH_MS) / 86400000.0;
    return SQLITE_OK;
}

int sd_vfs_is_installed(void) {
    return unix_vfs != NULL;
}

void sd_vfs_seed(uint64_t seed) {
    random_state = seed;
    random_is_seeded = seed != 0;
    sqlite3_randomness(0, NULL); /* the next draw seeds SQLite's generator anew */
}

void sd_vfs_set_time(int64_t unix_ms) {
    time_ms = unix_ms;
}

__attribute__((visibility("default"))) int sqlite3_simdisk_init(sqlite3 *db, char **message,
                                                                const sqlite3_api_routines *api) {
    (void)db;
    SQLITE_EXTENSION_INIT2(api);
    if (unix_vfs != NULL) {
        return SQLITE_OK_LOAD_PERMANENTLY;
    }
    sqlite3_vfs *found = sqlite3_vfs_find("unix");
    if (found == NULL || found->iVersion < 2) {
        *message = sqlite3_mprintf("SQLite has no VFS \"unix\"");
        return SQLITE_ERROR;
    }
    original = *found;
    found->xOpen = vfs_open;
    found->xDelete = vfs_delete;
    found->xAccess = vfs_access;
    found->xRandomness = vfs_randomness;
    found->xSleep = vfs_sleep;
    found->xCurrentTime = vfs_current_time;
    found->xCurrentTimeInt64 = vfs_current_time_int64;
    unix_vfs = found;
    return SQLITE_OK_LOAD_PERMANENTLY;
}
