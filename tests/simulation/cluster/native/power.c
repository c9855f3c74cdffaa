/* What a power loss leaves of a file: the log undone, then what reached the disk done again. Model: disk.py. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "files.h"
#include "simdisk.h"

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
            if (sd_read_all(fd, after->bytes, after->end - after->start, after->start) < 0) {
                return -EIO;
            }
        }
        if (ftruncate(fd, change->old_size) != 0) {
            return -errno;
        }
        if (change->old_length > 0) {
            int64_t written = sd_write_all(fd, change->old, change->old_length, change->offset);
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
        int64_t written = sd_write_all(fd, after->bytes + (at - after->start), end - at, at);
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
    sd_forget(file);
    return code;
}
