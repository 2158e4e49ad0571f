/* options.c - the command line: checking, storing, suggesting. Contract: tools/options.h. Help text: options_help.c. */
#include "tools/options.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/options_help.h"

enum { LIST_MAX = 1000000, NAME_MAX_LENGTH = 63 };

/* "tessera WHO: ..." as exactly one line: what was typed may hold anything. */
__attribute__((format(printf, 2, 0))) static void complain(const char *who, const char *format, va_list args)
{
    char line[1024];
    vsnprintf(line, sizeof line, format, args);
    for (char *c = line; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 127) *c = '?';
    }
    fprintf(stderr, "tessera%s%s: %s\n", *who ? " " : "", who, line);
}

__attribute__((format(printf, 2, 3))) static int refuse(const char *who, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    complain(who, format, args);
    va_end(args);
    return 2;
}

static size_t digits(const char *s)
{
    return strspn(s, "0123456789");
}

/* -?[0-9]+ and nothing else: strtoll alone would take spaces and a plus sign. */
static int is_integer(const char *s)
{
    s += *s == '-';
    size_t n = digits(s);
    return n > 0 && s[n] == '\0';
}

/* [+-]? digits with at most one point, then an optional exponent: no hex, no inf, no nan. */
static int is_decimal(const char *s)
{
    s += *s == '-' || *s == '+';
    size_t whole = digits(s), part = 0;
    s += whole;
    if (*s == '.') part = digits(++s);
    s += part;
    if (whole + part == 0) return 0;
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '-' || *s == '+';
        size_t n = digits(s);
        if (n == 0) return 0;
        s += n;
    }
    return *s == '\0';
}

static int choice_index(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (int i = 0;; i++) {
        size_t m = strcspn(choices, "|");
        if (n == m && memcmp(choices, text, n) == 0) return i;
        if (choices[m] == '\0') return -1;
        choices += m + 1;
    }
}

static int not_whole(const char *who, const char *shown, const char *text, const char *allowed)
{
    return refuse(who, "%s: '%s' is not a whole number (%s)", shown, text, allowed);
}

static int out_of_range(const char *who, const char *shown, const char *text, const char *allowed)
{
    return refuse(who, "%s: %s is out of range (%s)", shown, text, allowed);
}

/* Check the value of one option, and keep it if store is set. shown is the option as it was typed. Returns 0 or 2. */
static int take_value(const char *who, const opt *o, const char *shown, const char *text, int store)
{
    char allowed[OPT_TEXT];
    opt_allowed(o, allowed);
    int index;

    errno = 0;
    switch (o->kind) {
    case OPT_INT: {
        if (!is_integer(text)) return not_whole(who, shown, text, allowed);
        int64_t v = strtoll(text, NULL, 10);
        if (errno == ERANGE || (double)v < o->min || (double)v > o->max) return out_of_range(who, shown, text, allowed);
        if (store) *(int64_t *)o->value = v;
        return 0;
    }
    case OPT_SEED: {
        if (!is_integer(text)) return not_whole(who, shown, text, allowed);
        uint64_t v = strtoull(text, NULL, 10);
        if (errno == ERANGE || *text == '-') return out_of_range(who, shown, text, allowed);
        if (store) *(uint64_t *)o->value = v;
        return 0;
    }
    case OPT_FLOAT: {
        if (!is_decimal(text)) return refuse(who, "%s: '%s' is not a number (%s)", shown, text, allowed);
        double v = strtod(text, NULL);
        if (!(isfinite(v) && v >= o->min && v <= o->max)) return out_of_range(who, shown, text, allowed);
        if (store) *(double *)o->value = v;
        return 0;
    }
    case OPT_STRING:
        if (*text == '\0') return refuse(who, "%s: the value is empty (%s)", shown, allowed);
        if (store) *(const char **)o->value = text;
        return 0;
    case OPT_CHOICE:
        index = choice_index(o->choices, text);
        if (index < 0) return refuse(who, "%s: '%s' is not one of %s", shown, text, allowed);
        if (store) *(int *)o->value = index;
        return 0;
    case OPT_FLAG:
        if (store) *(int *)o->value = 1;
        return 0;
    case OPT_GROUP:
        break;
    }
    return 2;
}

/* Edits (insert, delete, replace) that turn a into b. */
static size_t distance(const char *a, size_t n, const char *b)
{
    size_t row[NAME_MAX_LENGTH + 1], m = strlen(b);
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[m];
}

/* The option whose name is nearest to the n characters that were typed, or NULL if none is near. */
static const char *nearest(const opt *options, const char *typed, size_t n)
{
    const char *found = NULL;
    size_t best = n < 6 ? 3 : n / 3 + 2; /* one more than the edits that still look like a slip */
    if (n == 0 || n > NAME_MAX_LENGTH) return NULL;
    for (const opt *o = options; o->name; o++) {
        if (o->kind == OPT_GROUP || strlen(o->name) > NAME_MAX_LENGTH) continue;
        size_t d = n > 1 && strncmp(o->name, typed, n) == 0 ? 1 : distance(typed, n, o->name);
        if (d < best && d < n) best = d, found = o->name;
    }
    return found;
}

static int unknown(const opt_command *c, const opt *options, const char *typed)
{
    size_t n = strcspn(typed, "=");
    const char *near = strncmp(typed, "--", 2) == 0 ? nearest(options, typed + 2, n - 2) : NULL;
    if (near) return refuse(c->name, "unknown option %.*s; did you mean --%s?", (int)n, typed, near);
    return refuse(c->name, "unknown option %.*s (see tessera %s --help)", (int)n, typed, c->name);
}

/* The option that a word stands for. *text is set to a value written in the same word, or NULL. */
static const opt *find(const opt *options, const char *word, const char **text)
{
    int is_long = word[1] == '-';
    size_t n = strcspn(word, "=");
    *text = NULL;
    for (const opt *o = options; o->name; o++) {
        if (o->kind == OPT_GROUP) continue;
        if (is_long && strlen(o->name) == n - 2 && memcmp(word + 2, o->name, n - 2) == 0) {
            if (word[n] == '=') *text = word + n + 1;
            return o;
        }
        if (!is_long && o->letter && word[1] == o->letter) {
            if (word[2]) *text = word + 2;
            return o;
        }
    }
    return NULL;
}

static int is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

/* Move argv[from] down to argv[to]; what lies between moves up by one. */
static void move_down(char **argv, int from, int to)
{
    char *word = argv[from];
    memmove(argv + to + 1, argv + to, sizeof *argv * (size_t)(from - to));
    argv[to] = word;
}

typedef struct {
    int help;             /* --help was there   */
    int n_positional;     /* in argv[1..] after a pass that stores */
    unsigned char *given; /* one per option */
} result;

/* Go through all words: once to check, once to store, so that --help shows the defaults and an error changes nothing.
 */
static int pass(int argc, char **argv, const opt_command *c, const opt *options, int store, result *r)
{
    int only_positional = 0;
    r->n_positional = 0;
    for (int i = 1; i < argc; i++) {
        char *word = argv[i];
        if (only_positional || word[0] != '-' || word[1] == '\0') {
            r->n_positional++;
            if (store) move_down(argv, i, r->n_positional);
            continue;
        }
        if (strcmp(word, "--") == 0) {
            only_positional = 1;
            continue;
        }
        if (is_help(word)) {
            r->help = 1;
            return 0;
        }
        const char *text;
        const opt *o = find(options, word, &text);
        if (!o) return unknown(c, options, word);

        char shown[NAME_MAX_LENGTH + 3];
        snprintf(shown, sizeof shown, word[1] == '-' ? "--%s" : "-%.1s", word[1] == '-' ? o->name : word + 1);
        if (o->kind == OPT_FLAG && text) return refuse(c->name, "%s takes no value, '%s' was given", shown, text);
        if (o->kind != OPT_FLAG && !text) {
            if (i + 1 == argc || strncmp(argv[i + 1], "--", 2) == 0) {
                char allowed[OPT_TEXT];
                opt_allowed(o, allowed);
                return refuse(c->name, "%s: a value is missing (%s)", shown, allowed);
            }
            text = argv[++i];
        }
        if (take_value(c->name, o, shown, text, store)) return 2;
        r->given[o - options] = 1;
        if (store && o->given) *o->given = 1;
    }
    return 0;
}

static int check_complete(const opt_command *c, const opt *options, const result *r)
{
    for (const opt *o = options; o->name; o++) {
        if (o->kind == OPT_STRING && o->required && !r->given[o - options])
            return refuse(c->name, "--%s %s is required (see tessera %s --help)", o->name, o->argument, c->name);
    }
    int n = r->n_positional, low = c->min_positional, high = c->max_positional;
    if (n < low) return refuse(c->name, "an argument is missing; usage: tessera %s %s", c->name, c->usage);
    if (high >= 0 && n > high)
        return refuse(c->name, "%d arguments were given, at most %d %s used; usage: tessera %s %s", n, high,
                      high == 1 ? "is" : "are", c->name, c->usage);
    return 0;
}

int opt_parse(int argc, char **argv, const opt_command *command, const opt *options, char ***positional,
              int *n_positional, int *exit_code)
{
    size_t count = 0;
    while (options[count].name) count++;
    result r = { .given = calloc(count + 1, 1) };
    if (!r.given) {
        *exit_code = 70;
        refuse(command->name, "out of memory");
        return 1;
    }

    *exit_code = pass(argc, argv, command, options, 0, &r);
    if (*exit_code == 0 && r.help)
        opt_help(command, options);
    else if (*exit_code == 0)
        *exit_code = check_complete(command, options, &r);
    if (*exit_code == 0 && !r.help) {
        pass(argc, argv, command, options, 1, &r);
        *positional = argv + 1;
        *n_positional = r.n_positional;
    }
    free(r.given);
    return *exit_code != 0 || r.help;
}

/* One number at *text: moves *text behind it. Returns 0 if there is none or it lies outside min..max. */
static int list_number(const char **text, int64_t min, int64_t max, int64_t *v)
{
    char *end;
    if (digits(*text) == 0) return 0;
    errno = 0;
    *v = strtoll(*text, &end, 10);
    *text = end;
    return errno == 0 && *v >= min && *v <= max;
}

int opt_list(const char *option, const char *text, int64_t min, int64_t max, int64_t **numbers, int *n)
{
    int64_t *list = NULL, count = 0, first, last;
    const char *t = text;
    for (;; t++) {
        int good = list_number(&t, min, max, &first);
        last = first;
        if (good && *t == '-') t++, good = list_number(&t, min, max, &last) && last >= first;
        if (!good || (*t != ',' && *t != '\0')) {
            free(list);
            return refuse("", "%s: '%s' is not a list of numbers and ranges from %lld to %lld, such as %lld,%lld-%lld",
                          option, text, (long long)min, (long long)max, (long long)min, (long long)min, (long long)max);
        }
        if (last - first >= LIST_MAX - count) {
            free(list);
            return refuse("", "%s: '%s' has more than %d numbers", option, text, LIST_MAX);
        }
        int64_t *more = realloc(list, sizeof *list * (size_t)(count + last - first + 1));
        if (!more) {
            free(list);
            return refuse("", "%s: out of memory", option);
        }
        list = more;
        while (first <= last) list[count++] = first++;
        if (*t == '\0') break;
    }
    *numbers = list;
    *n = (int)count;
    return 0;
}
