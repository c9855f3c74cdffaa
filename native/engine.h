/* The writer of one database: everything that dq_apply needs, on a connection that only one thread uses. */
#ifndef DQ_ENGINE_H
#define DQ_ENGINE_H

#include "functions.h"
#include "guard.h"
#include "msgpack.h"
#include "native.h"
#include "payload.h"
#include "sessions.h"
#include "sqlite_api.h"
#include "statements.h"
#include "vfs.h"

/* A unit that rolls the whole SQLite transaction back (OR ROLLBACK, RAISE(ROLLBACK)) costs a replay of the entry. */
#define DQ_KILLERS_MAX 64

struct dq_killer {
    uint32_t unit;
    uint32_t failed_at; /* position of the statement */
    struct dq_error error;
};

struct dq_sql_text {
    const char *sql;
    size_t size;
};

/* What the schema's text holds, so that units need not pay for what no table uses. A word that is nowhere in it can
 * have no effect; one that is, perhaps in a comment, only costs time. Forgotten with the prepared statements. */
struct dq_schema_words {
    bool is_known;
    bool has_changes;    /* a trigger, view or default may call changes() */
    bool has_references; /* there may be deferred foreign keys */
};

/* The live transaction (live.c). */
struct dq_live {
    bool is_open;
    bool has_changed;  /* more than savepoint control was recorded */
    uint32_t recorded; /* groups */
    int64_t now_us;
    uint8_t seed[DQ_SEED_BYTES];
    uint8_t digest[DQ_DIGEST_BYTES]; /* of the results of the recorded groups */
    const int32_t *flag;             /* of the run under way */
    int64_t deadline_us;             /* of the run under way, monotonic; INT64_MAX: none */
    bool is_late;                    /* the deadline was met */
    int (*look)(void);               /* NULL, or lets the caller's thread look whether it has to leave */
    int64_t look_us;                 /* when it may next */
    bool is_left;                    /* it has to */
};

struct dq_engine {
    sqlite3 *db;
    sqlite3_stmt *begin, *commit, *rollback, *savepoint, *release, *rollback_to, *set_index, *reset_changes;
    sqlite3_stmt *schema_words, *is_followed;
    struct dq_statements statements;
    struct dq_schema_words words;
    struct dq_guard guard;
    struct dq_functions functions;
    struct dq_watch watch;
    struct dq_sessions sessions;

    struct dq_payload payload;
    struct dq_sql_text *texts; /* string SQL of the unit at hand, for references by position */
    size_t text_count, text_capacity;
    struct dq_item *named; /* values of a statement's named parameters, with their names */
    size_t named_capacity;

    struct dq_buffer results;
    uint64_t row_bytes, row_bytes_max; /* of the entry's result rows, counted the same with and without output */
    struct dq_killer killers[DQ_KILLERS_MAX];
    uint32_t killer_count;
    uint32_t refused_from; /* units from here on are refused: too many killers before them */
    bool use_savepoints;   /* every unit has a savepoint in this pass */
    bool max_rowid_used;
    bool schema_changed;  /* by the unit at hand */
    bool schema_touched;  /* by the SQLite transaction at hand, or the one before */
    bool wrote;           /* the body at hand: a statement that may write, or savepoint control, was stepped */
    bool changed;         /* the same, more than savepoint control */
    bool keeps_decltypes;
    struct dq_buffer decltypes; /* of the columns of the last statement that has some: [text or nil, ...] */
    struct dq_live live;
    bool changes_are_old; /* changes() still shows what an earlier unit left */
    bool rowid_is_zero;   /* last_insert_rowid() is known to be 0 */
    dq_hook before_commit; /* NULL: none */
    void *before_commit_context;
    struct dq_error last_error; /* behind outcome.message */
};

/* Step a statement of our own to its end and reset it; an SQLite code. */
int dq_run_own(sqlite3_stmt *statement);
/* Find out whether each row that is deleted is to be seen by hooks (guard.h). An SQLite code. */
int dq_learn_followed(struct dq_engine *engine);
/* The schema changed, or a change of it was undone: prepare everything anew. */
void dq_forget_schema(struct dq_engine *engine);
/* Let SQLite read the schema anew, too: it keeps the statistics of an undone ANALYZE, and its R-trees those that they
 * were opened with, so that it would plan otherwise than a node that started since. */
int dq_reload_schema(struct dq_engine *engine);
/* BEGIN, with the schema as a node that has just started reads it. An SQLite code. */
int dq_begin(struct dq_engine *engine);

#endif
