/* main.c - runs a fuzz target without libFuzzer, so that any compiler and sanitizer will do.
 *
 *   fuzz_X FILE|FOLDER...                         replay
 *   fuzz_X --seconds N [--seed S] FILE|FOLDER...  replay, then mutate what was read for N seconds
 *
 * The same seed makes the same inputs. The input that ends the program, or takes over LIMIT_S seconds, is left in the
 * current folder as crash-SEED-NUMBER.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LIMIT_S = 5, GROWTH = 4096, EDITS = 6 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

typedef struct {
    uint8_t *bytes;
    size_t n;
} input;

static input *corpus;
static size_t n_corpus;

static uint64_t state; /* of the random numbers */
static char crash_name[64];
static const uint8_t *current; /* what is being tried   */
static size_t current_n;

static uint64_t next(void) /* splitmix64 */
{
    uint64_t z = (state += 0x9E3779B97F4A7C15u);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static size_t below(size_t n)
{
    return n ? (size_t)(next() % n) : 0;
}

/* ---- when it goes wrong; only calls that are allowed in a signal handler ---- */

static void save_current(void)
{
    if (!current) return; /* a leak, found at the end */
    int fd = open(crash_name, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || write(fd, current, current_n) != (ssize_t)current_n || close(fd) != 0) _exit(3);
    static const char text[] = "the input is saved as ";
    if (write(2, text, sizeof text - 1) < 0 || write(2, crash_name, strlen(crash_name)) < 0 || write(2, "\n", 1) < 0)
        _exit(3);
}

static void on_signal(int number)
{
    signal(number, SIG_DFL);
    save_current();
    raise(number);
}

/* ---- one input ---- */

/* In memory of exactly its size, so that a sanitizer sees a read behind its end. */
static void try(const uint8_t *bytes, size_t n, uint64_t seed, uint64_t number)
{
    uint8_t *exact = malloc(n);
    if (n > 0) memcpy(exact, bytes, n);
    snprintf(crash_name, sizeof crash_name, "crash-%llu-%llu", (unsigned long long)seed, (unsigned long long)number);
    current = exact;
    current_n = n;
    alarm(LIMIT_S);
    LLVMFuzzerTestOneInput(exact, n);
    alarm(0);
    current = NULL;
    free(exact);
}

/* ---- mutation ---- */

static void insert(input *x, size_t at, const uint8_t *from, size_t n)
{
    memmove(x->bytes + at + n, x->bytes + at, x->n - at);
    if (n > 0) memcpy(x->bytes + at, from, n);
    x->n += n;
}

static void cut(input *x, size_t at, size_t n)
{
    memmove(x->bytes + at, x->bytes + at + n, x->n - at - n);
    x->n -= n;
}

/* Replace one of the numbers in the text by one that is likely to hurt. */
static void edit_number(input *x)
{
    static const char *const numbers[] = { "0",
                                           "1",
                                           "-1",
                                           "2",
                                           "7",
                                           "8",
                                           "255",
                                           "65536",
                                           "2147483648",
                                           "4294967296",
                                           "9223372036854775807",
                                           "9223372036854775808",
                                           "18446744073709551615",
                                           "1.0",
                                           "1e9",
                                           "null" };
    size_t begin = below(x->n), end;
    while (begin < x->n && (x->bytes[begin] < '0' || x->bytes[begin] > '9')) begin++;
    for (end = begin; end < x->n && x->bytes[end] >= '0' && x->bytes[end] <= '9';) end++;
    if (begin == x->n) return;
    const char *number = numbers[below(sizeof numbers / sizeof numbers[0])];
    cut(x, begin, end - begin);
    insert(x, begin, (const uint8_t *)number, strlen(number));
}

/* Many formats begin with the length of what follows; make it longer. */
static void edit_length(input *x, uint64_t more)
{
    if (x->n < 8) return;
    uint64_t length;
    memcpy(&length, x->bytes, 8);
    length += more;
    memcpy(x->bytes, &length, 8);
}

/* x has room for GROWTH more bytes than the largest input; each edit adds less than GROWTH / EDITS. */
static void mutate(input *x)
{
    enum { PIECE = GROWTH / EDITS / 2 };
    const input *other = &corpus[below(n_corpus)];
    size_t at = below(x->n + 1), from = below(other->n + 1), before = x->n, n;
    switch (below(10)) {
    case 0:
        if (at < x->n) x->bytes[at] ^= (uint8_t)(1 << below(8));
        break;
    case 1:
        if (at < x->n) x->bytes[at] = (uint8_t)next();
        break;
    case 2:
        x->n = at;
        break;
    case 3:
        n = below(x->n - at + 1);
        cut(x, at, n < PIECE ? n : PIECE);
        break;
    case 4:
        n = below(other->n - from + 1);
        insert(x, at, other->bytes + from, n < PIECE ? n : PIECE);
        break;
    case 5:
        n = x->n - at < other->n - from ? x->n - at : other->n - from;
        if (n > 0) memcpy(x->bytes + at, other->bytes + from, n);
        break;
    case 6:
        edit_length(x, next() % 17 - 8);
        break;
    default:
        edit_number(x);
        break;
    }
    if (next() % 8) edit_length(x, (uint64_t)x->n - before); /* else nothing behind an insertion would be reached */
}

static uint64_t fuzz(double seconds, uint64_t seed)
{
    size_t largest = 0;
    for (size_t i = 0; i < n_corpus; i++) largest = corpus[i].n > largest ? corpus[i].n : largest;
    input x = { malloc(largest + GROWTH), 0 };
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    uint64_t number = 0;
    do {
        state = seed * 0x100000001b3u + number++; /* an input depends on the seed and its number alone */
        const input *source = &corpus[below(n_corpus)];
        x.n = source->n;
        if (x.n > 0) memcpy(x.bytes, source->bytes, x.n);
        for (size_t i = 1 + below(1 + below(EDITS)); i > 0; i--) mutate(&x); /* few more often than many */
        try(x.bytes, x.n, seed, number);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((double)(now.tv_sec - begin.tv_sec) + 1e-9 * (double)(now.tv_nsec - begin.tv_nsec) < seconds);
    free(x.bytes);
    return number;
}

/* ---- reading ---- */

static int add_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    struct stat st;
    input x = { NULL, 0 };
    int ok = f && fstat(fileno(f), &st) == 0;
    if (ok) {
        x.bytes = malloc((size_t)st.st_size + 1);
        x.n = fread(x.bytes, 1, (size_t)st.st_size, f);
        ok = x.n == (size_t)st.st_size;
        corpus = realloc(corpus, (n_corpus + 1) * sizeof *corpus);
        corpus[n_corpus++] = x;
    }
    if (f) fclose(f);
    if (!ok) fprintf(stderr, "%s: cannot be read\n", path);
    return ok;
}

/* A file, or all files of a folder in byte-wise order. */
static int add_path(const char *path)
{
    struct dirent **list;
    int n = scandir(path, &list, NULL, alphasort), ok = 1;
    if (n < 0) return add_file(path);
    for (int i = 0; i < n; i++) {
        char name[4096];
        snprintf(name, sizeof name, "%s/%s", path, list[i]->d_name);
        if (list[i]->d_name[0] != '.') ok = add_file(name) && ok;
        free(list[i]);
    }
    free(list);
    return ok;
}

int main(int argc, char **argv)
{
    double seconds = 0;
    uint64_t seed = 1, tried = 0;
    int ok = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc)
            seconds = strtod(argv[++i], NULL);
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else
            ok = add_path(argv[i]) && ok;
    }
    if (!ok || n_corpus == 0) {
        fprintf(stderr, "usage: %s [--seconds N] [--seed S] FILE|FOLDER...\n", argv[0]);
        return 2;
    }
    signal(SIGALRM, on_signal);
    signal(SIGABRT, on_signal);
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(save_current);
    else
        signal(SIGSEGV, on_signal), signal(SIGBUS, on_signal), signal(SIGFPE, on_signal);
    for (size_t i = 0; i < n_corpus; i++) try(corpus[i].bytes, corpus[i].n, 0, i);
    if (seconds > 0) tried = fuzz(seconds, seed);
    printf("%zu replayed, %llu mutated\n", n_corpus, (unsigned long long)tried);
    for (size_t i = 0; i < n_corpus; i++) free(corpus[i].bytes);
    free(corpus);
    return 0;
}
