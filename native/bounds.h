/* Bounds that every node must share, because states depend on them: dqlite_py/limits.py has the same. */
#ifndef DQ_BOUNDS_H
#define DQ_BOUNDS_H

#define DQ_UNITS_MAX 4096   /* ENTRY_UNITS_MAX */
#define DQ_PARAMS_MAX 32766 /* STATEMENT_PARAMS_MAX */

/* Client sessions */
#define DQ_SESSION_KEEP_US 3600000000LL        /* SESSION_KEEP_US */
#define DQ_SESSION_AHEAD_US 10000000LL         /* SESSION_AHEAD_US */
#define DQ_SESSIONS_MAX 65536                  /* SESSIONS_MAX */
#define DQ_SESSION_RESULT_BYTES_MAX (64 << 10) /* SESSION_RESULT_BYTES_MAX */
#define DQ_SESSION_ROW_BYTES_MAX (16 << 20)    /* SESSION_ROW_BYTES_MAX */
#define DQ_SESSION_ROWS_BYTES_MAX (64 << 20)   /* SESSION_ROWS_BYTES_MAX */
#define DQ_SESSION_EVICTIONS_MAX 4096          /* SESSION_EVICTIONS_MAX */

#endif
