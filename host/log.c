/* log.c - lines and the progress bar on standard error. Contract: host/log.h.
 *
 * Standard error is one for the whole process, so the bar that stands on it is too: `shown`, guarded by `lock`. Every
 * output is one write of a whole line (or of bar, line and bar), so lines of several threads do not mix.
 */
#include "host/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { LINE = 4096, BAR = 1024, NOTE = 256, BAR_MAX = 40 };

static const double REDRAW = 0.1, PLAIN = 10; /* least seconds between two bars, two plain lines */
static const double SMOOTHING = 0.3;          /* weight of the newest speed */

struct ts_progress {
    char what[64], unit[16], note[NOTE];
    int64_t total, first, done; /* first: where this run began to count */
    int64_t measured;           /* done, when the speed was measured last */
    double start, measured_at, printed_at;
    double speed; /* units per second, smoothed; 0 before the first measurement */
    int terminal, utf8;
    ts_progress *outer; /* what was shown before this one */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static ts_progress *shown; /* the innermost; only this one is drawn */

static void put(const char *text, size_t n)
{
    while (n > 0) {
        ssize_t w = write(STDERR_FILENO, text, n);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) return; /* nobody reads: there is no place left to say so */
        text += w;
        n -= (size_t)w;
    }
}

/* Control characters (a file name may hold them) must not steer the terminal or break the line. */
static void plain_characters(char *text)
{
    for (char *c = text; *c; c++) {
        if (*c == '\n' || *c == '\r' || *c == '\t')
            *c = ' ';
        else if ((unsigned char)*c < ' ' || *c == 127)
            *c = '?';
    }
}

/* The first character set that the environment names. setlocale belongs to the program that uses the library. */
static int wants_utf8(void)
{
    static const char *const names[] = { "LC_ALL", "LC_CTYPE", "LANG" };
    for (int i = 0; i < 3; i++) {
        const char *v = getenv(names[i]);
        if (v && *v) return strcasestr(v, "utf-8") || strcasestr(v, "utf8");
    }
    return 0;
}

static int is_terminal(void)
{
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
}

static int terminal_width(void)
{
    struct winsize w;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

/* 75 -> "01:15", 3675 -> "1:01:15" */
static void clock_text(char *text, size_t size, double seconds)
{
    if (!(seconds < 3.6e9)) { /* a million hours, infinite or NaN */
        snprintf(text, size, "?");
        return;
    }
    long long s = (long long)(seconds + 0.5);
    if (s < 3600)
        snprintf(text, size, "%02lld:%02lld", s / 60, s % 60);
    else
        snprintf(text, size, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
}

static void speed_text(char *text, size_t size, double speed, const char *unit)
{
    if (!(speed > 0))
        snprintf(text, size, "? %s/s", unit);
    else if (speed < 1)
        snprintf(text, size, "%.2f s/%s", 1 / speed, unit);
    else
        snprintf(text, size, "%.*f %s/s", speed < 100 ? 2 : 0, speed, unit);
}

/* Bytes of the longest beginning of text that fills at most `columns`, taking every character to be one wide. */
static size_t fit(const char *text, int columns)
{
    size_t n = 0;
    for (; text[n]; n++) {
        if ((text[n] & 0xc0) != 0x80 && columns-- == 0) break;
    }
    return n;
}

static int columns_of(const char *text)
{
    int n = 0;
    for (; *text; text++) n += (*text & 0xc0) != 0x80;
    return n;
}

/* A bar of `columns`: eighths of a block, or whole '#' where the character set lacks them. */
static void bar_text(char *text, double part, int columns, int utf8)
{
    static const char *const eighths[] = { "", "▏", "▎", "▍", "▌", "▋", "▊", "▉" };
    int fine = utf8 ? 8 : 1, filled = (int)(part * columns * fine), used = filled / fine;
    for (int i = 0; i < used; i++) text += sprintf(text, "%s", utf8 ? "█" : "#");
    if (filled % fine) text += sprintf(text, "%s", eighths[filled % fine]), used++;
    sprintf(text, "%*s", columns - used, "");
}

static double part_done(const ts_progress *p)
{
    double part = p->total > 0 ? (double)p->done / (double)p->total : 0;
    return part < 0 ? 0 : part > 1 ? 1 : part;
}

/* " [00:33<00:10, 229 img/s, note]"; the speed of the whole run once it has ended. */
static void state_text(const ts_progress *p, char *text, size_t size, double now, int ended)
{
    char elapsed[32], left[32] = "", speed[64];
    double mean = now > p->start ? (double)(p->done - p->first) / (now - p->start) : 0;
    double s = ended ? mean : p->speed;
    clock_text(elapsed, sizeof elapsed, now - p->start);
    if (p->total > 0 && !ended) {
        left[0] = '<';
        clock_text(left + 1, sizeof left - 1, (double)(p->total - p->done) / s);
    }
    speed_text(speed, sizeof speed, s, p->unit);
    snprintf(text, size, " [%s%s, %s%s%s]", elapsed, left, speed, *p->note ? ", " : "", p->note);
}

/* tqdm's shape, cut to the terminal: "train:  76%|####  | 7568/10000 [00:33<00:10, 229 img/s, loss 0.31]" */
static void progress_text(const ts_progress *p, char *text, size_t size, double now, int ended)
{
    char state[NOTE + 160], count[64], bar[4 * BAR_MAX] = "";
    state_text(p, state, sizeof state, now, ended);
    if (p->total <= 0) {
        snprintf(text, size, "%s: %lld %s%s", p->what, (long long)p->done, p->unit, state);
    } else {
        snprintf(count, sizeof count, " %lld/%lld", (long long)p->done, (long long)p->total);
        int percent = (int)(100 * part_done(p));
        int used = columns_of(p->what) + columns_of(state) + columns_of(count) + 8; /* ": 100%||" */
        int columns = p->terminal ? terminal_width() - 1 - used : 0; /* the last column makes some terminals wrap */
        if (columns > BAR_MAX) columns = BAR_MAX;
        if (columns >= 4) bar_text(bar, part_done(p), columns, p->utf8);
        snprintf(text, size, *bar ? "%s: %3d%%|%s|%s%s" : "%s: %d%%%s%s%s", p->what, percent, bar, count, state);
    }
    if (p->terminal) text[fit(text, terminal_width() - 1)] = '\0';
}

static void measure(ts_progress *p, double now)
{
    double since = now - p->measured_at;
    if (p->done == p->measured || !(since > 0)) return;
    double speed = (double)(p->done - p->measured) / since;
    p->speed = p->speed > 0 ? SMOOTHING * speed + (1 - SMOOTHING) * p->speed : speed;
    p->measured = p->done;
    p->measured_at = now;
}

/* Put p's bar or line out, and on a terminal `above` (may be NULL) over it. The lock is held. */
static void draw(ts_progress *p, const char *above, int ended)
{
    char text[BAR], all[LINE + BAR + 32];
    double now = ts_seconds();
    measure(p, now);
    p->printed_at = now;
    progress_text(p, text, sizeof text, now, ended);
    int n = p->terminal ? snprintf(all, sizeof all, "\r\033[K%s%s%s%s", above ? above : "", above ? "\n" : "", text,
                                   ended ? "\n" : "")
                        : snprintf(all, sizeof all, "%s\n", text);
    put(all, (size_t)n);
}

void ts_log(const char *format, ...)
{
    char line[LINE];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line - 1, format, args); /* room for the newline */
    va_end(args);
    plain_characters(line);

    pthread_mutex_lock(&lock);
    if (shown && shown->terminal) {
        draw(shown, line, 0);
    } else {
        size_t n = strlen(line);
        line[n] = '\n';
        put(line, n + 1);
    }
    pthread_mutex_unlock(&lock);
}

ts_progress *ts_progress_new(const char *what, const char *unit, int64_t total, int64_t done)
{
    ts_progress *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    snprintf(p->what, sizeof p->what, "%s", what);
    snprintf(p->unit, sizeof p->unit, "%s", unit);
    p->total = total;
    p->first = p->done = p->measured = done;
    p->start = p->measured_at = p->printed_at = ts_seconds();
    p->terminal = is_terminal();
    p->utf8 = wants_utf8();

    pthread_mutex_lock(&lock);
    p->outer = shown;
    shown = p;
    if (p->terminal) draw(p, NULL, 0);
    pthread_mutex_unlock(&lock);
    return p;
}

void ts_progress_set(ts_progress *p, int64_t done, const char *note)
{
    if (!p) return;
    pthread_mutex_lock(&lock);
    p->done = done;
    snprintf(p->note, sizeof p->note, "%s", note ? note : "");
    plain_characters(p->note);
    if (p == shown && ts_seconds() - p->printed_at >= (p->terminal ? REDRAW : PLAIN)) draw(p, NULL, 0);
    pthread_mutex_unlock(&lock);
}

void ts_progress_free(ts_progress *p)
{
    if (!p) return;
    pthread_mutex_lock(&lock);
    draw(p, NULL, 1);
    for (ts_progress **at = &shown; *at; at = &(*at)->outer) {
        if (*at == p) {
            *at = p->outer;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    free(p);
}
