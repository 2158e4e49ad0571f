/* bench_counts.c - what a call costs on the emulated device, which keeps no time: it writes a line for every launch into the file
 * that TS_EMU_TRAFFIC names (tests/emu/emu.h). Contract: bench_kernels.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/bench.h"
#include "tools/bench_kernels.h"

int kernel_counts_possible(const ts_device *d)
{
    return strcmp(d->be->name, "emu") == 0;
}

static ts_status read_lines(kernel_counts *c, FILE *f)
{
    char line[1024];
    while (fgets(line, sizeof line, f)) {
        double moved, sectors, ideal, groups, passes;
        if (sscanf(line, "%*[^\t]\t%*d\t%*s\t%*s\t%*u\t%*u\t%lf\t%*u\t%lf\t%lf\t%lf\t%lf", &moved, &sectors, &ideal, &groups, &passes) != 5)
            return ts_fail(TS_E_INTERNAL, "the emulated device counted '%.80s'", line);
        c->launches++;
        c->moved += moved;
        c->sectors += sectors;
        c->ideal += ideal;
        c->groups += groups;
        c->passes += passes;
    }
    return TS_OK;
}

ts_status kernel_count(kernel_counts *c, kernel *k, kernel_run *run)
{
    char path[BENCH_PATH];
    int fd;
    *c = (kernel_counts){ 0 };
    TS_TRY(bench_temp(path, &fd));
    FILE *f = fdopen(fd, "r");
    if (!f) return ts_fail(TS_E_NOMEM, "out of host memory");
    setenv("TS_EMU_TRAFFIC", path, 1);
    setenv("TS_EMU_TRAFFIC_OF", "all", 1);
    ts_status st = run(k);
    if (st == TS_OK) st = k->be->stream_sync(k->s);
    unsetenv("TS_EMU_TRAFFIC");
    unsetenv("TS_EMU_TRAFFIC_OF");
    if (st == TS_OK) st = read_lines(c, f);
    fclose(f);
    unlink(path);
    return st;
}
