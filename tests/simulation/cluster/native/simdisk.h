/* The simulated disk: what Python (through cffi) and the VFS share.
 *
 * A machine is one node's disk, a file one inode of it. Files are real files, which hold what the page cache would
 * show; beside each stands a log of the changes that no sync has made durable, with what undoes them. One thread.
 */
#ifndef SIMDISK_H
#define SIMDISK_H

#include <stddef.h>
#include <stdint.h>

#define SD_SECTOR_BYTES 512
#define SD_CRASHED (-100000) /* this life is over; every other negative result is -errno */

typedef struct sd_machine {
    int id;
    int life;            /* counts mounts: handles of earlier lives are dead */
    int is_dead;         /* no life goes on: nothing has an effect */
    int64_t crash_after; /* mutating operations until the crash; negative: none */
    double torn_at;      /* share of the last write that happens, and below 0.5 the last sync syncs nothing */
    int is_full;
    int64_t capacity_bytes; /* negative: unlimited */
    int64_t used_bytes;
    int64_t fail_syncs;
    int64_t operations;
    int64_t writes;
    int64_t written_bytes;
    int64_t syncs;
    int64_t failed_syncs;
    int64_t refused_full;
    int64_t sqlite_operations; /* of `operations`, those of SQLite */
    struct sd_machine *next;
    size_t folder_size;
    char folder[]; /* absolute, without a slash at its end */
} sd_machine;

enum sd_state { SD_PENDING, SD_DOOMED, SD_SYNCED }; /* SD_SYNCED is kept only behind an SD_DOOMED change */

typedef struct {
    int64_t offset; /* of a write; the new size of a truncation */
    int64_t size;   /* of a write; -1: a truncation */
    int64_t old_size;
    int64_t new_size;
    uint8_t *old; /* what the file held at `offset`, up to old_size */
    int64_t old_length;
    uint8_t state;
} sd_change;

typedef struct sd_file {
    sd_machine *machine;
    int fd;   /* -1 while nobody has it open */
    int refs; /* open handles, Python's and SQLite's */
    int64_t size;
    sd_change *changes;
    size_t count;
    size_t room;
    int has_doomed;
} sd_file;

/* What a power loss did to the changes of files. */
typedef struct {
    int64_t kept;
    int64_t lost;
    int64_t torn;
    int64_t sizes_lost; /* changes of size that were undone */
} sd_losses;

sd_machine *sd_machine_new(int id, const char *folder);
void sd_machine_free(sd_machine *machine);
sd_machine *sd_machine_of(const char *path); /* NULL: outside of every machine's folder */

/* Count a mutating operation. 0: go on; 1: it is the last, call sd_crash after it; SD_CRASHED. */
int sd_step(sd_machine *machine);
/* End the life and tell Python, once. Returns SD_CRASHED. */
int sd_crash(sd_machine *machine);

sd_file *sd_file_new(sd_machine *machine);
void sd_file_free(sd_file *file);
int sd_file_open(sd_file *file, const char *path); /* another reference */
void sd_file_close(sd_file *file);

int64_t sd_write(sd_file *file, const void *data, int64_t size, int64_t offset);
int64_t sd_read(sd_file *file, void *target, int64_t size, int64_t offset);
int sd_truncate(sd_file *file, int64_t size);
int sd_sync(sd_file *file);

/* Power loss: choose by `seed` what the log's changes leave, write it, empty the log. The file is closed. */
int sd_settle(sd_file *file, const char *path, uint64_t seed, sd_losses *losses);

int sd_vfs_is_installed(void);
/* Make SQLite's randomness repeat, and forget what it has drawn; 0: the system's again. */
void sd_vfs_seed(uint64_t seed);
/* The clock that SQLite sees, Unix milliseconds; negative: the system's. */
void sd_vfs_set_time(int64_t unix_ms);

uint64_t sd_random(uint64_t *state);

#endif
