#include "sql_text.h"

#include <string.h>

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\f' || c == '\r';
}

static bool is_word(char c) {
    return (lower(c) >= 'a' && lower(c) <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '$' ||
           (unsigned char)c >= 0x80;
}

static bool starts(const struct dq_sql *sql, const char *prefix) {
    size_t size = strlen(prefix);
    return (size_t)(sql->end - sql->at) >= size && memcmp(sql->at, prefix, size) == 0;
}

static void skip_blank(struct dq_sql *sql) {
    while (sql->at < sql->end) {
        if (is_space(*sql->at)) {
            sql->at++;
        } else if (starts(sql, "\xef\xbb\xbf")) { /* a byte order mark is a space to SQLite */
            sql->at += 3;
        } else if (starts(sql, "--")) {
            const char *line_end = memchr(sql->at, '\n', (size_t)(sql->end - sql->at));
            sql->at = line_end ? line_end + 1 : sql->end;
        } else if (starts(sql, "/*")) {
            sql->at += 2;
            while (sql->at < sql->end && !starts(sql, "*/")) {
                sql->at++;
            }
            sql->at = sql->at < sql->end ? sql->at + 2 : sql->end;
        } else {
            return;
        }
    }
}

static void take_quoted(struct dq_sql *sql, struct dq_token *token) {
    token->quote = *sql->at++;
    char close = token->quote == '[' ? ']' : token->quote;
    token->text = sql->at;
    while (sql->at < sql->end) {
        bool doubled = sql->at + 1 < sql->end && sql->at[1] == close && close != ']';
        if (*sql->at != close) {
            sql->at++;
        } else if (doubled) {
            sql->at += 2;
        } else {
            break;
        }
    }
    token->size = (size_t)(sql->at - token->text);
    sql->at += sql->at < sql->end;
}

bool dq_sql_next(struct dq_sql *sql, struct dq_token *token) {
    skip_blank(sql);
    if (sql->at >= sql->end) {
        return false;
    }
    if (strchr("\"'`[", *sql->at) != NULL && *sql->at != '\0') {
        take_quoted(sql, token);
        return true;
    }
    token->quote = 0;
    token->text = sql->at++;
    if (is_word(*token->text)) {
        while (sql->at < sql->end && is_word(*sql->at)) {
            sql->at++;
        }
    }
    token->size = (size_t)(sql->at - token->text);
    return true;
}

static bool equals(const char *text, size_t size, const char *word) {
    if (strlen(word) != size) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        if (lower(text[i]) != lower(word[i])) {
            return false;
        }
    }
    return true;
}

bool dq_token_is(const struct dq_token *token, const char *upper_case_word) {
    return equals(token->text, token->size, upper_case_word);
}

bool dq_sql_is_blank(const char *text, const char *end) {
    struct dq_sql sql = {text, end};
    struct dq_token token;
    while (dq_sql_next(&sql, &token)) {
        if (token.quote != 0 || !dq_token_is(&token, ";")) {
            return false;
        }
    }
    return true;
}

bool dq_sql_contains(const char *text, size_t size, const char *lower_case) {
    size_t wanted = strlen(lower_case);
    for (size_t i = 0; i + wanted <= size; i++) {
        if (lower(text[i]) == lower_case[0] && equals(text + i, wanted, lower_case)) {
            return true;
        }
    }
    return false;
}
