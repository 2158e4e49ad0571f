/* test_options.c - the command line: what is taken, what is refused and how it is said, what --help shows.
 *
 * A case is a command line and what must come of it: the values that changed and the positional arguments, or the one
 * line on stderr. In a command line words are parted by one space, _ stands for a space in a word and EMPTY for an
 * empty word.
 */
#include "tools/options.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/t.h"
#include "tools/common.h"

typedef struct {
    const char *line, *want;
} parse_case;

/* --- running with stdout and stderr caught --- */

typedef struct {
    int saved[2], file[2];
    char text[2][8192]; /* stdout, stderr */
} catcher;

static void catch_begin(catcher *c)
{
    for (int i = 0; i < 2; i++) {
        fflush(i ? stderr : stdout);
        c->saved[i] = dup(i + 1);
        c->file[i] = memfd_create("out", 0);
        dup2(c->file[i], i + 1);
    }
}

static void catch_end(catcher *c)
{
    for (int i = 0; i < 2; i++) {
        fflush(i ? stderr : stdout);
        dup2(c->saved[i], i + 1);
        ssize_t n = pread(c->file[i], c->text[i], sizeof c->text[i] - 1, 0);
        c->text[i][n] = '\0';
        close(c->saved[i]);
        close(c->file[i]);
    }
}

/* --- the table under test --- */

typedef struct {
    int verbose, mode;
    int64_t count, offset, any, below;
    double top_p, rate, free;
    const char *out, *note;
    uint64_t seed;
} values;

static const values DEFAULTS = {
    .count = 4, .offset = -2, .below = 1, .top_p = 0.96, .rate = 1e-4, .note = "hi", .seed = 7
};

enum { N_OPTIONS = 13 };

static void make_table(opt table[N_OPTIONS + 1], values *v)
{
    const opt options[N_OPTIONS + 1] = {
        { .name = "out",
          .letter = 'o',
          .kind = OPT_STRING,
          .value = &v->out,
          .argument = "DIR",
          .help = "where to",
          .required = 1 },
        { .name = "count",
          .letter = 'n',
          .kind = OPT_INT,
          .value = &v->count,
          .min = 1,
          .max = 1024,
          .argument = "N",
          .help = "how many" },
        { .name = "offset",
          .kind = OPT_INT,
          .value = &v->offset,
          .min = -5,
          .max = 5,
          .argument = "N",
          .help = "how far" },
        { .name = "any",
          .kind = OPT_INT,
          .value = &v->any,
          .min = -INFINITY,
          .max = INFINITY,
          .argument = "N",
          .help = "any at all" },
        { .name = "below",
          .kind = OPT_INT,
          .value = &v->below,
          .min = -INFINITY,
          .max = 10,
          .argument = "N",
          .help = "not much" },
        { .name = "Sampling", .kind = OPT_GROUP },
        { .name = "top-p",
          .kind = OPT_FLOAT,
          .value = &v->top_p,
          .min = 0.000001,
          .max = 1,
          .argument = "P",
          .help = "kept probability" },
        { .name = "rate",
          .kind = OPT_FLOAT,
          .value = &v->rate,
          .min = 0,
          .max = INFINITY,
          .argument = "X",
          .help = "learning rate" },
        { .name = "free",
          .kind = OPT_FLOAT,
          .value = &v->free,
          .min = -INFINITY,
          .max = INFINITY,
          .argument = "X",
          .help = "no bound" },
        { .name = "mode",
          .letter = 'm',
          .kind = OPT_CHOICE,
          .value = &v->mode,
          .choices = "auto|cpu|cuda",
          .help = "which" },
        { .name = "note",
          .kind = OPT_STRING,
          .value = &v->note,
          .argument = "TEXT",
          .help = "a text that is long enough to be broken into two lines of the help, or even into three" },
        { .name = "seed", .kind = OPT_SEED, .value = &v->seed, .argument = "N", .help = "seed" },
        { .name = "verbose", .letter = 'v', .kind = OPT_FLAG, .value = &v->verbose, .help = "say more" },
        { .name = NULL },
    };
    memcpy(table, options, sizeof options);
}

static const opt_command COMMAND = { "test", "--out DIR [INPUT...]", "Tests the options.", 0, 3 };

/* What differs from the defaults, then the positional arguments in brackets. */
static void describe(char *text, size_t size, const values *v, char **positional, int n)
{
    const values *d = &DEFAULTS;
    text[0] = '\0'; /* nothing written leaves it as it was */
    FILE *f = fmemopen(text, size, "w");
    if (v->out) fprintf(f, " out=%s", v->out);
    if (v->count != d->count) fprintf(f, " count=%lld", (long long)v->count);
    if (v->offset != d->offset) fprintf(f, " offset=%lld", (long long)v->offset);
    if (v->any != d->any) fprintf(f, " any=%lld", (long long)v->any);
    if (v->below != d->below) fprintf(f, " below=%lld", (long long)v->below);
    if (v->top_p != d->top_p) fprintf(f, " top-p=%.17g", v->top_p);
    if (v->rate != d->rate) fprintf(f, " rate=%.17g", v->rate);
    if (v->free != d->free) fprintf(f, " free=%.17g", v->free);
    if (v->mode != d->mode) fprintf(f, " mode=%d", v->mode);
    if (strcmp(v->note, d->note) != 0) fprintf(f, " note=%s", v->note);
    if (v->seed != d->seed) fprintf(f, " seed=%llu", (unsigned long long)v->seed);
    if (v->verbose) fprintf(f, " verbose");
    for (int i = 0; i < n; i++) fprintf(f, " [%s]", positional[i]);
    fclose(f);
}

static int split(char *line, char **argv)
{
    int argc = 1;
    argv[0] = "test";
    for (char *word = strtok(line, " "); word; word = strtok(NULL, " ")) {
        for (char *c = word; *c; c++) *c = *c == '_' ? ' ' : *c;
        argv[argc++] = strcmp(word, "EMPTY") == 0 ? "" : word;
    }
    argv[argc] = NULL;
    return argc;
}

static void run_cases(const parse_case *cases, int n, int want_code)
{
    for (int i = 0; i < n; i++) {
        char line[2048], text[4096] = "";
        char *argv[64], **positional = NULL;
        snprintf(line, sizeof line, "%s", cases[i].line);
        int argc = split(line, argv), n_positional = 0, code = -1;
        values v = DEFAULTS;
        opt table[N_OPTIONS + 1];
        make_table(table, &v);
        catcher c;
        catch_begin(&c);
        int stop = opt_parse(argc, argv, &COMMAND, table, &positional, &n_positional, &code);
        catch_end(&c);
        ck_assert_msg(code == want_code && stop == (want_code != 0), "'%s': exit code %d, returned %d: %s",
                      cases[i].line, code, stop, c.text[1]);
        ck_assert_msg(c.text[0][0] == '\0', "'%s' wrote to stdout: %s", cases[i].line, c.text[0]);
        if (want_code == 0) {
            ck_assert_msg(c.text[1][0] == '\0', "'%s' wrote to stderr: %s", cases[i].line, c.text[1]);
            describe(text, sizeof text, &v, positional, n_positional);
            ck_assert_msg(strcmp(text, cases[i].want) == 0, "'%s' gave '%s', expected '%s'", cases[i].line, text,
                          cases[i].want);
        } else {
            snprintf(text, sizeof text, "tessera test: %s\n", cases[i].want);
            ck_assert_msg(strcmp(c.text[1], text) == 0, "'%s' said\n%sexpected\n%s", cases[i].line, c.text[1], text);
            describe(text, sizeof text, &v, NULL, 0);
            ck_assert_msg(text[0] == '\0', "'%s' failed but stored%s", cases[i].line, text);
        }
    }
}

#define RUN(cases, code) run_cases(cases, (int)(sizeof(cases) / sizeof *(cases)), code)
#define INT64 "9223372036854775807"
#define UINT64 "18446744073709551615"
#define E400                                                                                                           \
    "1000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000" \
    "000"

T_TEST(accepts)
{
    (void)be, (void)s;
    static const parse_case cases[] = {
        { "--out d", " out=d" },
        { "--out=d", " out=d" },
        { "-o d", " out=d" },
        { "-od", " out=d" },
        { "-o -", " out=-" },
        { "-o -x", " out=-x" },
        { "--out=--json", " out=--json" },
        { "--out=a=b", " out=a=b" },
        { "-o a -o b", " out=b" },
        { "-o d a b c", " out=d [a] [b] [c]" },
        { "a -o d b -v c", " out=d verbose [a] [b] [c]" },
        { "a b c -o d", " out=d [a] [b] [c]" },
        { "-o d - EMPTY", " out=d [-] []" },
        { "-o d -- -v --out", " out=d [-v] [--out]" },
        { "a -o d -- b -- ", " out=d [a] [b] [--]" },
        { "-o d --", " out=d" },
        { "-o d -n 1", " out=d count=1" },
        { "-o d -n 1024", " out=d count=1024" },
        { "-o d -n16", " out=d count=16" },
        { "-o d --count=007", " out=d count=7" },
        { "-o d --count 5 --count 6", " out=d count=6" },
        { "-o d --offset -5", " out=d offset=-5" },
        { "-o d --offset=-0", " out=d offset=0" },
        { "-o d --offset 5", " out=d offset=5" },
        { "-o d --any " INT64, " out=d any=" INT64 },
        { "-o d --any -9223372036854775808", " out=d any=-9223372036854775808" },
        { "-o d --below -1000000", " out=d below=-1000000" },
        { "-o d --below 10", " out=d below=10" },
        { "-o d --top-p 1", " out=d top-p=1" },
        { "-o d --top-p 0.000001", " out=d top-p=9.9999999999999995e-07" },
        { "-o d --top-p 1e-6", " out=d top-p=9.9999999999999995e-07" },
        { "-o d --top-p .5", " out=d top-p=0.5" },
        { "-o d --top-p +.5", " out=d top-p=0.5" },
        { "-o d --top-p 1.", " out=d top-p=1" },
        { "-o d --top-p 5E-1", " out=d top-p=0.5" },
        { "-o d --top-p 5e-01", " out=d top-p=0.5" },
        { "-o d --rate 0", " out=d rate=0" },
        { "-o d --rate 1e-400", " out=d rate=0" },
        { "-o d --rate 1e+308", " out=d rate=1e+308" },
        { "-o d --free -1e3", " out=d free=-1000" },
        { "-o d --free 123456789.125", " out=d free=123456789.125" },
        { "-o d --mode cpu", " out=d mode=1" },
        { "-o d -mcuda", " out=d mode=2" },
        { "-o d --mode=auto", " out=d" },
        { "-o d --note x_y", " out=d note=x y" },
        { "-o d --seed 0", " out=d seed=0" },
        { "-o d --seed " UINT64, " out=d seed=" UINT64 },
        { "-o d -v -v", " out=d verbose" },
        { "-o d --verbose x", " out=d verbose [x]" },
    };
    RUN(cases, 0);
}

T_TEST(refuses_words)
{
    (void)be, (void)s;
    static const parse_case cases[] = {
        { "", "--out DIR is required (see tessera test --help)" },
        { "a b", "--out DIR is required (see tessera test --help)" },
        { "-v -- --out d", "--out DIR is required (see tessera test --help)" },
        { "--out", "--out: a value is missing (DIR)" },
        { "-o", "-o: a value is missing (DIR)" },
        { "--out --count 5", "--out: a value is missing (DIR)" },
        { "--out -- d", "--out: a value is missing (DIR)" },
        { "--out=", "--out: the value is empty (DIR)" },
        { "--out EMPTY", "--out: the value is empty (DIR)" },
        { "-o d -n", "-n: a value is missing (1 to 1024)" },
        { "-o d --mode", "--mode: a value is missing (auto, cpu or cuda)" },
        { "-o d --seed", "--seed: a value is missing (0 to " UINT64 ")" },
        { "-o d --verbose=1", "--verbose takes no value, '1' was given" },
        { "-o d --verbose=", "--verbose takes no value, '' was given" },
        { "-o d -vx", "-v takes no value, 'x' was given" },
        { "-o d --cuont 5", "unknown option --cuont; did you mean --count?" },
        { "-o d --cout 5", "unknown option --cout; did you mean --out?" },
        { "-o d --cou=5", "unknown option --cou; did you mean --count?" },
        { "-o d --sed=5", "unknown option --sed; did you mean --seed?" },
        { "-o d --topp 1", "unknown option --topp; did you mean --top-p?" },
        { "-o d --top_p 1", "unknown option --top p; did you mean --top-p?" },
        { "-o d --verb", "unknown option --verb; did you mean --verbose?" },
        { "-o d --Mode cpu", "unknown option --Mode; did you mean --mode?" },
        { "-o d --xyzzyx", "unknown option --xyzzyx (see tessera test --help)" },
        { "-o d --Sampling", "unknown option --Sampling (see tessera test --help)" },
        { "-o d -x", "unknown option -x (see tessera test --help)" },
        { "-o d -5", "unknown option -5 (see tessera test --help)" },
        { "-o d --=5", "unknown option -- (see tessera test --help)" },
        { "-o d --mode f64", "--mode: 'f64' is not one of auto, cpu or cuda" },
        { "-o d --mode CPU", "--mode: 'CPU' is not one of auto, cpu or cuda" },
        { "-o d --mode cp", "--mode: 'cp' is not one of auto, cpu or cuda" },
        { "-o d --mode cpu|cuda", "--mode: 'cpu|cuda' is not one of auto, cpu or cuda" },
        { "-o d --mode EMPTY", "--mode: '' is not one of auto, cpu or cuda" },
        { "-o d --mode a\nb\033[1m", "--mode: 'a?b?[1m' is not one of auto, cpu or cuda" },
        { "-o d a b c d", "4 arguments were given, at most 3 are used; usage: tessera test --out DIR [INPUT...]" },
        { "-o d -v --count 5 --seed 1x", "--seed: '1x' is not a whole number (0 to " UINT64 ")" },
    };
    RUN(cases, 2);
}

T_TEST(refuses_ranges)
{
    (void)be, (void)s;
    static const parse_case cases[] = {
        { "-o d --count 0", "--count: 0 is out of range (1 to 1024)" },
        { "-o d -n 1025", "-n: 1025 is out of range (1 to 1024)" },
        { "-o d -n -1", "-n: -1 is out of range (1 to 1024)" },
        { "-o d --count " E400, "--count: " E400 " is out of range (1 to 1024)" },
        { "-o d --count -" E400, "--count: -" E400 " is out of range (1 to 1024)" },
        { "-o d --count 4294967297", "--count: 4294967297 is out of range (1 to 1024)" },
        { "-o d --offset -6", "--offset: -6 is out of range (-5 to 5)" },
        { "-o d --offset 6", "--offset: 6 is out of range (-5 to 5)" },
        { "-o d --below 11", "--below: 11 is out of range (10 or less)" },
        { "-o d --any 9223372036854775808", "--any: 9223372036854775808 is out of range (any whole number)" },
        { "-o d --any -9223372036854775809", "--any: -9223372036854775809 is out of range (any whole number)" },
        { "-o d --top-p 1.5", "--top-p: 1.5 is out of range (0.000001 to 1)" },
        { "-o d --top-p 1.0000000000000003", "--top-p: 1.0000000000000003 is out of range (0.000001 to 1)" },
        { "-o d --top-p 0", "--top-p: 0 is out of range (0.000001 to 1)" },
        { "-o d --top-p 9e-7", "--top-p: 9e-7 is out of range (0.000001 to 1)" },
        { "-o d --top-p 1e-400", "--top-p: 1e-400 is out of range (0.000001 to 1)" },
        { "-o d --top-p 1e400", "--top-p: 1e400 is out of range (0.000001 to 1)" },
        { "-o d --top-p " E400, "--top-p: " E400 " is out of range (0.000001 to 1)" },
        { "-o d --rate -1e-300", "--rate: -1e-300 is out of range (0 or more)" },
        { "-o d --rate 1e400", "--rate: 1e400 is out of range (0 or more)" },
        { "-o d --free 1e309", "--free: 1e309 is out of range (any number)" },
        { "-o d --free -1e309", "--free: -1e309 is out of range (any number)" },
        { "-o d --seed -1", "--seed: -1 is out of range (0 to " UINT64 ")" },
        { "-o d --seed 18446744073709551616", "--seed: 18446744073709551616 is out of range (0 to " UINT64 ")" },
        { "-o d --seed " E400, "--seed: " E400 " is out of range (0 to " UINT64 ")" },
    };
    RUN(cases, 2);
}

/* Every malformed number with every numeric option. */
T_TEST(refuses_malformed_numbers)
{
    (void)be, (void)s;
    static const char *const both[] = { "EMPTY", "_",   "abc", "nan", "NaN",   "inf",   "-inf",     "infinity",
                                        "0x10",  "0b1", "5x",  "5_",  "_5",    "\t5",   "1,5",      "1__2",
                                        "+",     "-",   "++1", "-+1", "1-2",   "5%",    "\xc2\xb2", "0x1p3",
                                        "1e",    "1e+", ".",   "e5",  "1.2.3", "1e5.5", "1'000" };
    static const char *const only_whole[] = { "1.0", "1e2", "+5", "5.", "1e400" };
    static const struct {
        const char *name, *kind, *range;
    } options[] = {
        { "count", "whole number", "1 to 1024" },      { "offset", "whole number", "-5 to 5" },
        { "any", "whole number", "any whole number" }, { "seed", "whole number", "0 to " UINT64 },
        { "top-p", "number", "0.000001 to 1" },        { "free", "number", "any number" },
    };
    const int n_both = sizeof both / sizeof *both, n_whole = sizeof only_whole / sizeof *only_whole;
    for (int o = 0; o < (int)(sizeof options / sizeof *options); o++) {
        int n = n_both + (options[o].kind[0] == 'w' ? n_whole : 0);
        for (int i = 0; i < n; i++) {
            const char *word = i < n_both ? both[i] : only_whole[i - n_both];
            char line[128], want[256], shown[32];
            snprintf(shown, sizeof shown, "%s", strcmp(word, "EMPTY") == 0 ? "" : word);
            for (char *c = shown; *c; c++) *c = *c == '_' ? ' ' : *c == '\t' ? '?' : *c;
            snprintf(line, sizeof line, "-o d --%s %s", options[o].name, word);
            snprintf(want, sizeof want, "--%s: '%s' is not a %s (%s)", options[o].name, shown, options[o].kind,
                     options[o].range);
            run_cases(&(parse_case){ line, want }, 1, 2);
        }
    }
}

T_TEST(counts_arguments)
{
    (void)be, (void)s;
    static const opt none[] = { { .name = NULL } };
    static const struct {
        int low, high, given, code;
    } cases[] = { { 0, 0, 0, 0 }, { 0, 0, 1, 2 },  { 1, 1, 0, 2 },   { 1, 1, 1, 0 },
                  { 1, 1, 2, 2 }, { 1, -1, 0, 2 }, { 1, -1, 50, 0 }, { 2, -1, 1, 2 } };
    for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++) {
        char *argv[64] = { "test" }, **positional = NULL;
        for (int k = 1; k <= cases[i].given; k++) argv[k] = "x";
        const opt_command command = { "test", "X", "Counts.", cases[i].low, cases[i].high };
        int n = -1, code = -1;
        catcher c;
        catch_begin(&c);
        int stop = opt_parse(cases[i].given + 1, argv, &command, none, &positional, &n, &code);
        catch_end(&c);
        T_EQI(code, cases[i].code);
        T_EQI(stop, code != 0);
        if (code == 0)
            T_EQI(n, cases[i].given);
        else
            ck_assert_ptr_nonnull(strstr(c.text[1], "usage: tessera test X\n"));
    }
}

static const char HELP[] =
    "usage: tessera test --out DIR [INPUT...]\n"
    "\n"
    "Tests the options.\n"
    "\n"
    "Options:\n"
    "  -o, --out DIR             where to (required)\n"
    "  -n, --count N             how many (1 to 1024; default 4)\n"
    "  --offset N                how far (-5 to 5; default -2)\n"
    "  --any N                   any at all (any whole number; default 0)\n"
    "  --below N                 not much (10 or less; default 1)\n"
    "\n"
    "Sampling:\n"
    "  --top-p P                 kept probability (0.000001 to 1; default 0.96)\n"
    "  --rate X                  learning rate (0 or more; default 0.0001)\n"
    "  --free X                  no bound (any number; default 0)\n"
    "  -m, --mode auto|cpu|cuda  which (default auto)\n"
    "  --note TEXT               a text that is long enough to be broken into two lines of the help, or\n"
    "                            even into three (default hi)\n"
    "  --seed N                  seed (0 to " UINT64 "; default 7)\n"
    "  -v, --verbose             say more\n"
    "  -h, --help                print this text\n";

/* Help shows the defaults, not what was given before it, and wins over what is missing. */
T_TEST(help)
{
    (void)be, (void)s;
    static const char *const lines[] = { "--help", "-h", "-o d -n 9 --help", "a b c d e -v -h --nonsense" };
    for (int i = 0; i < 4; i++) {
        char line[128], *argv[16], **positional = NULL;
        snprintf(line, sizeof line, "%s", lines[i]);
        int argc = split(line, argv), n = 0, code = -1;
        values v = DEFAULTS;
        opt table[N_OPTIONS + 1];
        make_table(table, &v);
        catcher c;
        catch_begin(&c);
        int stop = opt_parse(argc, argv, &COMMAND, table, &positional, &n, &code);
        catch_end(&c);
        T_EQI(stop, 1);
        T_EQI(code, 0);
        ck_assert_str_eq(c.text[0], HELP);
        ck_assert_str_eq(c.text[1], "");
        T_EQI(v.count, DEFAULTS.count);
    }
}

T_TEST(lists)
{
    (void)be, (void)s;
    static const struct {
        const char *text, *want; /* NULL: refused */
    } cases[] = {
        { "3", "3 " },
        { "3,7", "3 7 " },
        { "3,7,10-12", "3 7 10 11 12 " },
        { "5-5", "5 " },
        { "0-0,999", "0 999 " },
        { "7,7,3", "7 7 3 " },
        { "007", "7 " },
        { "", NULL },
        { ",", NULL },
        { "3,", NULL },
        { ",3", NULL },
        { "3,,7", NULL },
        { "12-10", NULL },
        { "-3", NULL },
        { "3-", NULL },
        { "3--5", NULL },
        { "1-2-3", NULL },
        { "1000", NULL },
        { "998-1000", NULL },
        { "a", NULL },
        { "3 ,7", NULL },
        { "3, 7", NULL },
        { " 3", NULL },
        { "+3", NULL },
        { "0x3", NULL },
        { "3.0", NULL },
        { "1e2", NULL },
        { E400, NULL },
        { "18446744073709551617", NULL },
        { "0-" E400, NULL },
    };
    for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++) {
        int64_t *list = NULL;
        int n = -1;
        char text[256] = "";
        catcher c;
        catch_begin(&c);
        int code = opt_list("--class", cases[i].text, 0, 999, &list, &n);
        catch_end(&c);
        ck_assert_msg(code == (cases[i].want ? 0 : 2), "'%s': %d", cases[i].text, code);
        if (code == 0) {
            for (int k = 0; k < n; k++) sprintf(text + strlen(text), "%lld ", (long long)list[k]);
            ck_assert_str_eq(text, cases[i].want);
        } else {
            snprintf(text, sizeof text,
                     "tessera: --class: '%s' is not a list of numbers and ranges from 0 to 999, such as 0,0-999\n",
                     cases[i].text);
            ck_assert_str_eq(c.text[1], text);
            ck_assert_ptr_null(list);
        }
        free(list);
    }

    int64_t *list = NULL;
    int n = 0;
    catcher c;
    catch_begin(&c);
    int most = opt_list("--x", "0-999998,5", 0, INT64_MAX, &list, &n);
    free(list);
    list = NULL;
    int over = opt_list("--x", "0-999999,5", 0, INT64_MAX, &list, &n);
    int far_over = opt_list("--x", "0-" INT64, 0, INT64_MAX, &list, &n);
    catch_end(&c);
    T_EQI(most, 0);
    T_EQI(n, 1000000);
    T_EQI(over, 2);
    T_EQI(far_over, 2);
    ck_assert_str_eq(c.text[1], "tessera: --x: '0-999999,5' has more than 1000000 numbers\n"
                                "tessera: --x: '0-" INT64 "' has more than 1000000 numbers\n");
}

T_TEST(common_options_of_all_commands)
{
    (void)be, (void)s;
    common_options common = COMMON_DEFAULTS;
    const opt table[] = { COMMON_OPTIONS(common), { .name = NULL } };
    char *argv[] = { "x", "--device", "cpu", "--dtype=bf16", "--threads", "1024", "--seed", "9", "--json", NULL },
         **positional;
    int n, code;
    T_EQI(opt_parse(9, argv, &COMMAND, table, &positional, &n, &code), 0);
    ck_assert_str_eq(common.device, "cpu");
    T_EQI(common.dtype, TS_MATH_BF16);
    T_EQI(common.threads, 1024);
    T_EQI(common.seed, 9);
    T_EQI(common.json, 1);

    catcher c;
    char *over[] = { "x", "--threads", "1025", NULL };
    catch_begin(&c);
    T_EQI(opt_parse(3, over, &COMMAND, table, &positional, &n, &code), 1);
    int bad = report(ts_fail(TS_E_DATA, "a.png: broken")), good = report(TS_OK);
    catch_end(&c);
    T_EQI(code, 2);
    T_EQI(bad, 65);
    T_EQI(good, 0);
    ck_assert_str_eq(c.text[1], "tessera test: --threads: 1025 is out of range (0 to 1024)\ntessera: a.png: broken\n");
}

int main(void)
{
    Suite *u = t_suite("host_options");
    T_ADD1(u, accepts);
    T_ADD1(u, refuses_words);
    T_ADD1(u, refuses_ranges);
    T_ADD1(u, refuses_malformed_numbers);
    T_ADD1(u, counts_arguments);
    T_ADD1(u, help);
    T_ADD1(u, lists);
    T_ADD1(u, common_options_of_all_commands);
    return t_run(u);
}
