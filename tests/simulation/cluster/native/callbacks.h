/* What C calls in Python; cffi makes them (extern "Python" in disk_native.py). They must not switch greenlets. */
#ifndef SIMDISK_CALLBACKS_H
#define SIMDISK_CALLBACKS_H

#include "simdisk.h"

/* The machine's life has ended. */
void sd_py_crashed(int id);
/* Open a file for SQLite, creating it as `create` says, with a reference. 0, SD_CRASHED or -errno. */
int sd_py_open(int id, const char *path, int create, int exclusive, sd_file **file);
/* 0, SD_CRASHED or -errno. */
int sd_py_unlink(int id, const char *path);
int sd_py_sync_folder(int id, const char *path);

#endif
