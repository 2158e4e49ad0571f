/* signals.c - stopping on a signal, and the clock. Contract: host/log.h. */
#include "host/log.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t stop_signal; /* the first that asked to stop; a handler has no other way to tell */
static volatile sig_atomic_t interrupts;

static void on_signal(int number)
{
    if (number == SIGINT && interrupts++ > 0) _exit(130);
    if (stop_signal == 0) stop_signal = number;
}

void ts_signals_install(void)
{
    static const int stops[] = { SIGINT, SIGTERM, SIGUSR1 };
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < 3; i++) sigaction(stops[i], &action, NULL);
    action.sa_handler = SIG_IGN; /* a write then fails with EPIPE or EFBIG, which is reported */
    sigaction(SIGPIPE, &action, NULL);
    sigaction(SIGXFSZ, &action, NULL);
}

int ts_signals_stop(void)
{
    return stop_signal;
}

double ts_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
