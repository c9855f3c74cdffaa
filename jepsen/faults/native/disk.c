/* Writes, sizes, syncs and free space. */
#include "faults.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define CURRENT (-1) /* at the descriptor's own position */

static size_t total(const struct iovec *parts, int count) {
    size_t size = 0;
    for (int i = 0; i < count; i++) {
        size += parts[i].iov_len;
    }
    return size;
}

static ssize_t plain_write(int fd, const struct iovec *parts, int count, int64_t at, int flags) {
    if (at == CURRENT) {
        return count == 1 ? syscall(SYS_write, fd, parts->iov_base, parts->iov_len) : syscall(SYS_writev, fd, parts, count);
    }
    if (count == 1 && !flags) {
        return syscall(SYS_pwrite64, fd, parts->iov_base, parts->iov_len, at);
    }
    return syscall(SYS_pwritev2, fd, parts, count, (unsigned long)at, (unsigned long)((uint64_t)at >> 32), flags);
}

static ssize_t do_write(int fd, const struct iovec *parts, int count, int64_t at, int flags) {
    struct target target = target_of(fd);
    size_t wanted = total(parts, count);
    if (!target.is_file || !wanted) {
        return plain_write(fd, parts, count, at, flags);
    }
    if (write_shall_fail()) {
        errno = EIO;
        return -1;
    }
    struct undo *undo = undo_begin(target.status.st_ino);
    fstat(fd, &target.status); /* the size, under the lock */
    int64_t size = target.status.st_size;
    int64_t start = at != CURRENT ? at : fcntl(fd, F_GETFL) & O_APPEND ? size : lseek(fd, 0, SEEK_CUR);
    int64_t growth = start + (int64_t)wanted - size, granted = take_space(growth);
    int64_t allowed = (int64_t)wanted - (growth > granted ? growth - granted : 0);
    ssize_t written = -1;
    int error = ENOSPC;
    if (allowed > 0) {
        int64_t end = start + allowed;
        undo_record(undo, fd, size, start, end, end > size ? end : size);
        if (allowed == (int64_t)wanted) {
            written = plain_write(fd, parts, count, at, flags);
        } else { /* a disk that becomes full takes a part of it */
            struct iovec first = {parts->iov_base, parts->iov_len < (size_t)allowed ? parts->iov_len : (size_t)allowed};
            written = plain_write(fd, &first, 1, at, flags);
        }
        error = errno;
    }
    int64_t grown = written < 0 ? 0 : start + written - size;
    give_space((granted > 0 ? granted : 0) - (grown > 0 ? grown : 0));
    undo_end(undo);
    errno = error;
    return written;
}

ssize_t write(int fd, const void *data, size_t size) {
    struct iovec part = {(void *)data, size};
    return do_write(fd, &part, 1, CURRENT, 0);
}

ssize_t writev(int fd, const struct iovec *parts, int count) { return do_write(fd, parts, count, CURRENT, 0); }

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    struct iovec part = {(void *)data, size};
    if (at < 0) {
        errno = EINVAL;
        return -1;
    }
    return do_write(fd, &part, 1, at, 0);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags) {
    return do_write(fd, parts, count, at, flags);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) { return do_write(fd, parts, count, at, 0); }
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t at, int flags) {
    return do_write(fd, parts, count, at, flags);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return do_write(fd, parts, count, at, 0); }

/* Copies inside the kernel would go unseen: callers fall back to read and write. */
ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t size, unsigned flags) {
    if (target_of(out).is_file) {
        errno = EXDEV;
        return -1;
    }
    return syscall(SYS_copy_file_range, in, in_at, out, out_at, size, flags);
}

ssize_t sendfile64(int out, int in, off64_t *at, size_t size) {
    if (target_of(out).is_file) {
        errno = ENOTSOCK;
        return -1;
    }
    return syscall(SYS_sendfile, out, in, at, size);
}

ssize_t sendfile(int out, int in, off_t *at, size_t size) { return sendfile64(out, in, at, size); }

/* Give the file a size; fallocate's way when `mode` is 0 and `from` is the start of the range, else ftruncate's. */
static int set_size(int fd, int64_t from, int64_t size, bool allocate) {
    struct target target = target_of(fd);
    if (!target.is_file || size < 0) {
        return allocate ? (int)syscall(SYS_fallocate, fd, 0, from, size - from) : (int)syscall(SYS_ftruncate, fd, size);
    }
    if (write_shall_fail()) {
        errno = EIO;
        return -1;
    }
    struct undo *undo = undo_begin(target.status.st_ino);
    fstat(fd, &target.status);
    int64_t before = target.status.st_size, after = allocate && size < before ? before : size;
    int code = -1, error = ENOSPC;
    int64_t growth = after - before, granted = take_space(growth);
    if (growth <= 0 || granted == growth) {
        /* Everything from the smaller size on changes: cut off, or zeros. */
        undo_record(undo, fd, before, growth < 0 ? after : before, growth < 0 ? before : after, after);
        code = allocate ? (int)syscall(SYS_fallocate, fd, 0, from, size - from) : (int)syscall(SYS_ftruncate, fd, size);
        error = errno;
    }
    give_space(code == 0 ? (growth < 0 ? -growth : 0) : granted > 0 ? granted : 0);
    undo_end(undo);
    errno = error;
    return code;
}

int ftruncate64(int fd, off64_t size) { return set_size(fd, 0, size, false); }
int ftruncate(int fd, off_t size) { return set_size(fd, 0, size, false); }

int truncate64(const char *path, off64_t size) {
    int fd = plain_open(path, O_WRONLY, 0);
    if (fd < 0) {
        return -1;
    }
    int code = set_size(fd, 0, size, false), error = errno;
    close(fd);
    errno = error;
    return code;
}

int truncate(const char *path, off_t size) { return truncate64(path, size); }

int fallocate64(int fd, int mode, off64_t at, off64_t size) {
    if (mode && target_of(fd).is_file) {
        errno = EOPNOTSUPP;
        return -1;
    }
    return mode ? (int)syscall(SYS_fallocate, fd, mode, at, size) : set_size(fd, at, at + size, true);
}

int fallocate(int fd, int mode, off_t at, off_t size) { return fallocate64(fd, mode, at, size); }

int posix_fallocate64(int fd, off64_t at, off64_t size) {
    int saved = errno, code = fallocate64(fd, 0, at, size) ? errno : 0;
    errno = saved;
    return code;
}

int posix_fallocate(int fd, off_t at, off_t size) { return posix_fallocate64(fd, at, size); }

static int do_sync(int fd, long call) {
    struct target target = target_of(fd);
    if (!target.is_file && !target.is_folder) {
        return (int)syscall(call, fd);
    }
    if (sync_shall_fail()) {
        if (target.is_file && control->is_lossy) {
            undo_sync_failed(target.status.st_ino);
        }
        errno = EIO;
        return -1;
    }
    if (!control->is_lossy) {
        return (int)syscall(call, fd);
    }
    /* What begins after this point need not be covered by the sync. */
    uint64_t position = target.is_file ? undo_position(target.status.st_ino) : names_position();
    int code = (int)syscall(call, fd), error = errno;
    if (code == 0 && target.is_file) {
        undo_synced(target.status.st_ino, position);
    } else if (code == 0) {
        names_synced(target.status.st_ino, position);
    } else if (target.is_file) {
        undo_sync_failed(target.status.st_ino);
    }
    errno = error;
    return code;
}

int fsync(int fd) { return do_sync(fd, SYS_fsync); }
int fdatasync(int fd) { return do_sync(fd, SYS_fdatasync); }

/* It can fail like a sync, but promises nothing: no record goes. */
int sync_file_range(int fd, off64_t at, off64_t size, unsigned flags) {
    struct target target = target_of(fd);
    if (target.is_file && sync_shall_fail()) {
        undo_sync_failed(target.status.st_ino);
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_sync_file_range, fd, at, size, flags);
}

static void show_quota(struct statvfs64 *found) {
    if (!__atomic_load_n(&control->has_quota, __ATOMIC_RELAXED)) {
        return;
    }
    int64_t free = __atomic_load_n(&control->free_bytes, __ATOMIC_RELAXED);
    uint64_t blocks = (free > 0 ? (uint64_t)free : 0) / (found->f_frsize ? found->f_frsize : 1);
    found->f_bavail = blocks < found->f_bavail ? blocks : found->f_bavail;
    found->f_bfree = blocks < found->f_bfree ? blocks : found->f_bfree;
}

int statvfs64(const char *restrict path, struct statvfs64 *restrict found) {
    static int (*next)(const char *, struct statvfs64 *);
    char resolved[PATH_MAX];
    if (!next) {
        *(void **)&next = dlsym(RTLD_NEXT, "statvfs64");
    }
    int code = next(path, found);
    if (code == 0 && is_inside(AT_FDCWD, path, resolved, true)) {
        show_quota(found);
    }
    return code;
}

int fstatvfs64(int fd, struct statvfs64 *found) {
    static int (*next)(int, struct statvfs64 *);
    if (!next) {
        *(void **)&next = dlsym(RTLD_NEXT, "fstatvfs64");
    }
    int code = next(fd, found);
    struct target target = target_of(fd);
    if (code == 0 && (target.is_file || target.is_folder)) {
        show_quota(found);
    }
    return code;
}

/* The same structure on the 64-bit systems that this is for. */
int statvfs(const char *restrict path, struct statvfs *restrict found) {
    return statvfs64(path, (struct statvfs64 *)found);
}
int fstatvfs(int fd, struct statvfs *found) { return fstatvfs64(fd, (struct statvfs64 *)found); }
_Static_assert(sizeof(struct statvfs) == sizeof(struct statvfs64) && sizeof(long) == 8, "64-bit Linux only");
