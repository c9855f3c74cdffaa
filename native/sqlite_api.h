/* SQLite through the routine table that apsw's own library hands over (bootstrap.c); no sqlite3_* symbol is linked. */
#ifndef DQ_SQLITE_API_H
#define DQ_SQLITE_API_H

#include "sqlite3ext.h"

SQLITE_EXTENSION_INIT3

#endif
