/* <undo>/n<position>-<folder inode>-<other folder's inode or 0>: one file per change of names that no sync of its
 * folder has covered. Content: kind, path, second path, each ended by a zero byte. <undo>/b<position>: a hard link to
 * the file that an unlink or a rename removed. Read by unsynced.py.
 */
#include "faults.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t position; /* of the last change; 0: not yet looked for */

static bool parse(const char *name, uint64_t *at, uint64_t folders[2]) {
    unsigned long long number, one, two;
    if (sscanf(name, "n%16llx-%llx-%llx", &number, &one, &two) != 3) {
        return false;
    }
    *at = number;
    folders[0] = one;
    folders[1] = two;
    return true;
}

/* Changes of an earlier process that no sync has covered still count. */
static void find_position(void) {
    DIR *folder = position ? NULL : opendir(control->undo);
    if (!folder) {
        return;
    }
    position = 1;
    for (struct dirent *entry; (entry = readdir(folder));) {
        uint64_t at, folders[2];
        if (parse(entry->d_name, &at, folders) && at > position) {
            position = at;
        }
    }
    closedir(folder);
}

static uint64_t folder_inode(const char *path) {
    char folder[PATH_MAX];
    struct stat status;
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash && slash != folder) {
        *slash = 0;
    }
    return stat(folder, &status) ? 0 : status.st_ino;
}

static void note_path(char note[PATH_MAX], uint64_t one, uint64_t two) {
    snprintf(note, PATH_MAX, "%s/n%016llx-%llx-%llx", control->undo, (unsigned long long)position,
             (unsigned long long)one, (unsigned long long)two);
}

static void backup_path(char path[PATH_MAX], uint64_t at) {
    snprintf(path, PATH_MAX, "%s/b%016llx", control->undo, (unsigned long long)at);
}

/* Note a change BEFORE it is made; `removed` is the file that it takes away, or NULL. Lock held. */
static void note_change(char note[PATH_MAX], const char *kind, const char *path, const char *second,
                        const char *removed) {
    char backup[PATH_MAX], text[2 * PATH_MAX + 32];
    note[0] = 0;
    if (!control->is_lossy) {
        return;
    }
    find_position();
    position++;
    uint64_t one = folder_inode(path), two = second ? folder_inode(second) : 0;
    note_path(note, one, two == one ? 0 : two);
    backup_path(backup, position);
    bool fine = !removed || syscall(SYS_linkat, AT_FDCWD, removed, AT_FDCWD, backup, 0) == 0;
    int size = snprintf(text, sizeof text, "%s%c%s%c%s%c", kind, 0, path, 0, second ? second : "", 0);
    int fd = plain_open(note, O_WRONLY | O_CREAT | O_EXCL, 0600);
    fine = fine && fd >= 0 && syscall(SYS_write, fd, text, size) == size;
    if (fd >= 0) {
        close(fd);
    }
    if (!fine) {
        __atomic_add_fetch(&control->undo_failures, 1, __ATOMIC_RELAXED);
    }
}

static void forget_change(const char *note) {
    if (note[0]) {
        char backup[PATH_MAX];
        syscall(SYS_unlinkat, AT_FDCWD, note, 0);
        backup_path(backup, position);
        syscall(SYS_unlinkat, AT_FDCWD, backup, 0);
    }
}

uint64_t names_position(void) {
    pthread_mutex_lock(&lock);
    find_position();
    uint64_t found = position;
    pthread_mutex_unlock(&lock);
    return found;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

void names_synced(ino_t inode, uint64_t covered) {
    char **names = NULL;
    size_t count = 0;
    pthread_mutex_lock(&lock);
    DIR *folder = opendir(control->undo);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        uint64_t at, folders[2];
        if (parse(entry->d_name, &at, folders) && at <= covered && (folders[0] == inode || folders[1] == inode)) {
            char **more = realloc(names, (count + 1) * sizeof *names);
            if (more) {
                names = more;
                names[count++] = strdup(entry->d_name);
            }
        }
    }
    if (folder) {
        closedir(folder);
    }
    /* Oldest first: killed in between, what is left is still a tail. */
    if (count) {
        qsort(names, count, sizeof *names, by_name);
    }
    for (size_t i = 0; i < count; i++) {
        char path[PATH_MAX];
        uint64_t at, folders[2];
        if (names[i] && parse(names[i], &at, folders)) {
            snprintf(path, sizeof path, "%s/%s", control->undo, names[i]);
            syscall(SYS_unlinkat, AT_FDCWD, path, 0);
            backup_path(path, at);
            syscall(SYS_unlinkat, AT_FDCWD, path, 0);
        }
        free(names[i]);
    }
    free(names);
    pthread_mutex_unlock(&lock);
}

/* Make the change with its note; a change that failed is forgotten. */
static int change(const char *kind, const char *path, const char *second, const char *removed, long (*make)(void *),
                  void *arguments) {
    char note[PATH_MAX];
    pthread_mutex_lock(&lock);
    note_change(note, kind, path, second, removed);
    long code = make(arguments);
    int error = errno;
    if (code < 0) {
        forget_change(note);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return (int)code;
}

struct call {
    long number, a, b, c, d, e;
};

static long make_call(void *arguments) {
    struct call *call = arguments;
    return syscall(call->number, call->a, call->b, call->c, call->d, call->e);
}

static int do_open(int dirfd, const char *path, int flags, mode_t mode) {
    char resolved[PATH_MAX];
    struct stat status;
    struct call call = {SYS_openat, dirfd, (long)path, flags, mode, 0};
    if (!control || !(flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE ||
        !is_inside(dirfd, path, resolved, false)) {
        return (int)make_call(&call);
    }
    if (lstat(resolved, &status) == 0) {
        call.c = flags & ~O_TRUNC;
        int fd = (int)make_call(&call);
        if (fd >= 0 && (flags & O_TRUNC) && ftruncate64(fd, 0)) {
            int error = errno;
            close(fd);
            errno = error;
            return -1;
        }
        return fd;
    }
    if (!(flags & O_CREAT)) {
        return (int)make_call(&call);
    }
    if (__atomic_load_n(&control->has_quota, __ATOMIC_RELAXED) && control->free_bytes <= 0) {
        __atomic_add_fetch(&control->spaces_refused, 1, __ATOMIC_RELAXED);
        errno = ENOSPC;
        return -1;
    }
    int fd = change("create", resolved, NULL, NULL, make_call, &call);
    if (fd >= 0 && control->is_lossy && fstat(fd, &status) == 0) {
        undo_forget(status.st_ino);
    }
    return fd;
}

#define WITH_MODE(flags)                                        \
    mode_t mode = 0;                                            \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                      \
        va_list arguments;                                      \
        va_start(arguments, flags);                             \
        mode = va_arg(arguments, mode_t);                       \
        va_end(arguments);                                      \
    }

int open64(const char *path, int flags, ...) {
    WITH_MODE(flags)
    return do_open(AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    WITH_MODE(flags)
    return do_open(AT_FDCWD, path, flags, mode);
}

int openat64(int dirfd, const char *path, int flags, ...) {
    WITH_MODE(flags)
    return do_open(dirfd, path, flags, mode);
}

int openat(int dirfd, const char *path, int flags, ...) {
    WITH_MODE(flags)
    return do_open(dirfd, path, flags, mode);
}

int creat64(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat(const char *path, mode_t mode) { return creat64(path, mode); }

static int64_t space_of(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink == 1 ? status.st_size : 0;
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
    char old[PATH_MAX], new[PATH_MAX];
    struct call call = {SYS_renameat2, from_fd, (long)from, to_fd, (long)to, flags};
    bool old_inside = is_inside(from_fd, from, old, false), new_inside = is_inside(to_fd, to, new, false);
    if (!old_inside && !new_inside) {
        return (int)make_call(&call);
    }
    if (flags || !old_inside || !new_inside) { /* not kept apart: nothing here does that */
        errno = EXDEV;
        return -1;
    }
    struct stat status;
    bool replaces = lstat(new, &status) == 0 && S_ISREG(status.st_mode);
    int64_t space = replaces ? space_of(new) : 0;
    int code = change("rename", old, new, replaces ? new : NULL, make_call, &call);
    give_space(code == 0 ? space : 0);
    return code;
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) { return renameat2(from_fd, from, to_fd, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int dirfd, const char *path, int flags) {
    char resolved[PATH_MAX];
    struct call call = {SYS_unlinkat, dirfd, (long)path, flags, 0, 0};
    if (!is_inside(dirfd, path, resolved, false)) {
        return (int)make_call(&call);
    }
    struct stat status;
    bool is_file = !(flags & AT_REMOVEDIR) && lstat(resolved, &status) == 0 && S_ISREG(status.st_mode);
    int64_t space = is_file ? space_of(resolved) : 0;
    int code = change(flags & AT_REMOVEDIR ? "rmdir" : "unlink", resolved, NULL, is_file ? resolved : NULL, make_call,
                      &call);
    give_space(code == 0 ? space : 0);
    return code;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int dirfd, const char *path, mode_t mode) {
    char resolved[PATH_MAX];
    struct call call = {SYS_mkdirat, dirfd, (long)path, mode, 0, 0};
    struct stat status;
    /* A note that a kill leaves behind must never claim a folder that was there before. */
    if (!is_inside(dirfd, path, resolved, false) || lstat(resolved, &status) == 0) {
        return (int)make_call(&call);
    }
    return change("mkdir", resolved, NULL, NULL, make_call, &call);
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
