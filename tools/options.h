/* options.h - command-line options from one table: parsing, checking, --help with defaults and ranges.
 *
 * Every option is --name VALUE or --name=VALUE (flags take none); one-letter aliases too (-n 4). Anything that is not an option
 * is a positional argument; -- ends the options. A bad value is one line on stderr that names the option, what was given and what
 * is allowed, and exit code 2.
 */
#ifndef TS_OPTIONS_H
#define TS_OPTIONS_H

#include <stdint.h>

typedef enum { OPT_FLAG, OPT_INT, OPT_FLOAT, OPT_STRING, OPT_CHOICE, OPT_SEED, OPT_GROUP } opt_kind;

typedef struct {
    const char *name;    /* "batch"                                                             */
    char letter;         /* 'b', or 0                                                           */
    opt_kind kind;
    void *value;         /* int *, int64_t *, double *, const char **, int * (choice index), uint64_t *; not NULL */
    double min, max;     /* INT and FLOAT; checked, shown; -INFINITY and INFINITY: no bound     */
    const char *choices; /* CHOICE: "auto|cpu|cuda"                                             */
    const char *argument; /* "N", "DIR": what help shows                                        */
    const char *help;    /* one line                                                            */
    int required;        /* STRING: must be given                                               */
    int *given;          /* becomes 1 if the option was there; may be NULL                      */
} opt;                   /* INT is int64_t; FLAG and CHOICE are int; defaults are what *value holds before parsing.
                          * GROUP is no option: its name is a heading for the options after it. */

typedef struct {
    const char *name;    /* "tokenize"                                                          */
    const char *usage;   /* "--tokenizer T.safetensors --out DIR INPUT..."                      */
    const char *about;   /* one or two sentences                                                */
    int min_positional, max_positional; /* max -1: any number                                   */
} opt_command;

/* Parse argv[1..]. options ends with an entry whose name is NULL. Returns 0 and sets *positional (into argv, reordered) and
 * *n_positional; or prints help (exit code 0 in *exit_code) or an error (2), stores nothing and returns 1.
 * --help and -h are always known. Of an option given twice the last value counts. */
int opt_parse(int argc, char **argv, const opt_command *command, const opt *options, char ***positional,
              int *n_positional, int *exit_code);

/* Parse a list such as "3,7,10-12" into numbers min..max (0 <= min, malloc'ed, 1 to 1,000,000 of them, repeats kept).
 * option is the name for messages, "--class". Returns 0, or 2 with a line on stderr. */
int opt_list(const char *option, const char *text, int64_t min, int64_t max, int64_t **numbers, int *n);

#endif
