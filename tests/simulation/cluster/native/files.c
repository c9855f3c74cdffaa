/* Machines, and files with their log of unsynced changes. */
#include "simdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "callbacks.h"

static sd_machine *machines;

sd_machine *sd_machine_new(int id, const char *folder) {
    size_t size = strlen(folder);
    sd_machine *machine = calloc(1, sizeof *machine + size + 1);
    if (machine == NULL) {
        return NULL;
    }
    machine->id = id;
    machine->is_dead = 1;
    machine->crash_after = -1;
    machine->torn_at = 1.0;
    machine->capacity_bytes = -1;
    machine->folder_size = size;
    memcpy(machine->folder, folder, size + 1);
    machine->next = machines;
    machines = machine;
    return machine;
}

void sd_machine_free(sd_machine *machine) {
    for (sd_machine **at = &machines; *at != NULL; at = &(*at)->next) {
        if (*at == machine) {
            *at = machine->next;
            break;
        }
    }
    free(machine);
}

sd_machine *sd_machine_of(const char *path) {
    for (sd_machine *machine = machines; machine != NULL; machine = machine->next) {
        if (strncmp(path, machine->folder, machine->folder_size) == 0 && path[machine->folder_size] == '/') {
            return machine;
        }
    }
    return NULL;
}

int sd_step(sd_machine *machine) {
    if (machine->is_dead) {
        return SD_CRASHED;
    }
    machine->operations++;
    return machine->crash_after > 0 && --machine->crash_after == 0;
}

int sd_crash(sd_machine *machine) {
    if (!machine->is_dead) {
        machine->is_dead = 1;
        machine->crash_after = -1;
        sd_py_crashed(machine->id);
    }
    return SD_CRASHED;
}

sd_file *sd_file_new(sd_machine *machine) {
    sd_file *file = calloc(1, sizeof *file);
    if (file != NULL) {
        file->machine = machine;
        file->fd = -1;
    }
    return file;
}

static void forget(sd_file *file) {
    for (size_t i = 0; i < file->count; i++) {
        free(file->changes[i].old);
    }
    file->count = 0;
    file->has_doomed = 0;
    if (file->room > 64) {
        free(file->changes);
        file->changes = NULL;
        file->room = 0;
    }
}

void sd_file_free(sd_file *file) {
    forget(file);
    free(file->changes);
    if (file->fd >= 0) {
        close(file->fd);
    }
    free(file);
}

int sd_file_open(sd_file *file, const char *path) {
    if (file->fd < 0) {
        struct stat found;
        int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0) {
            return -errno;
        }
        if (fstat(fd, &found) != 0) {
            int code = -errno;
            close(fd);
            return code;
        }
        file->fd = fd;
        file->size = found.st_size;
    }
    file->refs++;
    return 0;
}

void sd_file_close(sd_file *file) {
    if (file->refs > 0 && --file->refs == 0 && file->fd >= 0) {
        close(file->fd);
        file->fd = -1;
    }
}

/* -- changes ------------------------------------------------------------------------------------------- */

static int64_t read_all(int fd, void *target, int64_t size, int64_t offset) {
    int64_t done = 0;
    while (done < size) {
        ssize_t count = pread(fd, (char *)target + done, (size_t)(size - done), offset + done);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return -errno;
        }
        if (count == 0) {
            break;
        }
        done += count;
    }
    return done;
}

static int64_t write_all(int fd, const void *data, int64_t size, int64_t offset) {
    int64_t done = 0;
    while (done < size) {
        ssize_t count = pwrite(fd, (const char *)data + done, (size_t)(size - done), offset + done);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return -errno;
        }
        done += count;
    }
    return done;
}

/* Append a change whose undoing needs the bytes from `from` to the file's end, at most `length`. */
static sd_change *note(sd_file *file, int64_t from, int64_t length) {
    if (file->count == file->room) {
        size_t room = file->room ? file->room * 2 : 16;
        sd_change *changes = realloc(file->changes, room * sizeof *changes);
        if (changes == NULL) {
            return NULL;
        }
        file->changes = changes;
        file->room = room;
    }
    sd_change *change = &file->changes[file->count];
    memset(change, 0, sizeof *change);
    change->old_size = file->size;
    int64_t old_length = file->size > from ? file->size - from : 0;
    if (old_length > length) {
        old_length = length;
    }
    if (old_length > 0) {
        change->old = malloc((size_t)old_length);
        if (change->old == NULL || read_all(file->fd, change->old, old_length, from) != old_length) {
            free(change->old);
            return NULL;
        }
        change->old_length = old_length;
    }
    file->count++;
    return change;
}

/* How much of a write there is room for. */
static int64_t room_for(sd_file *file, int64_t size, int64_t offset) {
    sd_machine *machine = file->machine;
    int64_t end = offset + size;
    if (machine->is_full) {
        int64_t hole = offset < file->size ? lseek(file->fd, offset, SEEK_HOLE) : offset;
        int64_t limit = hole < 0 || hole > file->size ? file->size : hole;
        if (limit < end) {
            size = limit > offset ? limit - offset : 0;
        }
    } else if (machine->capacity_bytes >= 0 && end > file->size) {
        int64_t room = machine->capacity_bytes - machine->used_bytes;
        int64_t limit = file->size + (room > 0 ? room : 0);
        if (limit < end) {
            size = limit > offset ? limit - offset : 0;
        }
    }
    return size;
}

int64_t sd_write(sd_file *file, const void *data, int64_t size, int64_t offset) {
    sd_machine *machine = file->machine;
    if (offset < 0 || size < 0) {
        return -EINVAL;
    }
    if (size == 0) {
        return machine->is_dead ? SD_CRASHED : 0;
    }
    int step = sd_step(machine);
    if (step < 0) {
        return step;
    }
    if (machine->is_full || machine->capacity_bytes >= 0) {
        size = room_for(file, size, offset);
        if (size == 0) {
            machine->refused_full++;
            return step ? sd_crash(machine) : -ENOSPC;
        }
    }
    if (step) {
        size = (int64_t)((double)size * machine->torn_at);
    }
    if (size > 0) {
        sd_change *change = note(file, offset, size);
        if (change == NULL) {
            return -ENOMEM;
        }
        change->offset = offset;
        change->size = size;
        int64_t written = write_all(file->fd, data, size, offset);
        if (written < 0) {
            return written;
        }
        if (offset + size > file->size) {
            machine->used_bytes += offset + size - file->size;
            file->size = offset + size;
        }
        change->new_size = file->size;
        machine->writes++;
        machine->written_bytes += size;
    }
    return step ? sd_crash(machine) : size;
}

int64_t sd_read(sd_file *file, void *target, int64_t size, int64_t offset) {
    return file->machine->is_dead ? SD_CRASHED : read_all(file->fd, target, size, offset);
}

int sd_truncate(sd_file *file, int64_t size) {
    sd_machine *machine = file->machine;
    if (size < 0) {
        return -EINVAL;
    }
    int step = sd_step(machine);
    if (step < 0) {
        return step;
    }
    if (size != file->size) {
        sd_change *change = note(file, size, INT64_MAX);
        if (change == NULL) {
            return -ENOMEM;
        }
        change->offset = change->new_size = size;
        change->size = -1;
        if (ftruncate(file->fd, size) != 0) {
            return -errno;
        }
        machine->used_bytes += size - file->size;
        file->size = size;
    }
    return step ? sd_crash(machine) : 0;
}

int sd_sync(sd_file *file) {
    sd_machine *machine = file->machine;
    int step = sd_step(machine);
    if (step < 0) {
        return step;
    }
    if (machine->fail_syncs > 0) {
        /* The kernel marks the pages clean: they stay visible, and no later sync writes them. */
        machine->fail_syncs--;
        machine->failed_syncs++;
        for (size_t i = 0; i < file->count; i++) {
            if (file->changes[i].state == SD_PENDING) {
                file->changes[i].state = SD_DOOMED;
                file->has_doomed = 1;
            }
        }
        return step ? sd_crash(machine) : -EIO;
    }
    if (!step || machine->torn_at >= 0.5) {
        machine->syncs++;
        if (!file->has_doomed) {
            forget(file);
        }
        for (size_t i = 0; i < file->count; i++) {
            if (file->changes[i].state == SD_PENDING) {
                file->changes[i].state = SD_SYNCED;
            }
        }
    }
    return step ? sd_crash(machine) : 0;
}

/* -- power loss ---------------------------------------------------------------------------------------- */

uint64_t sd_random(uint64_t *state) { /* splitmix64: Steele, Lea, Flood, OOPSLA 2014 */
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t below(uint64_t *state, uint64_t limit) {
    return sd_random(state) % limit;
}

/* The sectors that a write touched as they stood after it, cut at the file's end. */
struct after {
    uint8_t *bytes;
    int64_t start;
    int64_t end;
};

/* Undo the whole log, newest first, and keep what each write had made of its sectors. */
static int roll_back(sd_file *file, int fd, struct after *afters) {
    for (size_t i = file->count; i-- > 0;) {
        sd_change *change = &file->changes[i];
        if (change->size >= 0) {
            struct after *after = &afters[i];
            after->start = change->offset / SD_SECTOR_BYTES * SD_SECTOR_BYTES;
            after->end = (change->offset + change->size + SD_SECTOR_BYTES - 1) / SD_SECTOR_BYTES * SD_SECTOR_BYTES;
            after->end = after->end < change->new_size ? after->end : change->new_size;
            after->bytes = malloc((size_t)(after->end - after->start));
            if (after->bytes == NULL) {
                return -ENOMEM;
            }
            if (read_all(fd, after->bytes, after->end - after->start, after->start) < 0) {
                return -EIO;
            }
        }
        if (ftruncate(fd, change->old_size) != 0) {
            return -errno;
        }
        if (change->old_length > 0) {
            int64_t written = write_all(fd, change->old, change->old_length, change->offset);
            if (written < 0) {
                return (int)written;
            }
        }
    }
    return 0;
}

enum fate { LOSE, KEEP, TEAR };

/* How the changes of one file fare: all lost, all kept, an ordered disk's prefix, each by itself. */
struct plan {
    int mode;
    size_t cut;   /* of a prefix: this change is the torn one */
    size_t sizes; /* changes of size before this one persist */
};

static struct plan make_plan(sd_file *file, uint64_t *random) {
    size_t forced = 0; /* a later sync brought these changes of size with it */
    for (size_t i = 0; i < file->count; i++) {
        if (file->changes[i].state == SD_SYNCED) {
            forced = i + 1;
        }
    }
    struct plan plan = {.mode = (int)below(random, 4)};
    plan.cut = below(random, file->count + 1);
    size_t sizes[] = {0, file->count, plan.cut + below(random, 2), below(random, file->count + 1)};
    plan.sizes = sizes[plan.mode] > forced ? sizes[plan.mode] : forced;
    return plan;
}

static enum fate fate_of(const sd_change *change, size_t i, const struct plan *plan, uint64_t *random) {
    uint64_t drawn = sd_random(random);
    if (change->state == SD_SYNCED) {
        return KEEP;
    }
    if (change->state == SD_DOOMED) {
        return drawn % 4 == 0 ? TEAR : LOSE;
    }
    switch (plan->mode) {
    case 0:
        return LOSE;
    case 1:
        return KEEP;
    case 2:
        return i < plan->cut ? KEEP : i == plan->cut ? TEAR : LOSE;
    default:
        return (enum fate)(drawn % 3);
    }
}

/* Write the sectors that reached the disk. Returns those that did, those that did not, through the counters. */
static int bring(int fd, const struct after *after, int64_t limit, enum fate fate, uint64_t *random, int64_t *kept,
                 int64_t *lost) {
    for (int64_t at = after->start; at < after->end; at += SD_SECTOR_BYTES) {
        int64_t end = at + SD_SECTOR_BYTES < after->end ? at + SD_SECTOR_BYTES : after->end;
        int is_kept = fate == KEEP || (fate == TEAR && sd_random(random) % 2);
        end = end < limit ? end : limit;
        if (!is_kept || end <= at) {
            ++*lost;
            continue;
        }
        ++*kept;
        int64_t written = write_all(fd, after->bytes + (at - after->start), end - at, at);
        if (written < 0) {
            return (int)written;
        }
    }
    return 0;
}

static int replay(sd_file *file, int fd, const struct after *afters, uint64_t *random, sd_losses *losses) {
    struct plan plan = make_plan(file, random);
    int64_t size = file->count ? file->changes[0].old_size : file->size;
    int64_t ceiling = INT64_MAX; /* behind a truncation that did not persist, later data went to other blocks */
    for (size_t i = 0; i < file->count; i++) {
        const sd_change *change = &file->changes[i];
        if (change->new_size != change->old_size) {
            if (i < plan.sizes) {
                size = change->new_size;
                if (ftruncate(fd, size) != 0) {
                    return -errno;
                }
            } else {
                losses->sizes_lost++;
                if (change->new_size < change->old_size && change->new_size < ceiling) {
                    ceiling = change->new_size;
                }
            }
        }
        if (change->size >= 0) {
            int64_t kept = 0;
            int64_t lost = 0;
            int64_t limit = size < ceiling ? size : ceiling;
            enum fate fate = fate_of(change, i, &plan, random);
            int code = bring(fd, &afters[i], limit, fate, random, &kept, &lost);
            if (code != 0) {
                return code;
            }
            losses->kept += lost == 0;
            losses->lost += kept == 0;
            losses->torn += kept != 0 && lost != 0;
        }
    }
    file->size = size;
    return 0;
}

int sd_settle(sd_file *file, const char *path, uint64_t seed, sd_losses *losses) {
    if (file->count == 0) {
        return 0;
    }
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    struct after *afters = calloc(file->count, sizeof *afters);
    int code = afters == NULL ? -ENOMEM : roll_back(file, fd, afters);
    if (code == 0) {
        code = replay(file, fd, afters, &seed, losses);
    }
    for (size_t i = 0; afters != NULL && i < file->count; i++) {
        free(afters[i].bytes);
    }
    free(afters);
    close(fd);
    forget(file);
    return code;
}
