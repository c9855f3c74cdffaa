/* Just enough of SQL's lexical rules to see a statement's first words and whether more follows it. */
#ifndef DQ_SQL_TEXT_H
#define DQ_SQL_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* A word (letters, digits, '_', '$', bytes above 127), a quoted name without its quotes, or one character. */
struct dq_token {
    const char *text;
    size_t size;
    char quote; /* the opening quote of a quoted name, else 0 */
};

struct dq_sql {
    const char *at;
    const char *end;
};

/* Next token after white space and comments; false at the end. */
bool dq_sql_next(struct dq_sql *sql, struct dq_token *token);
bool dq_token_is(const struct dq_token *token, const char *upper_case_word);
/* True when nothing but white space, comments and semicolons is left. */
bool dq_sql_is_blank(const char *text, const char *end);
/* True when the text contains `lower_case` in any case. */
bool dq_sql_contains(const char *text, size_t size, const char *lower_case);

#endif
