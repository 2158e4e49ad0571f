/* status.c - the last error line of each thread. Contract: tessera/status.h. */
#include "tessera/tessera.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char line[4096];

int ts_exit_code(ts_status st)
{
    switch (st) {
    case TS_OK: return 0;
    case TS_E_ARG: return 2;
    case TS_E_DATA: return 65;
    case TS_E_NOINPUT: return 66;
    case TS_E_INTERNAL:
    case TS_E_NOMEM:
    case TS_E_DEVICE: return 70;
    case TS_E_BUSY: return 73;
    case TS_E_IO: return 74;
    case TS_E_STOPPED: return 75;
    }
    return 70;
}

ts_status ts_fail(ts_status st, const char *format, ...)
{
    char text[sizeof line]; /* the arguments may point into line */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (size_t i = 0; i < sizeof text; i++) {
        line[i] = text[i] == '\n' || text[i] == '\r' ? ' ' : text[i];
        if (text[i] == '\0') break;
    }
    return st;
}

const char *ts_error(void)
{
    return line;
}
