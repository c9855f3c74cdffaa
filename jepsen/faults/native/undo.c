/* <undo>/f<inode>: for each file, the content that changes since its last sync have replaced. Read by unsynced.py.
 *
 * Header (32 bytes, native): magic "JUNDO001" 8, valid from (offset of the first record that still counts) 8, whether
 * a sync failed 8, inode 8. Then records: struct record, and `old_bytes` of content. A record cut short at the end was
 * interrupted by a kill; its change did not happen.
 *
 * A sync that succeeds makes the changes before its beginning durable: their records go. A sync that failed is final
 * for what was dirty then, as in Linux, where the pages count as clean afterwards: those records stay for good,
 * whatever later syncs say, and marks tell which later changes were synced.
 */
#include "faults.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define RECORD_MAGIC 0x4f444e55u
#define SECTOR 512
#define PIECE_BYTES (64 * 1024)
#define BUCKETS 256

enum { CHANGE = 1, SYNCED = 2, FAILED = 3 };

struct header {
    char magic[8];
    uint64_t valid_from, has_failed, inode;
};

struct record {
    uint32_t magic, kind;
    int64_t start, old_bytes, end, size_before, size_after; /* marks: start is the position that they cover */
};

/* Positions outlive the records: `gone` is how much was dropped before the present file, so that a sync that began
 * before another one emptied the file does not point into what came later. */
struct undo {
    struct undo *next;
    struct bucket *bucket;
    ino_t inode;
    int fd; /* 0: none */
    uint64_t end, gone;
    struct header header;
};

struct bucket {
    pthread_mutex_t lock;
    struct undo *first;
};

static struct bucket buckets[BUCKETS];

__attribute__((constructor)) static void init_locks(void) {
    for (int i = 0; i < BUCKETS; i++) {
        pthread_mutex_init(&buckets[i].lock, NULL);
    }
}

static void give_up(void) { __atomic_add_fetch(&control->undo_failures, 1, __ATOMIC_RELAXED); }

static bool write_at(int fd, const void *data, size_t size, uint64_t at) {
    return syscall(SYS_pwrite64, fd, data, size, at) == (ssize_t)size;
}

static void path_of(char path[PATH_MAX], ino_t inode) {
    snprintf(path, PATH_MAX, "%s/f%llu", control->undo, (unsigned long long)inode);
}

/* The end of the last whole record: an earlier process may have been killed in the middle of one. */
static uint64_t find_end(int fd, uint64_t at) {
    struct record record;
    struct stat status;
    if (fstat(fd, &status)) {
        return at;
    }
    while (pread(fd, &record, sizeof record, (off_t)at) == sizeof record && record.magic == RECORD_MAGIC) {
        uint64_t next = at + sizeof record + (uint64_t)record.old_bytes;
        if (next > (uint64_t)status.st_size) {
            break;
        }
        at = next;
    }
    return at;
}

static void load(struct undo *undo, ino_t inode) {
    char path[PATH_MAX];
    path_of(path, inode);
    int fd = plain_open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0) {
        give_up();
        return;
    }
    if (pread(fd, &undo->header, sizeof undo->header, 0) != sizeof undo->header) {
        undo->header = (struct header){.valid_from = sizeof(struct header), .inode = inode};
        memcpy(undo->header.magic, "JUNDO001", 8);
        if (!write_at(fd, &undo->header, sizeof undo->header, 0)) {
            give_up();
        }
    }
    undo->fd = fd;
    undo->end = find_end(fd, undo->header.valid_from);
}

struct undo *undo_begin(ino_t inode) {
    static struct undo nothing;
    struct bucket *bucket = &buckets[inode % BUCKETS];
    pthread_mutex_lock(&bucket->lock);
    struct undo *undo = bucket->first;
    while (undo != NULL && undo->inode != inode) {
        undo = undo->next;
    }
    if (undo == NULL) {
        undo = calloc(1, sizeof *undo);
        if (undo == NULL) {
            give_up();
            pthread_mutex_unlock(&bucket->lock);
            return &nothing;
        }
        *undo = (struct undo){.next = bucket->first, .bucket = bucket, .inode = inode};
        bucket->first = undo;
    }
    if (!undo->fd && control->is_lossy) {
        load(undo, inode);
    }
    return undo;
}

void undo_end(struct undo *undo) {
    if (undo->bucket != NULL) {
        pthread_mutex_unlock(&undo->bucket->lock);
    }
}

static void append(struct undo *undo, const struct record *record, const void *old) {
    struct iovec parts[2] = {{(void *)record, sizeof *record}, {(void *)old, (size_t)record->old_bytes}};
    size_t size = sizeof *record + (size_t)record->old_bytes;
    if (!undo->fd || pwritev(undo->fd, parts, 2, (off_t)undo->end) != (ssize_t)size) {
        give_up();
        return;
    }
    undo->end += size;
}

void undo_record(struct undo *undo, int fd, int64_t size, int64_t start, int64_t end, int64_t size_after) {
    static __thread char old[PIECE_BYTES];
    if (!control->is_lossy) {
        return;
    }
    int reader = fd, opened = -1;
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY) {
        char link[40];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        reader = opened = plain_open(link, O_RDONLY, 0);
    }
    for (int64_t at = start; at < end || at == start; at = (at & ~(int64_t)(SECTOR - 1)) + PIECE_BYTES) {
        int64_t first = at & ~(int64_t)(SECTOR - 1);
        int64_t stop = first + PIECE_BYTES < end ? first + PIECE_BYTES : end;
        int64_t last = (stop + SECTOR - 1) & ~(int64_t)(SECTOR - 1);
        last = last < size ? last : size;
        struct record record = {RECORD_MAGIC, CHANGE, first, 0, stop, size, size_after};
        if (first < last) {
            record.old_bytes = pread(reader, old, (size_t)(last - first), first);
            if (record.old_bytes != last - first) {
                give_up();
                break;
            }
        }
        append(undo, &record, old);
    }
    if (opened >= 0) {
        close(opened);
    }
}

uint64_t undo_position(ino_t inode) {
    struct undo *undo = undo_begin(inode);
    uint64_t position = undo->gone + undo->end;
    undo_end(undo);
    return position;
}

void undo_synced(ino_t inode, uint64_t position) {
    struct undo *undo = undo_begin(inode);
    position = position > undo->gone ? position - undo->gone : 0;
    if (undo->fd) {
        if (undo->header.has_failed) {
            struct record mark = {RECORD_MAGIC, SYNCED, (int64_t)position, 0, 0, 0, 0};
            append(undo, &mark, NULL);
        } else if (position == undo->end) {
            if (undo->end > sizeof undo->header) {
                undo->gone += undo->end - sizeof undo->header;
                undo->header.valid_from = undo->end = sizeof undo->header;
                if (ftruncate(undo->fd, (off_t)undo->end) || !write_at(undo->fd, &undo->header, sizeof undo->header, 0)) {
                    give_up();
                }
            }
        } else if (position > undo->header.valid_from) { /* changes went on beside the sync */
            undo->header.valid_from = position;
            if (!write_at(undo->fd, &undo->header, sizeof undo->header, 0)) {
                give_up();
            }
        }
    }
    undo_end(undo);
}

void undo_sync_failed(ino_t inode) {
    struct undo *undo = undo_begin(inode);
    if (undo->fd) {
        struct record mark = {RECORD_MAGIC, FAILED, (int64_t)undo->end, 0, 0, 0, 0};
        append(undo, &mark, NULL);
        undo->header.has_failed = 1;
        if (!write_at(undo->fd, &undo->header, sizeof undo->header, 0)) {
            give_up();
        }
    }
    undo_end(undo);
}

void undo_forget(ino_t inode) {
    char path[PATH_MAX];
    struct bucket *bucket = &buckets[inode % BUCKETS];
    pthread_mutex_lock(&bucket->lock);
    for (struct undo **at = &bucket->first; *at != NULL; at = &(*at)->next) {
        if ((*at)->inode == inode) {
            struct undo *undo = *at;
            *at = undo->next;
            if (undo->fd) {
                close(undo->fd);
            }
            free(undo);
            break;
        }
    }
    path_of(path, inode);
    syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    pthread_mutex_unlock(&bucket->lock);
}
