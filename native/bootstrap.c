/* How this library reaches apsw's SQLite: Python loads the same shared object once as a loadable extension on a
 * throw-away apsw connection; SQLite then hands over its routine table, which stays valid for the process. */
#include "sqlite3ext.h"

SQLITE_EXTENSION_INIT1

#include "native.h"
#include "vfs.h"

#define SQLITE_VERSION_MIN 3040000 /* the vendored headers */

int dq_ready(void) {
    return sqlite3_api ? sqlite3_libversion_number() : 0;
}

__attribute__((visibility("default"))) int sqlite3_dqlitenative_init(sqlite3 *db, char **message,
                                                                     const sqlite3_api_routines *api) {
    (void)db;
    if (sqlite3_api != NULL && sqlite3_api != api) {
        *message = api->mprintf("dqlite_py._native is already bound to another SQLite library");
        return SQLITE_ERROR;
    }
    if (api->libversion_number() < SQLITE_VERSION_MIN) {
        *message = api->mprintf("dqlite_py needs SQLite 3.40 or later");
        return SQLITE_ERROR;
    }
    SQLITE_EXTENSION_INIT2(api);
    int code = dq_vfs_register();
    if (code != SQLITE_OK) {
        *message = sqlite3_mprintf("the VFS could not be registered: %s", sqlite3_errstr(code));
        return code;
    }
    return SQLITE_OK_LOAD_PERMANENTLY;
}
