/* Machines, and files with their log of unsynced changes. */
#include "simdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "callbacks.h"
#include "files.h"

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

void sd_forget(sd_file *file) {
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
    sd_forget(file);
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

int64_t sd_read_all(int fd, void *target, int64_t size, int64_t offset) {
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

int64_t sd_write_all(int fd, const void *data, int64_t size, int64_t offset) {
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
        if (change->old == NULL || sd_read_all(file->fd, change->old, old_length, from) != old_length) {
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
        int64_t written = sd_write_all(file->fd, data, size, offset);
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
    return file->machine->is_dead ? SD_CRASHED : sd_read_all(file->fd, target, size, offset);
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
            sd_forget(file);
        }
        for (size_t i = 0; i < file->count; i++) {
            if (file->changes[i].state == SD_PENDING) {
                file->changes[i].state = SD_SYNCED;
            }
        }
    }
    return step ? sd_crash(machine) : 0;
}
