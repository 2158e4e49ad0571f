/* status.h - one error enum, one polarity: 0 is success, everything else is a failure.
 *
 * A function that fails records one line of text for the calling thread ("what, where, what was expected");
 * ts_error() returns it. Library code never prints and never exits.
 */
#ifndef TS_STATUS_H
#define TS_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    TS_OK = 0,
    TS_E_ARG,      /* a caller's argument or a command-line value is out of range       exit 2  */
    TS_E_DATA,     /* a file's content is not what its format or its model demands      exit 65 */
    TS_E_NOINPUT,  /* a file or folder that was named does not exist or cannot be read  exit 66 */
    TS_E_INTERNAL, /* a bug, or a library refused what it should accept                 exit 70 */
    TS_E_NOMEM,    /* host or device memory ran out                                     exit 70 */
    TS_E_DEVICE,   /* the device or its driver is missing or refused                    exit 70 */
    TS_E_BUSY,     /* an output folder is in use by another process, or already exists  exit 73 */
    TS_E_IO,       /* read or write failed: disk full, permission, I/O error            exit 74 */
    TS_E_STOPPED   /* stopped by a signal with a checkpoint saved                       exit 75 */
} ts_status;

/* The process exit code that stands for st (the numbers above; 0 for TS_OK). */
int ts_exit_code(ts_status st);

/* Record the line for this thread and return st, so that `return ts_fail(TS_E_DATA, ...)` reads well.
 * The text is cut at 4095 bytes; newlines become spaces. */
ts_status ts_fail(ts_status st, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The last line recorded by this thread; "" if none. Valid until the thread's next failure. */
const char *ts_error(void);

/* Forward a failure. */
#define TS_TRY(expr)                     \
    do {                                 \
        ts_status ts_try_ = (expr);      \
        if (ts_try_ != TS_OK)            \
            return ts_try_;              \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
