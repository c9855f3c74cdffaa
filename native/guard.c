#include "guard.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "sql_text.h"

#define RESERVED "_dqlite_"

/* The statement needs `place`, for this reason; an SQLite verdict. */
static int need(struct dq_guard *guard, enum dq_place place, const char *format, ...) {
    bool is_allowed = place <= guard->place;
    if (!is_allowed || !guard->is_refused) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(guard->reason, sizeof guard->reason, format, arguments);
        va_end(arguments);
    }
    guard->is_refused = guard->is_refused || !is_allowed;
    if (place > guard->needed) {
        guard->needed = place;
    }
    return is_allowed ? SQLITE_OK : SQLITE_DENY;
}

/* -1: not in it. */
static int place_of(const char *name, const char *const *list) {
    for (int place = 0; name != NULL && list[place] != NULL; place++) {
        if (sqlite3_stricmp(name, list[place]) == 0) {
            return place;
        }
    }
    return -1;
}

static bool is_one_of(const char *name, const char *const *list) {
    return place_of(name, list) >= 0;
}

static bool has_prefix(const char *name, const char *prefix) {
    return name != NULL && sqlite3_strnicmp(name, prefix, (int)strlen(prefix)) == 0;
}

/* -- by first words ------------------------------------------------------------------------------------- */

#define PRAGMA_ADVICE                                                                                                  \
    "PRAGMA cannot be replicated: the cluster fixes the connection's settings; send reading PRAGMAs as queries of "    \
    "their own"

struct keyword_rule {
    const char *word;
    const char *advice;
};

static const struct keyword_rule keyword_rules[] = {
    {"VACUUM", "VACUUM cannot be replicated: it does not run inside a transaction; free pages are reused"},
    {"ATTACH", "ATTACH cannot be replicated: a file of one node is not on the others; open one database per "
               "connection"},
    {"DETACH", "DETACH cannot be replicated: databases are opened per connection"},
    {"BEGIN", "BEGIN is not a statement of a unit: the statements sent together are one transaction; use commit() "
              "and rollback()"},
    {"COMMIT", "COMMIT is not a statement of a unit: the statements sent together are one transaction; use commit()"},
    {"END", "END is not a statement of a unit: the statements sent together are one transaction; use commit()"},
    {"ROLLBACK", "ROLLBACK is not a statement of a unit: a failing statement undoes its unit; use rollback()"},
    {"SAVEPOINT", "SAVEPOINT is not a statement of a unit: a failing statement undoes its unit; begin a transaction"},
    {"RELEASE", "RELEASE is not a statement of a unit: it has no savepoints; begin a transaction"},
};

/* Skip `word` if it comes next. */
static void skip_word(struct dq_sql *words, const char *word) {
    struct dq_sql ahead = *words;
    struct dq_token token;
    if (dq_sql_next(&ahead, &token) && token.quote == 0 && dq_token_is(&token, word)) {
        *words = ahead;
    }
}

static bool is_one_name(struct dq_sql words) {
    struct dq_token name;
    return dq_sql_next(&words, &name) && !(name.quote == 0 && dq_token_is(&name, ";")) &&
           dq_sql_is_blank(words.at, words.end);
}

/* SAVEPOINT x, RELEASE [SAVEPOINT] x, ROLLBACK [TRANSACTION] TO [SAVEPOINT] x, and nothing else: the authorizer does
 * not tell them apart. It looks at the name. */
static enum dq_control control_of(const struct dq_token *word, struct dq_sql rest) {
    if (dq_token_is(word, "SAVEPOINT")) {
        return is_one_name(rest) ? DQ_SET_OR_RELEASE : DQ_NO_CONTROL;
    }
    if (dq_token_is(word, "RELEASE")) {
        skip_word(&rest, "SAVEPOINT");
        return is_one_name(rest) ? DQ_SET_OR_RELEASE : DQ_NO_CONTROL;
    }
    if (!dq_token_is(word, "ROLLBACK")) {
        return DQ_NO_CONTROL;
    }
    skip_word(&rest, "TRANSACTION");
    struct dq_token to;
    if (!dq_sql_next(&rest, &to) || to.quote != 0 || !dq_token_is(&to, "TO")) {
        return DQ_NO_CONTROL;
    }
    skip_word(&rest, "SAVEPOINT");
    return is_one_name(rest) ? DQ_ROLLBACK_TO : DQ_NO_CONTROL;
}

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
    return need(guard, DQ_NOWHERE,
                "%s of everything visits tables in an order that differs between nodes: use \"%s <table>\" for each",
                command, command);
}

static bool check_word(struct dq_guard *guard, const struct dq_token *word, struct dq_sql rest) {
    if (dq_token_is(word, "PRAGMA")) {
        guard->is_pragma = true;
        return need(guard, DQ_LOOKING, "%s", PRAGMA_ADVICE);
    }
    for (size_t i = 0; i < sizeof keyword_rules / sizeof *keyword_rules; i++) {
        if (dq_token_is(word, keyword_rules[i].word)) {
            enum dq_place place = guard->control == DQ_NO_CONTROL ? DQ_NOWHERE : DQ_IN_GROUP;
            return need(guard, place, "%s", keyword_rules[i].advice);
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
    guard->needed = DQ_IN_UNIT;
    guard->control = DQ_NO_CONTROL;
    guard->is_refused = guard->is_dml = guard->is_alter = guard->is_pragma = false;
    guard->is_follow = size == strlen(DQ_FOLLOW_SQL) && memcmp(sql, DQ_FOLLOW_SQL, size) == 0;
    if (guard->is_follow) {
        guard->saw_follow = true;
        return false;
    }
    struct dq_sql words = {sql, sql + size};
    struct dq_token word;
    bool found = dq_sql_next(&words, &word);
    while (found && word.quote == 0 && dq_token_is(&word, ";")) {
        found = dq_sql_next(&words, &word);
    }
    /* SQLite executes some PRAGMAs while it prepares them, also behind EXPLAIN. */
    bool is_explained = found && dq_token_is(&word, "EXPLAIN");
    if (is_explained) {
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
        return need(guard, DQ_NOWHERE, "names beginning with " RESERVED " are reserved: choose another name");
    }
    guard->control = is_explained ? DQ_NO_CONTROL : control_of(&word, words);
    return check_word(guard, &word, words);
}

/* -- by object ------------------------------------------------------------------------------------------ */

static const char *const local_functions[] = {
    "sqlite_version", "sqlite_source_id", "sqlite_compileoption_used", "sqlite_compileoption_get",
    "fts5_source_id", "sqlite_offset",    NULL,
};
static const char *const refused_functions[] = {"load_extension", "fts3_tokenizer", NULL};

static const char *const allowed_modules[] = {"fts5", "fts4", "fts3", "rtree", "rtree_i32", "geopoly", NULL};

/* What FTS and R-tree ask for themselves when a statement first names their table. */
static const char *const inner_pragmas[] = {"data_version", "page_size", "encoding", NULL};

static const char *const local_tables[] = {"dbstat",       "sqlite_stmt", "bytecode",   "tables_used",
                                           "sqlite_dbpage", "sqlite_memstat", "completion", NULL};

/* storage/authorizer.READ_PRAGMAS: those that only look, and those of them whose argument says at what. */
static const char *const read_pragmas[] = {
    "table_info",      "table_xinfo",      "table_list",      "index_list",     "index_info",
    "index_xinfo",     "foreign_key_list", "foreign_key_check", "integrity_check", "quick_check",
    "function_list",   "module_list",      "collation_list",  "pragma_list",    "compile_options",
    "database_list",   "page_count",       "page_size",       "freelist_count", "user_version",
    "application_id",  "schema_version",   "data_version",    "encoding",       "journal_mode",
    "foreign_keys",    "auto_vacuum",      NULL,
};
#define PRAGMAS_WITH_ARGUMENT 10 /* the first of them */

static int need_temporary(struct dq_guard *guard, enum dq_place place) {
    return need(guard, place, "temporary objects exist on one node's connection only: use an ordinary table");
}

static int check_table(struct dq_guard *guard, int action, const char *table, const char *schema) {
    if (schema != NULL && sqlite3_stricmp(schema, "temp") == 0) {
        /* ALTER looks for the names that it changes there, too; nothing can be in it. */
        bool is_list = sqlite3_stricmp(table, "sqlite_temp_master") == 0;
        if (is_list && guard->is_alter) {
            return SQLITE_OK;
        }
        return need_temporary(guard, is_list && action == SQLITE_READ ? DQ_LOOKING : DQ_NOWHERE);
    }
    if (guard->is_follow && action == SQLITE_CREATE_TABLE && sqlite3_stricmp(table, DQ_FOLLOW_TABLE) == 0) {
        return SQLITE_OK;
    }
    if (has_prefix(table, RESERVED)) {
        return need(guard, DQ_NOWHERE, "tables beginning with " RESERVED " are reserved for the cluster's own state");
    }
    bool is_pragma = has_prefix(table, "pragma_");
    if (is_pragma || is_one_of(table, local_tables)) {
        /* A step of other pragma_ tables could do more than look. */
        bool is_harmless = !is_pragma || is_one_of(table + strlen("pragma_"), read_pragmas);
        return need(guard, is_harmless ? DQ_LOOKING : DQ_NOWHERE,
                    "table %.60s shows one node's state, which differs between nodes: read it in a query of its own",
                    table);
    }
    bool changes = action == SQLITE_INSERT || action == SQLITE_UPDATE || action == SQLITE_DELETE;
    bool statistics = has_prefix(table, "sqlite_stat");
    if (changes && guard->is_dml && statistics) { /* ANALYZE and DROP TABLE write them too */
        return need(guard, DQ_NOWHERE, "table %.60s cannot be written directly: use \"ANALYZE <table>\"", table);
    }
    if (action == SQLITE_DROP_TABLE && statistics) {
        return need(guard, DQ_NOWHERE, "table %.60s cannot be dropped: nodes would plan queries differently", table);
    }
    return SQLITE_OK;
}

static int check_pragma(struct dq_guard *guard, const char *name, const char *argument) {
    if (argument == NULL && is_one_of(name, inner_pragmas)) {
        return SQLITE_OK;
    }
    if (!guard->is_pragma) {
        return need(guard, DQ_NOWHERE, "%s", PRAGMA_ADVICE);
    }
    int place = place_of(name, read_pragmas);
    if (place < 0) {
        return need(guard, DQ_NOWHERE, "PRAGMA %.60s is not available: the cluster fixes the connection's settings",
                    name);
    }
    if (argument != NULL && place >= PRAGMAS_WITH_ARGUMENT) {
        return need(guard, DQ_NOWHERE,
                    "PRAGMA %.60s can be read but not set: the cluster fixes the connection's settings", name);
    }
    return SQLITE_OK;
}

static int check_function(struct dq_guard *guard, const char *name) {
    bool is_refused = is_one_of(name, refused_functions);
    if (!is_refused && !is_one_of(name, local_functions)) {
        return SQLITE_OK;
    }
    return need(guard, is_refused ? DQ_NOWHERE : DQ_LOOKING,
                "function %.60s() may differ between nodes: compute the value first and pass it as a parameter", name);
}

static int check_module(struct dq_guard *guard, const char *module) {
    if (is_one_of(module, allowed_modules)) {
        return SQLITE_OK;
    }
    return need(guard, DQ_NOWHERE,
                "virtual tables of module %.60s cannot be replicated: use fts5, fts4, fts3, rtree or geopoly", module);
}

/* dq_guard_check has seen that it is savepoint control and where it may be. */
static int check_savepoint(struct dq_guard *guard, const char *name) {
    if (guard->control == DQ_NO_CONTROL) {
        return need(guard, DQ_NOWHERE, "transactions and attached databases are not part of a unit");
    }
    if (has_prefix(name, RESERVED)) {
        return need(guard, DQ_NOWHERE, "names beginning with " RESERVED " are reserved: choose another name");
    }
    return SQLITE_OK;
}

static int judge(struct dq_guard *guard, int action, const char *first, const char *second, const char *schema) {
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
        return need(guard, DQ_NOWHERE, "transactions and attached databases are not part of a unit");
    case SQLITE_SAVEPOINT: /* (operation, name) */
        return check_savepoint(guard, second);
    case SQLITE_CREATE_TEMP_INDEX:
    case SQLITE_CREATE_TEMP_TABLE:
    case SQLITE_CREATE_TEMP_TRIGGER:
    case SQLITE_CREATE_TEMP_VIEW:
    case SQLITE_DROP_TEMP_INDEX:
    case SQLITE_DROP_TEMP_TABLE:
    case SQLITE_DROP_TEMP_TRIGGER:
    case SQLITE_DROP_TEMP_VIEW:
        return need_temporary(guard, DQ_NOWHERE);
    default: /* SELECT, RECURSIVE, REINDEX */
        return SQLITE_OK;
    }
}

/* SQLITE_IGNORE tells a DELETE to go row by row; to DROP, which asks the same of its table, it would mean "do nothing". */
static int authorize(void *context, int action, const char *first, const char *second, const char *schema,
                     const char *inside) {
    struct dq_guard *guard = context;
    (void)inside;
    bool after_drop = guard->after_drop;
    guard->after_drop =
        action == SQLITE_DROP_TABLE || action == SQLITE_DROP_VTABLE || action == SQLITE_DROP_VIEW;
    int verdict = judge(guard, action, first, second, schema);
    if (verdict == SQLITE_OK && (action == SQLITE_DROP_TABLE || action == SQLITE_DROP_VTABLE)) {
        guard->drops++;
    }
    bool is_delete = guard->deletes_rows && action == SQLITE_DELETE && !after_drop;
    return verdict == SQLITE_OK && is_delete && sqlite3_stricmp(first, "sqlite_master") != 0 ? SQLITE_IGNORE : verdict;
}

int dq_guard_install(struct dq_guard *guard, sqlite3 *db) {
    return sqlite3_set_authorizer(db, authorize, guard);
}
