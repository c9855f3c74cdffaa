/* Between files.c and power.c. */
#ifndef SIMDISK_FILES_H
#define SIMDISK_FILES_H

#include "simdisk.h"

/* Bytes done, fewer only at the file's end, or -errno. */
int64_t sd_read_all(int fd, void *target, int64_t size, int64_t offset);
int64_t sd_write_all(int fd, const void *data, int64_t size, int64_t offset);
/* Empty the log. */
void sd_forget(sd_file *file);

#endif
