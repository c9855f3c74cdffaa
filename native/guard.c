#include "guard.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sql_text.h"

#define RESERVED "_dqlite_"

static void refuse(struct dq_guard *guard, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(guard->reason, sizeof guard->reason, format, arguments);
    va_end(arguments);
}

static bool is_one_of(const char *name, const char *const *list) {
    for (; name != NULL && *list != NULL; list++) {
        if (sqlite3_stricmp(name, *list) == 0) {
            return true;
        }
    }
    return false;
}

static bool has_prefix(const char *name, const char *prefix) {
    return name != NULL && sqlite3_strnicmp(name, prefix, (int)strlen(prefix)) == 0;
}

/* -- by first words ------------------------------------------------------------------------------------- */

struct keyword_rule {
    const char *word;
    const char *advice;
};

static const struct keyword_rule keyword_rules[] = {
    {"PRAGMA", "PRAGMA cannot be replicated: the cluster fixes the connection's settings; send reading PRAGMAs as "
               "queries of their own"},
    {"VACUUM", "VACUUM cannot be replicated: it does not run inside a transaction; free pages are reused"},
    {"ATTACH", "ATTACH cannot be replicated: a file of one node is not on the others; open one database per "
               "connection"},
    {"DETACH", "DETACH cannot be replicated: databases are opened per connection"},
    {"BEGIN", "BEGIN is not a statement of a unit: the statements sent together are one transaction; use commit() "
              "and rollback()"},
    {"COMMIT", "COMMIT is not a statement of a unit: the statements sent together are one transaction; use commit()"},
    {"END", "END is not a statement of a unit: the statements sent together are one transaction; use commit()"},
    {"ROLLBACK", "ROLLBACK is not a statement of a unit: a failing statement undoes its unit; use rollback()"},
    {"SAVEPOINT", "SAVEPOINT is not supported: a failing statement undoes its unit; split the unit instead"},
    {"RELEASE", "RELEASE is not supported: there are no savepoints; split the unit instead"},
};

static bool check_no_name(struct dq_guard *guard, struct dq_sql words, const char *command) {
    struct dq_token first, second;
    bool named = dq_sql_next(&words, &first) && (first.quote != 0 || !dq_token_is(&first, ";"));
    bool qualified = named && dq_sql_next(&words, &second) && second.quote == 0 && dq_token_is(&second, ".");
    static const char *const general[] = {"MAIN", "TEMP", "BINARY", "NOCASE", "RTRIM", NULL};
    bool is_general = false;
    for (int i = 0; named && general[i] != NULL; i++) {
        is_general = is_general || dq_token_is(&first, general[i]);
    }
    if (named && (qualified || !is_general)) {
        return false;
    }
    refuse(guard, "%s of everything visits tables in an order that differs between nodes: use \"%s <table>\" for each",
           command, command);
    return true;
}

static bool check_word(struct dq_guard *guard, const struct dq_token *word, struct dq_sql rest) {
    for (size_t i = 0; i < sizeof keyword_rules / sizeof *keyword_rules; i++) {
        if (dq_token_is(word, keyword_rules[i].word)) {
            refuse(guard, "%s", keyword_rules[i].advice);
            return true;
        }
    }
    if (dq_token_is(word, "ANALYZE")) {
        return check_no_name(guard, rest, "ANALYZE");
    }
    if (dq_token_is(word, "REINDEX")) {
        return check_no_name(guard, rest, "REINDEX");
    }
    return false;
}

static bool is_dml_word(const struct dq_token *word) {
    return dq_token_is(word, "INSERT") || dq_token_is(word, "UPDATE") || dq_token_is(word, "DELETE") ||
           dq_token_is(word, "REPLACE") || dq_token_is(word, "WITH");
}

bool dq_guard_check(struct dq_guard *guard, const char *sql, size_t size) {
    guard->reason[0] = '\0';
    guard->is_dml = guard->is_alter = false;
    struct dq_sql words = {sql, sql + size};
    struct dq_token word;
    bool found = dq_sql_next(&words, &word);
    while (found && word.quote == 0 && dq_token_is(&word, ";")) {
        found = dq_sql_next(&words, &word);
    }
    /* SQLite executes some PRAGMAs while it prepares them, also behind EXPLAIN. */
    if (found && dq_token_is(&word, "EXPLAIN")) {
        found = dq_sql_next(&words, &word);
        if (found && dq_token_is(&word, "QUERY")) {
            found = dq_sql_next(&words, &word) && dq_sql_next(&words, &word);
        }
    }
    if (!found || word.quote != 0) {
        return false;
    }
    guard->is_dml = is_dml_word(&word);
    guard->is_alter = dq_token_is(&word, "ALTER");
    bool defines = dq_token_is(&word, "CREATE") || guard->is_alter;
    if (defines && dq_sql_contains(sql, size, RESERVED)) {
        refuse(guard, "names beginning with " RESERVED " are reserved: choose another name");
        return true;
    }
    return check_word(guard, &word, words);
}

/* -- by object ------------------------------------------------------------------------------------------ */

static const char *const refused_functions[] = {
    "sqlite_version",  "sqlite_source_id", "sqlite_compileoption_used", "sqlite_compileoption_get", "load_extension",
    "fts3_tokenizer",  "fts5_source_id",   "sqlite_offset",             NULL,
};

static const char *const allowed_modules[] = {"fts5", "fts4", "fts3", "rtree", "rtree_i32", "geopoly", NULL};

/* What FTS and R-tree ask for themselves when a statement first names their table. */
static const char *const inner_pragmas[] = {"data_version", "page_size", "encoding", NULL};

static const char *const local_tables[] = {"dbstat",       "sqlite_stmt", "bytecode",   "tables_used",
                                           "sqlite_dbpage", "sqlite_memstat", "completion", NULL};

static int deny_temporary(struct dq_guard *guard) {
    refuse(guard, "temporary objects exist on one node's connection only: use an ordinary table");
    return SQLITE_DENY;
}

static int check_table(struct dq_guard *guard, int action, const char *table, const char *schema) {
    if (schema != NULL && sqlite3_stricmp(schema, "temp") == 0) {
        /* ALTER looks for the names that it changes there, too; nothing can be in it. */
        bool is_own = guard->is_alter && sqlite3_stricmp(table, "sqlite_temp_master") == 0;
        return is_own ? SQLITE_OK : deny_temporary(guard);
    }
    if (has_prefix(table, RESERVED)) {
        refuse(guard, "tables beginning with " RESERVED " are reserved for the cluster's own state");
        return SQLITE_DENY;
    }
    if (has_prefix(table, "pragma_") || is_one_of(table, local_tables)) {
        refuse(guard, "table %.60s shows one node's state, which differs between nodes: read it in a query of its own",
               table);
        return SQLITE_DENY;
    }
    bool changes = action == SQLITE_INSERT || action == SQLITE_UPDATE || action == SQLITE_DELETE;
    bool statistics = has_prefix(table, "sqlite_stat");
    if (changes && guard->is_dml && statistics) { /* ANALYZE and DROP TABLE write them too */
        refuse(guard, "table %.60s cannot be written directly: use \"ANALYZE <table>\"", table);
        return SQLITE_DENY;
    }
    if (action == SQLITE_DROP_TABLE && statistics) {
        refuse(guard, "table %.60s cannot be dropped: nodes would plan queries differently", table);
        return SQLITE_DENY;
    }
    return SQLITE_OK;
}

static int check_pragma(struct dq_guard *guard, const char *name, const char *argument) {
    if (argument == NULL && is_one_of(name, inner_pragmas)) {
        return SQLITE_OK;
    }
    refuse(guard, "%s", keyword_rules[0].advice);
    return SQLITE_DENY;
}

static int check_function(struct dq_guard *guard, const char *name) {
    if (!is_one_of(name, refused_functions)) {
        return SQLITE_OK;
    }
    refuse(guard, "function %.60s() may differ between nodes: compute the value first and pass it as a parameter", name);
    return SQLITE_DENY;
}

static int check_module(struct dq_guard *guard, const char *module) {
    if (is_one_of(module, allowed_modules)) {
        return SQLITE_OK;
    }
    refuse(guard, "virtual tables of module %.60s cannot be replicated: use fts5, fts4, fts3, rtree or geopoly", module);
    return SQLITE_DENY;
}

static int authorize(void *context, int action, const char *first, const char *second, const char *schema,
                     const char *inside) {
    struct dq_guard *guard = context;
    (void)inside;
    if (!guard->active) {
        return SQLITE_OK;
    }
    switch (action) {
    case SQLITE_READ:
    case SQLITE_INSERT:
    case SQLITE_UPDATE:
    case SQLITE_DELETE:
    case SQLITE_CREATE_TABLE:
    case SQLITE_CREATE_VIEW:
    case SQLITE_DROP_TABLE:
    case SQLITE_DROP_VIEW:
    case SQLITE_DROP_VTABLE:
    case SQLITE_ANALYZE:
        return check_table(guard, action, first, schema);
    case SQLITE_CREATE_INDEX:
    case SQLITE_CREATE_TRIGGER:
    case SQLITE_DROP_INDEX:
    case SQLITE_DROP_TRIGGER:
        return check_table(guard, action, second, schema);
    case SQLITE_ALTER_TABLE: /* (schema, table) */
        return check_table(guard, action, second, first);
    case SQLITE_CREATE_VTABLE: {
        int verdict = check_table(guard, action, first, schema);
        return verdict ? verdict : check_module(guard, second);
    }
    case SQLITE_FUNCTION: /* (NULL, name) */
        return check_function(guard, second);
    case SQLITE_PRAGMA:
        return check_pragma(guard, first, second);
    case SQLITE_ATTACH:
    case SQLITE_DETACH:
    case SQLITE_TRANSACTION:
    case SQLITE_SAVEPOINT:
        refuse(guard, "transactions and attached databases are not part of a unit");
        return SQLITE_DENY;
    case SQLITE_CREATE_TEMP_INDEX:
    case SQLITE_CREATE_TEMP_TABLE:
    case SQLITE_CREATE_TEMP_TRIGGER:
    case SQLITE_CREATE_TEMP_VIEW:
    case SQLITE_DROP_TEMP_INDEX:
    case SQLITE_DROP_TEMP_TABLE:
    case SQLITE_DROP_TEMP_TRIGGER:
    case SQLITE_DROP_TEMP_VIEW:
        return deny_temporary(guard);
    default: /* SELECT, RECURSIVE, REINDEX */
        return SQLITE_OK;
    }
}

int dq_guard_install(struct dq_guard *guard, sqlite3 *db) {
    return sqlite3_set_authorizer(db, authorize, guard);
}
