/* Faults inside a node's process, preloaded with LD_PRELOAD and steered by a page that the suite maps, too.
 *
 * control.c: the page; clock.c: shifted clocks; disk.c: writes, sizes, syncs; names.c: open, rename, unlink, mkdir;
 * undo.c: what the last sync of each file has not covered. Only files below `folder` of the page are touched, and none
 * that ends in -shm (SQLite maps it and rebuilds it after a crash).
 *
 * Threads: any. Clocks take no lock. A signal handler may read clocks and write to pipes and sockets; one that writes
 * to files below the folder could meet a lock that its own thread holds. Not seen: stdio (FILE *), io_uring, mmap
 * writes, raw syscall(), O_SYNC as a sync; hard links and symbolic links are not taken back.
 */
#ifndef JEPSEN_FAULTS_H
#define JEPSEN_FAULTS_H

#define _GNU_SOURCE
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#define CONTROL_MAGIC 0x31544c5541464a44ull /* "DJFAULT1" */
#define CONTROL_BYTES 4096

struct clock_segment {
    int64_t anchor_ns; /* kernel's CLOCK_MONOTONIC at which the offsets are exact */
    int64_t real_offset_ns, mono_offset_ns;
    int64_t real_ppb, mono_ppb; /* rate minus one, in billionths */
};

/* The layout is repeated in control.py; all integers native. */
struct control {
    uint64_t magic;
    uint64_t clock_sequence; /* odd while the suite writes the clock's fields */
    uint64_t clock_is_warped;
    int64_t clock_switch_ns; /* kernel's CLOCK_MONOTONIC at which `after` takes over from `before` */
    struct clock_segment before, after;
    int64_t sync_failures; /* calls that shall still fail; -1: all */
    uint64_t sync_chance;  /* of 2**32, for each call */
    int64_t write_failures;
    uint64_t write_chance;
    uint64_t has_quota;
    int64_t free_bytes; /* taken by growth, given back by shrinking and unlinking */
    uint64_t is_lossy;  /* keep undo records */
    uint64_t syncs_failed, writes_failed, spaces_refused; /* counters */
    uint64_t undo_failures; /* records that could not be kept: undoing would be wrong */
    uint64_t attached_pid;
    char folder[1024]; /* resolved, no slash at the end */
    char undo[1024];   /* on the same file system, outside `folder` */
};

extern struct control *control; /* NULL: this process has no faults */

/* What a descriptor refers to. */
struct target {
    bool is_file, is_folder; /* below the folder; both false: not ours */
    struct stat status;
};
struct target target_of(int fd);

/* Resolve the folder part of `path`; true when it lies below the folder (or is the folder, with `or_itself`). */
bool is_inside(int dirfd, const char *path, char resolved[PATH_MAX], bool or_itself);

bool sync_shall_fail(void);
bool write_shall_fail(void);
int64_t take_space(int64_t wanted); /* returns what is granted, 0..wanted */
void give_space(int64_t bytes);

/* undo.c: the lock is held from begin to end, so that records and changes have one order. */
struct undo;
struct undo *undo_begin(ino_t inode);
void undo_end(struct undo *undo);
/* Record the old content of [start, end) before a change that makes the file `size_after` long. */
void undo_record(struct undo *undo, int fd, int64_t size, int64_t start, int64_t end, int64_t size_after);
uint64_t undo_position(ino_t inode);
void undo_synced(ino_t inode, uint64_t position);
void undo_sync_failed(ino_t inode);
void undo_forget(ino_t inode); /* a new file: an older one with this number is gone */

/* names.c */
uint64_t names_position(void);
void names_synced(ino_t folder, uint64_t position);

/* The system calls without the wrappers of this library. */
int plain_open(const char *path, int flags, mode_t mode);

#endif
