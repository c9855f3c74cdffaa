/* An interactive transaction, live on the leader's writer connection until it is rolled back: what it wrote is then
 * proposed as a transaction unit (group.h). Never writes to the WAL. native.h has the functions.
 *
 * What cannot be replayed ends it at once: a statement that rolled the SQLite transaction back, this node's trouble
 * (memory, files), an interrupt of a group that may have written, use of the largest rowid.
 */
#ifndef DQ_LIVE_H
#define DQ_LIVE_H

#include "engine.h"

/* Roll back what is open; an SQLite code. */
int dq_live_stop(struct dq_engine *engine);

#endif
