/* class_list.c - contract: class_list.h. */
#include "tools/class_list.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "tools/common.h"

typedef struct {
    const char *option;
    const char *const *names;
    int count;
    int64_t *list;
    int n;
} classes;

static int no_memory(void)
{
    return report(ts_fail(TS_E_NOMEM, "out of host memory"));
}

static int append(classes *c, const int64_t *numbers, int n)
{
    if (n == 0) return 0;
    int64_t *more = realloc(c->list, sizeof *more * (size_t)(c->n + n));
    if (!more) return no_memory();
    memcpy(more + c->n, numbers, sizeof *more * (size_t)n);
    c->list = more;
    c->n += n;
    return 0;
}

/* What is left of a name without "7-", "07_", "7." or "7 " before it. */
static const char *without_number(const char *name)
{
    size_t digits = strspn(name, "0123456789");
    return digits > 0 && name[digits] && strchr("-_. ", name[digits]) ? name + digits + 1 : name;
}

static int is_exactly(const char *name, const char *text)
{
    return strcmp(name, text) == 0;
}

static int is_in_other_case(const char *name, const char *text)
{
    return strcasecmp(name, text) == 0;
}

static int is_after_number(const char *name, const char *text)
{
    return strcasecmp(without_number(name), text) == 0;
}

/* How many names match; *first is the first of them. */
static int matches(const classes *c, const char *text, int (*is)(const char *, const char *), int *first)
{
    int n = 0;
    for (int i = 0; c->names && i < c->count; i++) {
        if (!is(c->names[i], text)) continue;
        if (n++ == 0) *first = i;
    }
    return n;
}

/* One item; *found is 0 if it is no name (and nothing was said). */
static int add_item(classes *c, const char *text, int *found)
{
    static int (*const rules[])(const char *, const char *) = { is_exactly, is_in_other_case, is_after_number };
    *found = 1;
    for (int i = 0; i < 3; i++) {
        int first = 0, n = matches(c, text, rules[i], &first);
        if (n > 1 && i > 0)
            return report(ts_fail(TS_E_ARG, "%s: '%s' fits %d of the %d classes, the first is '%s'", c->option, text, n, c->count,
                                  c->names[first]));
        if (n > 0) return append(c, &(int64_t){ first }, 1);
        if (i > 0 || strspn(text, "0123456789,-") != strlen(text)) continue;
        int64_t *numbers;
        int code = opt_list(c->option, text, 0, c->count - 1, &numbers, &n);
        if (code) return code;
        code = append(c, numbers, n);
        free(numbers);
        return code;
    }
    *found = 0;
    return 0;
}

static int unknown(const classes *c, const char *text)
{
    return report(ts_fail(TS_E_ARG, "%s: '%s' is none of the %d classes%s", c->option, text, c->count,
                          c->names ? "" : ", which have no names"));
}

static int add_items(classes *c, const char *text)
{
    int found, code = add_item(c, text, &found);
    if (code || found) return code;
    if (!strchr(text, ',')) return unknown(c, text);
    for (const char *t = text;; t++) {
        size_t n = strcspn(t, ",");
        char *item = strndup(t, n);
        if (!item) return no_memory();
        code = add_item(c, item, &found);
        if (!code && !found) code = unknown(c, item);
        free(item);
        t += n;
        if (code || !*t) return code;
    }
}

int class_list(const char *option, const char *text, const char *const *names, int count, int64_t **numbers, int *n)
{
    classes c = { option, names, count, NULL, 0 };
    int code = 0;
    if (strcmp(text, "all") == 0) {
        for (int64_t i = 0; i < count && !code; i++) code = append(&c, &i, 1);
    } else {
        code = add_items(&c, text);
    }
    if (code) free(c.list), c.list = NULL, c.n = 0;
    *numbers = c.list;
    *n = c.n;
    return code;
}
