/* test_log.c - lines and progress on a pipe and on a terminal (a pseudo-terminal and a screen of this file's own),
 * signals.
 *
 * The clock is the test's: this program's clock_gettime takes the place of the C library's.
 */
#include "host/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "tests/t.h"

static double fake_now = -1; /* negative: the real clock */

int clock_gettime(clockid_t id, struct timespec *t)
{
    if (fake_now < 0) return (int)syscall(SYS_clock_gettime, id, t);
    t->tv_sec = (time_t)fake_now;
    t->tv_nsec = (long)((fake_now - (double)t->tv_sec) * 1e9);
    return 0;
}

/* --- what stands for stderr --- */

static int reader = -1, saved = -1;

static void redirect(int from, int to)
{
    reader = from;
    fcntl(reader, F_SETFL, O_NONBLOCK);
    saved = dup(STDERR_FILENO);
    dup2(to, STDERR_FILENO);
    close(to);
}

static void begin_pipe(void)
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    redirect(ends[0], ends[1]);
}

static void begin_terminal(int columns, const char *locale)
{
    int master, slave;
    struct winsize size = { .ws_row = 24, .ws_col = (unsigned short)columns };
    ck_assert_int_eq(openpty(&master, &slave, NULL, NULL, &size), 0);
    struct termios raw;
    tcgetattr(slave, &raw);
    cfmakeraw(&raw);
    tcsetattr(slave, TCSANOW, &raw);
    setenv("TERM", "xterm", 1);
    setenv("LC_ALL", locale, 1);
    redirect(master, slave);
}

/* What has been written since the last call; the test's until the next. */
static const char *output(void)
{
    static char text[1 << 18];
    size_t n = 0;
    ssize_t got;
    while ((got = read(reader, text + n, sizeof text - 1 - n)) > 0) n += (size_t)got;
    text[n] = '\0';
    return text;
}

static void end(void)
{
    fake_now = -1; /* Check measures with this clock too */
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(reader);
}

/* What a terminal shows after this output: lines without trailing blanks, ended by \n, and the cursor's line. */
static const char *screen(const char *bytes)
{
    static char lines[8192];
    size_t start = 0, at = 0, length = 0; /* of the current line */
    for (const char *c = bytes; *c; c++) {
        if (*c == '\r')
            at = start;
        else if (strncmp(c, "\033[K", 3) == 0)
            length = at, c += 2;
        else if (*c == '\n')
            lines[length] = '\n', start = at = ++length;
        else {
            ck_assert_msg((unsigned char)*c >= ' ', "control character %d", *c);
            lines[at++] = *c;
            if (at > length) length = at;
        }
    }
    while (length > start && lines[length - 1] == ' ') length--;
    lines[length] = '\0';
    return lines;
}

/* --- lines --- */

T_TEST(log_is_one_line)
{
    (void)be, (void)s;
    begin_pipe();
    ts_log("%s: %d of %d", "a.png", 3, 4);
    ck_assert_str_eq(output(), "a.png: 3 of 4\n");
    ts_log("a\nb\tc\033[2J\x7f \xc3\xa9");
    ck_assert_str_eq(output(), "a b c?[2J? \xc3\xa9\n");
    ts_log("%s", "");
    ck_assert_str_eq(output(), "\n");
    char *lots = t_alloc(10001);
    memset(lots, 'x', 10000);
    ts_log("%s", lots);
    const char *text = output();
    ck_assert_uint_ge(strlen(text), 4000);
    ck_assert_uint_le(strlen(text), 4096);
    ck_assert_ptr_eq(strchr(text, '\n'), text + strlen(text) - 1);
    end();
}

/* --- progress on a pipe --- */

T_TEST(plain_progress)
{
    (void)be, (void)s;
    begin_pipe();
    fake_now = 1000;
    ts_progress *p = ts_progress_new("tokenize", "img", 1000, 0);
    ck_assert_str_eq(output(), "");
    for (int i = 1; i <= 250; i++) fake_now += 0.1, ts_progress_set(p, i, NULL);
    ck_assert_str_eq(output(), "tokenize: 10% 100/1000 [00:10<01:30, 10.00 img/s]\n"
                               "tokenize: 20% 200/1000 [00:20<01:20, 10.00 img/s]\n");
    ts_log("a.png: broken");
    ck_assert_str_eq(output(), "a.png: broken\n");
    fake_now += 5;
    ts_progress_set(p, 1000, "2 skipped\n");
    /* speed: 800 in 10 s after 10/s, 0.3*80 + 0.7*10 */
    ck_assert_str_eq(output(), "tokenize: 100% 1000/1000 [00:30<00:00, 31.00 img/s, 2 skipped ]\n");
    ts_progress_free(p);
    ck_assert_str_eq(output(), "tokenize: 100% 1000/1000 [00:30, 33.33 img/s, 2 skipped ]\n");
    ts_log("done");
    ck_assert_str_eq(output(), "done\n");
    end();
}

/* One line for a progress that starts at `first`, has `done` of `total` after `seconds`, and ends. */
static const char *last_line(int64_t total, int64_t first, int64_t done, double seconds, const char *note)
{
    fake_now = 5;
    ts_progress *p = ts_progress_new("x", "step", total, first);
    fake_now += seconds;
    ts_progress_set(p, done, note);
    output();
    ts_progress_free(p);
    return output();
}

T_TEST(plain_texts)
{
    (void)be, (void)s;
    begin_pipe();
    ck_assert_str_eq(last_line(0, 0, 7568, 33, NULL), "x: 7568 step [00:33, 229 step/s]\n");
    ck_assert_str_eq(last_line(-1, 0, 3, 60, "n"), "x: 3 step [01:00, 20.00 s/step, n]\n");
    ck_assert_str_eq(last_line(10, 0, 0, 60, NULL), "x: 0% 0/10 [01:00, ? step/s]\n");
    ck_assert_str_eq(last_line(10, 0, 10, 0, NULL), "x: 100% 10/10 [00:00, ? step/s]\n");
    ck_assert_str_eq(last_line(1000, 999, 1000, 3675, NULL), "x: 100% 1000/1000 [1:01:15, 3675.00 s/step]\n");
    ck_assert_str_eq(last_line(1000, 500, 600, 10, NULL), "x: 60% 600/1000 [00:10, 10.00 step/s]\n");
    ck_assert_str_eq(last_line(1000, 0, 999, 1, NULL), "x: 99% 999/1000 [00:01, 999 step/s]\n");
    ck_assert_str_eq(last_line(10, 0, 12, 1, NULL), "x: 100% 12/10 [00:01, 12.00 step/s]\n");
    ck_assert_str_eq(last_line(10, 8, 2, 1, NULL), "x: 20% 2/10 [00:01, ? step/s]\n");
    ck_assert_str_eq(last_line(10, 0, INT64_MIN, 1, NULL), "x: 0% -9223372036854775808/10 [00:01, ? step/s]\n");
    end();
}

/* --- progress on a terminal --- */

#define BLANK_40 "                                        "

T_TEST(bar)
{
    (void)be, (void)s;
    begin_terminal(81, "C.UTF-8");
    fake_now = 100;
    ts_progress *p = ts_progress_new("train", "step", 160, 0);
    const char *text = output();
    ck_assert_str_eq(screen(text), "train:   0%|" BLANK_40 "| 0/160 [00:00<?, ? step/s]");
    fake_now = 110;
    ts_progress_set(p, 80, NULL);
    /* 80 columns may be used, 33 of them for the bar: half of it is 16 1/2 blocks */
    ck_assert_str_eq(screen(output()),
                     "train:  50%|████████████████▌                | 80/160 [00:10<00:10, 8.00 step/s]");
    ts_log("checkpoint saved");
    text = output();
    ck_assert_ptr_eq(strstr(text, "\r\033[Kcheckpoint saved\n"), text);
    ck_assert_str_eq(
        screen(text),
        "checkpoint saved\ntrain:  50%|████████████████▌                | 80/160 [00:10<00:10, 8.00 step/s]");
    fake_now = 120;
    ts_progress_set(p, 160, "loss 0.25");
    output();
    ts_progress_free(p);
    ck_assert_str_eq(screen(output()),
                     "train: 100%|███████████████████████████| 160/160 [00:20, 8.00 step/s, loss 0.25]\n");
    ts_log("after");
    ck_assert_str_eq(output(), "after\n");
    end();
}

T_TEST(bar_without_utf8)
{
    (void)be, (void)s;
    begin_terminal(81, "C");
    fake_now = 100;
    ts_progress *p = ts_progress_new("train", "step", 160, 0);
    fake_now = 110;
    ts_progress_set(p, 80, NULL);
    ck_assert_ptr_nonnull(strstr(screen(output()), "|################                 |"));
    ts_progress_free(p);
    end();
}

T_TEST(locale_names)
{
    (void)be, (void)s;
    static const struct {
        const char *all, *ctype, *lang;
        int utf8;
    } cases[] = { { "", "", "en_US.UTF-8", 1 },
                  { "", "de_DE.utf8", "C", 1 },
                  { "C", "C.UTF-8", "C.UTF-8", 0 },
                  { "", "POSIX", "C.UTF-8", 0 },
                  { "", "", "", 0 },
                  { "C.UTF-8", "C", "C", 1 } };
    for (int i = 0; i < 6; i++) {
        begin_terminal(80, cases[i].all);
        setenv("LC_CTYPE", cases[i].ctype, 1);
        setenv("LANG", cases[i].lang, 1);
        ts_progress *p = ts_progress_new("x", "y", 1, 1);
        const char *text = output();
        ck_assert_msg(!!strstr(text, "█") == cases[i].utf8 && !!strstr(text, "#") == !cases[i].utf8, "case %d: %s", i,
                      text);
        ts_progress_free(p);
        end();
    }
}

T_TEST(bar_is_drawn_ten_times_a_second_at_most)
{
    (void)be, (void)s;
    begin_terminal(80, "C");
    fake_now = 100;
    ts_progress *p = ts_progress_new("x", "img", 100000, 0);
    output();
    int bars = 0;
    for (int i = 1; i <= 10000; i++) { /* ten seconds */
        fake_now = 100 + 0.001 * i;
        ts_progress_set(p, i, NULL);
        for (const char *c = output(); *c; c++) bars += *c == '\r';
    }
    ck_assert_int_ge(bars, 90); /* 0.1 s is not a whole number of milliseconds in binary: a few beats slip by one */
    ck_assert_int_le(bars, 100);
    ts_progress_free(p);
    end();
}

static int columns_of(const char *text)
{
    int n = 0;
    for (; *text; text++) n += (*text & 0xc0) != 0x80;
    return n;
}

/* No width makes the line wrap, splits a character or overruns. */
T_TEST(bar_fits_every_width)
{
    (void)be, (void)s;
    for (int columns = 1; columns <= 300; columns += columns < 100 ? 1 : 50) {
        begin_terminal(columns, "C.UTF-8");
        fake_now = 100;
        ts_progress *p = ts_progress_new("größer", "img", 100, 0);
        fake_now = 101;
        ts_progress_set(p, 37, "ä loss");
        const char *text = screen(output());
        ck_assert_msg(columns_of(text) < columns, "%d columns on %d: %s", columns_of(text), columns, text);
        size_t n = strlen(text);
        for (size_t i = 0; i < n; i++) { /* every lead byte is followed by what it announces */
            int lead = (unsigned char)text[i], follow = lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
            for (int k = 1; k <= follow; k++)
                ck_assert_msg((text[i + (size_t)k] & 0xc0) == 0x80, "split at width %d", columns);
            i += (size_t)follow;
        }
        ts_progress_free(p);
        end();
    }
    begin_terminal(0, "C"); /* a terminal that does not know its width counts as 80 */
    ts_progress *p = ts_progress_new("x", "img", 100, 0);
    ck_assert_int_gt(columns_of(screen(output())), 50);
    ts_progress_free(p);
    end();
}

T_TEST(dumb_terminal_gets_plain_lines)
{
    (void)be, (void)s;
    begin_terminal(80, "C");
    setenv("TERM", "dumb", 1);
    fake_now = 100;
    ts_progress *p = ts_progress_new("x", "img", 10, 0);
    ck_assert_str_eq(output(), "");
    fake_now = 110;
    ts_progress_set(p, 5, NULL);
    ck_assert_str_eq(output(), "x: 50% 5/10 [00:10<00:10, 2.00 s/img]\n");
    ts_progress_free(p);
    end();
}

/* While an inner bar is shown the outer one keeps quiet; then it comes back. */
T_TEST(bars_nest)
{
    (void)be, (void)s;
    begin_terminal(60, "C");
    fake_now = 100;
    ts_progress *outer = ts_progress_new("train", "step", 10, 0);
    ts_progress *inner = ts_progress_new("eval", "img", 10, 0);
    output();
    fake_now = 101;
    ts_progress_set(outer, 1, NULL);
    ck_assert_str_eq(output(), "");
    ts_progress_set(inner, 10, NULL);
    ck_assert_ptr_nonnull(strstr(screen(output()), "eval: 100%"));
    ts_progress_free(inner);
    ck_assert_ptr_nonnull(strstr(output(), "eval: 100%"));
    ts_log("line");
    const char *text = screen(output());
    ck_assert_ptr_eq(strstr(text, "line\ntrain:  10%"), text);
    ts_progress_free(outer);
    end();
    ts_progress_set(NULL, 1, NULL);
    ts_progress_free(NULL);
}

enum { LINES = 200 };

static void *log_lines(void *name)
{
    for (int i = 0; i < LINES; i++) ts_log("%s%d.", (const char *)name, i);
    return NULL;
}

/* Lines of several threads and a bar that moves: every line arrives whole. */
T_TEST(lines_of_threads_do_not_mix)
{
    (void)be, (void)s;
    begin_pipe();
    fcntl(reader, F_SETPIPE_SZ, 1 << 20);
    static const char *const names[] = { "a", "b", "c" };
    pthread_t threads[3];
    ts_progress *p = ts_progress_new("x", "img", 1000, 0);
    for (int i = 0; i < 3; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, log_lines, (void *)names[i]), 0);
    for (int i = 0; i < 1000; i++) ts_progress_set(p, i, NULL);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    int next[3] = { 0 }, other = 0;
    char *text = strdup(output());
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        int i = line[0] - 'a';
        if (i < 0 || i > 2) {
            other++;
            continue;
        }
        char want[16];
        snprintf(want, sizeof want, "%s%d.", names[i], next[i]++);
        ck_assert_str_eq(line, want);
    }
    free(text);
    for (int i = 0; i < 3; i++) T_EQI(next[i], LINES);
    T_EQI(other, 0);
    ts_progress_free(p);
    end();
}

/* --- signals --- */

/* Run fn in a child; what waitpid says of it. */
static int in_child(void (*fn)(void))
{
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        ts_signals_install();
        fn();
        _exit(99);
    }
    int status = 0;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void no_signal(void)
{
    _exit(ts_signals_stop());
}
static void interrupt_once(void)
{
    raise(SIGINT), _exit(ts_signals_stop());
}
static void terminate(void)
{
    raise(SIGTERM), _exit(ts_signals_stop());
}
static void user(void)
{
    raise(SIGUSR1), _exit(ts_signals_stop());
}
static void first_counts(void)
{
    raise(SIGTERM), raise(SIGINT), raise(SIGUSR1), _exit(ts_signals_stop());
}
static void terminate_often(void)
{
    raise(SIGTERM), raise(SIGTERM), raise(SIGTERM), _exit(ts_signals_stop());
}
static void interrupt_twice(void)
{
    raise(SIGINT), raise(SIGINT), _exit(1);
}
static void third_interrupts(void)
{
    raise(SIGINT), raise(SIGTERM), raise(SIGINT), _exit(1);
}

static void broken_pipe(void)
{
    int ends[2];
    if (pipe(ends) != 0) _exit(1);
    close(ends[0]);
    ssize_t n = write(ends[1], "x", 1);
    _exit(n < 0 && errno == EPIPE ? 0 : 1);
}

static void file_size(void)
{
    raise(SIGXFSZ), _exit(0);
}

T_TEST(signals)
{
    (void)be, (void)s;
    T_EQI(in_child(no_signal), 0);
    T_EQI(in_child(interrupt_once), SIGINT);
    T_EQI(in_child(terminate), SIGTERM);
    T_EQI(in_child(user), SIGUSR1);
    T_EQI(in_child(first_counts), SIGTERM);
    T_EQI(in_child(terminate_often), SIGTERM);
    T_EQI(in_child(interrupt_twice), 130);
    T_EQI(in_child(third_interrupts), 130);
    T_EQI(in_child(broken_pipe), 0);
    T_EQI(in_child(file_size), 0);
}

/* A read that a signal interrupts goes on. */
static void read_through(void)
{
    int ends[2];
    char c = 0;
    if (pipe(ends) != 0) _exit(1);
    pid_t parent = getpid();
    if (fork() == 0) {
        usleep(20000);
        kill(parent, SIGTERM);
        usleep(20000);
        if (write(ends[1], "x", 1) != 1) _exit(1);
        _exit(0);
    }
    ssize_t n = read(ends[0], &c, 1);
    _exit(n == 1 && c == 'x' && ts_signals_stop() == SIGTERM ? 0 : 1);
}

T_TEST(system_calls_go_on)
{
    (void)be, (void)s;
    T_EQI(in_child(read_through), 0);
}

T_TEST(seconds_pass)
{
    (void)be, (void)s;
    double a = ts_seconds();
    usleep(20000);
    double d = ts_seconds() - a;
    T_TRUE(d >= 0.02 && d < 5);
}

int main(void)
{
    Suite *u = t_suite("host_log");
    T_ADD1(u, log_is_one_line);
    T_ADD1(u, plain_progress);
    T_ADD1(u, plain_texts);
    T_ADD1(u, bar);
    T_ADD1(u, bar_without_utf8);
    T_ADD1(u, locale_names);
    T_ADD1(u, bar_is_drawn_ten_times_a_second_at_most);
    T_ADD1(u, bar_fits_every_width);
    T_ADD1(u, dumb_terminal_gets_plain_lines);
    T_ADD1(u, bars_nest);
    T_ADD1(u, lines_of_threads_do_not_mix);
    T_ADD1(u, signals);
    T_ADD1(u, system_calls_go_on);
    T_ADD1(u, seconds_pass);
    return t_run(u);
}
