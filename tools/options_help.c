/* options_help.c - the texts of an option table. Contract: tools/options_help.h. */
#include "tools/options_help.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LINE = 100,
    LEFT_MAX = 34
}; /* columns: of a line, and of "  -n, --name VALUE" before the text starts below it */

/* The shortest plain form that reads back as v: 0.000001 rather than 1e-06. */
static void number_text(double v, char text[OPT_TEXT])
{
    if (fabs(v) < 1e15) {
        for (int places = 0; places <= 9; places++) {
            snprintf(text, OPT_TEXT, "%.*f", places, v);
            if (strtod(text, NULL) == v) return;
        }
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, OPT_TEXT, "%.*g", digits, v);
        if (strtod(text, NULL) == v) return;
    }
}

static void range_text(const opt *o, char text[OPT_TEXT])
{
    char low[OPT_TEXT], high[OPT_TEXT];
    number_text(o->min, low);
    number_text(o->max, high);
    if (isinf(o->min) && isinf(o->max))
        snprintf(text, OPT_TEXT, "any %snumber", o->kind == OPT_INT ? "whole " : "");
    else if (isinf(o->max))
        snprintf(text, OPT_TEXT, "%.100s or more", low);
    else if (isinf(o->min))
        snprintf(text, OPT_TEXT, "%.100s or less", high);
    else
        snprintf(text, OPT_TEXT, "%.100s to %.100s", low, high);
}

/* "auto|cpu|cuda" -> "auto, cpu or cuda" */
static void choices_text(const char *choices, char text[OPT_TEXT])
{
    size_t at = 0;
    for (const char *c = choices; *c && at + 5 < OPT_TEXT; c++) {
        if (*c != '|')
            text[at++] = *c;
        else
            at += (size_t)sprintf(text + at, "%s", strchr(c + 1, '|') ? ", " : " or ");
    }
    text[at] = '\0';
}

void opt_allowed(const opt *o, char text[OPT_TEXT])
{
    switch (o->kind) {
    case OPT_INT:
    case OPT_FLOAT:
        range_text(o, text);
        return;
    case OPT_SEED:
        snprintf(text, OPT_TEXT, "0 to %llu", (unsigned long long)UINT64_MAX);
        return;
    case OPT_CHOICE:
        choices_text(o->choices, text);
        return;
    case OPT_STRING:
    case OPT_FLAG:
    case OPT_GROUP:
        snprintf(text, OPT_TEXT, "%s", o->argument ? o->argument : "");
        return;
    }
}

static void default_text(const opt *o, char text[OPT_TEXT])
{
    const char *s = o->choices;
    text[0] = '\0';
    switch (o->kind) {
    case OPT_INT:
        snprintf(text, OPT_TEXT, "%lld", (long long)*(const int64_t *)o->value);
        return;
    case OPT_SEED:
        snprintf(text, OPT_TEXT, "%llu", (unsigned long long)*(const uint64_t *)o->value);
        return;
    case OPT_FLOAT:
        number_text(*(const double *)o->value, text);
        return;
    case OPT_STRING:
        s = *(const char *const *)o->value;
        snprintf(text, OPT_TEXT, "%s", s ? s : "");
        return;
    case OPT_CHOICE:
        for (int i = *(const int *)o->value; i > 0 && strchr(s, '|'); i--) s = strchr(s, '|') + 1;
        snprintf(text, OPT_TEXT, "%.*s", (int)strcspn(s, "|"), s);
        return;
    case OPT_FLAG:
    case OPT_GROUP:
        return;
    }
}

/* "help (1 to 1024; default 16)" */
static void right_text(const opt *o, char *text, size_t size)
{
    char allowed[OPT_TEXT] = "", fallback[OPT_TEXT];
    if (o->kind == OPT_INT || o->kind == OPT_FLOAT || o->kind == OPT_SEED) opt_allowed(o, allowed);
    default_text(o, fallback);
    const char *given = o->required ? "required" : *fallback ? "default " : "";
    if (o->required) fallback[0] = '\0';
    if (*allowed || *given)
        snprintf(text, size, "%s (%s%s%s%s)", o->help, allowed, *allowed && *given ? "; " : "", given, fallback);
    else
        snprintf(text, size, "%s", o->help);
}

static int left_text(const opt *o, char *text, size_t size)
{
    char letter[8] = "";
    if (o->letter) snprintf(letter, sizeof letter, "-%c, ", o->letter);
    const char *argument = o->kind == OPT_CHOICE ? o->choices : o->kind == OPT_FLAG ? NULL : o->argument;
    return snprintf(text, size, "  %s--%s%s%s", letter, o->name, argument ? " " : "", argument ? argument : "");
}

/* Words of text from the current column on, broken before column LINE, continued at column indent. */
static void print_wrapped(const char *text, int column, int indent)
{
    int start = 1;
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (!start && column + 1 + n > LINE) {
            printf("\n%*s", indent, "");
            column = indent;
            start = 1;
        }
        printf("%s%.*s", start ? "" : " ", n, text);
        column += n + !start;
        start = 0;
        text += n;
        text += strspn(text, " ");
    }
    printf("\n");
}

static void print_option(const opt *o, int indent)
{
    char left[OPT_TEXT], right[4 * OPT_TEXT];
    int n = left_text(o, left, sizeof left);
    right_text(o, right, sizeof right);
    if (n + 2 > indent)
        printf("%s\n%*s", left, indent, "");
    else
        printf("%-*s", indent, left);
    print_wrapped(right, indent, indent);
}

void opt_help(const opt_command *command, const opt *options)
{
    static const opt help = { .name = "help", .letter = 'h', .kind = OPT_FLAG, .help = "print this text" };
    char left[OPT_TEXT];
    int indent = left_text(&help, left, sizeof left) + 2;
    for (const opt *o = options; o->name; o++) {
        if (o->kind == OPT_GROUP) continue;
        int n = left_text(o, left, sizeof left) + 2;
        if (n > indent && n <= LEFT_MAX) indent = n;
    }

    printf("usage: tessera %s %s\n\n", command->name, command->usage);
    print_wrapped(command->about, 0, 0);
    if (options[0].name && options[0].kind != OPT_GROUP) printf("\nOptions:\n");
    for (const opt *o = options; o->name; o++) {
        if (o->kind == OPT_GROUP)
            printf("\n%s:\n", o->name);
        else
            print_option(o, indent);
    }
    if (!options[0].name) printf("\nOptions:\n");
    print_option(&help, indent);
}
