/* profile.h - where the time goes: how long the backend's functions run, by name.
 *
 *     ts_profile_begin(d);  ...work on d...;  n = ts_profile_read(lines, &wall);  ts_profile_end(d);
 *
 * While it is on, the device's backend is a table whose functions time and call those of the real one, and wait for the
 * device after each, so a GPU shows every op's own time but no overlap; nothing is recorded (capture_begin), so that every
 * op is seen. What is left of the wall time is the tape, the models' code and whatever else the program did. A backend's
 * functions carry no context of ours, so a process has one profile, of one device, used by one thread.
 */
#ifndef TS_PROFILE_H
#define TS_PROFILE_H

#include "host/device.h"

enum { TS_PROFILE_MAX = 64 };

typedef struct {
    const char *name; /* of the backend's member, "conv2d_fwd" */
    int64_t calls;
    double seconds, flops; /* flops: of products (linear, convolution, attention); other functions count none */
} ts_profile_line;

/* TS_E_BUSY if a profile is on already. */
ts_status ts_profile_begin(ts_device *d);
void ts_profile_end(ts_device *d); /* the device has its own backend again; nothing happens if none was on; NULL is fine */

/* All counts to zero, wall time from now. */
void ts_profile_reset(void);

/* What was called, longest first; returns how many. wall: seconds since begin or reset. */
int ts_profile_read(ts_profile_line out[TS_PROFILE_MAX], double *wall);

#endif
