/* The control page, and which files are ours. */
#include "faults.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct control *control;

int plain_open(const char *path, int flags, mode_t mode) {
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, mode);
}

/* The data folder was deleted since the last process: notes about its files would be applied to new ones. */
static void drop_notes_of_a_deleted_folder(const struct control *page) {
    struct stat status;
    DIR *notes = lstat(page->folder, &status) ? opendir(page->undo) : NULL;
    for (struct dirent *entry; notes && (entry = readdir(notes));) {
        syscall(SYS_unlinkat, dirfd(notes), entry->d_name, 0); /* "." and ".." are folders: refused */
    }
    if (notes) {
        closedir(notes);
    }
}

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("JEPSEN_FAULTS");
    if (!path) {
        return;
    }
    int fd = plain_open(path, O_RDWR, 0);
    struct control *page = fd < 0 ? MAP_FAILED : mmap(NULL, CONTROL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0) {
        close(fd);
    }
    if (page == MAP_FAILED || page->magic != CONTROL_MAGIC) {
        dprintf(2, "jepsen faults: %s is no control file; faults would be silently missing: stopping\n", path);
        _exit(97);
    }
    drop_notes_of_a_deleted_folder(page);
    page->attached_pid = (uint64_t)getpid();
    __atomic_store_n(&control, page, __ATOMIC_RELEASE);
}

static bool ends_with(const char *text, size_t size, const char *end) {
    size_t end_size = strlen(end);
    return size >= end_size && memcmp(text + size - end_size, end, end_size) == 0;
}

/* 0: outside, 1: below the folder, 2: the folder itself. */
static int place_of(const char *path, size_t size) {
    size_t folder_size = strlen(control->folder);
    if (size < folder_size || memcmp(path, control->folder, folder_size) != 0) {
        return 0;
    }
    if (size == folder_size) {
        return 2;
    }
    return path[folder_size] == '/' && !ends_with(path, size, "-shm") ? 1 : 0;
}

struct target target_of(int fd) {
    struct target target = {0};
    if (!control || fd < 0) {
        return target;
    }
    /* The kernel's own account: no table of descriptors that a missed close() would make wrong. */
    char link[40], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int saved = errno;
    ssize_t size = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path);
    static const char deleted[] = " (deleted)";
    if (size > 0 && ends_with(path, (size_t)size, deleted)) {
        size -= (ssize_t)sizeof deleted - 1;
    }
    int place = size > 0 ? place_of(path, (size_t)size) : 0;
    if (place && fstat(fd, &target.status) == 0) {
        target.is_file = place == 1 && S_ISREG(target.status.st_mode);
        target.is_folder = S_ISDIR(target.status.st_mode);
    }
    errno = saved;
    return target;
}

bool is_inside(int dirfd, const char *path, char resolved[PATH_MAX], bool or_itself) {
    if (!control || !path || !*path) {
        return false;
    }
    int saved = errno;
    char joined[PATH_MAX], folder[PATH_MAX], link[40];
    ssize_t used = 0;
    if (path[0] != '/') {
        snprintf(link, sizeof link, dirfd == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dirfd);
        used = syscall(SYS_readlinkat, AT_FDCWD, link, joined, sizeof joined - 1);
        if (used <= 0) {
            errno = saved;
            return false;
        }
        joined[used++] = '/';
    }
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/') {
        size--;
    }
    bool inside = false;
    if ((size_t)used + size < sizeof joined) {
        memcpy(joined + used, path, size);
        joined[(size_t)used + size] = 0;
        char *name = strrchr(joined, '/');
        *name++ = 0;
        if (realpath(*joined ? joined : "/", folder)) {
            int written = snprintf(resolved, PATH_MAX, "%s/%s", strcmp(folder, "/") ? folder : "", name);
            int place = written > 0 && written < PATH_MAX ? place_of(resolved, (size_t)written) : 0;
            inside = place == 1 || (place == 2 && or_itself);
        }
    }
    errno = saved;
    return inside;
}

static bool by_chance(uint64_t chance) {
    static __thread uint64_t state;
    if (!chance) {
        return false;
    }
    if (!state) {
        state = (uint64_t)(uintptr_t)&state ^ ((uint64_t)getpid() << 32) ^ 0x9e3779b97f4a7c15ull;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 32) < chance;
}

static bool shall_fail(int64_t *failures, uint64_t *chance, uint64_t *counter) {
    if (!control) {
        return false;
    }
    bool fails = by_chance(__atomic_load_n(chance, __ATOMIC_RELAXED));
    int64_t left = __atomic_load_n(failures, __ATOMIC_RELAXED);
    while (!fails && left) {
        fails = left < 0 || __atomic_compare_exchange_n(failures, &left, left - 1, false, __ATOMIC_RELAXED,
                                                        __ATOMIC_RELAXED);
    }
    if (fails) {
        __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
    }
    return fails;
}

bool sync_shall_fail(void) {
    return shall_fail(&control->sync_failures, &control->sync_chance, &control->syncs_failed);
}

bool write_shall_fail(void) {
    return shall_fail(&control->write_failures, &control->write_chance, &control->writes_failed);
}

int64_t take_space(int64_t wanted) {
    if (wanted <= 0 || !__atomic_load_n(&control->has_quota, __ATOMIC_RELAXED)) {
        return wanted;
    }
    int64_t free = __atomic_load_n(&control->free_bytes, __ATOMIC_RELAXED), granted;
    do {
        granted = free <= 0 ? 0 : free < wanted ? free : wanted;
    } while (!__atomic_compare_exchange_n(&control->free_bytes, &free, free - granted, false, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    if (granted < wanted) {
        __atomic_add_fetch(&control->spaces_refused, 1, __ATOMIC_RELAXED);
    }
    return granted;
}

void give_space(int64_t bytes) {
    if (bytes > 0 && __atomic_load_n(&control->has_quota, __ATOMIC_RELAXED)) {
        __atomic_add_fetch(&control->free_bytes, bytes, __ATOMIC_RELAXED);
    }
}
