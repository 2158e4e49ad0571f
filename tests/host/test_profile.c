/* test_profile.c - the profile counts what was called, changes no result, and leaves the device as it was. */
#include "host/profile.h"

#include <string.h>
#include <time.h>

#include "tests/t.h"

static const ts_profile_line *line(const ts_profile_line *all, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(all[i].name, name) == 0) return &all[i];
    ck_abort_msg("%s was not called", name);
}

T_TEST(counts)
{
    (void)be, (void)s;
    ts_device *d;
    ts_profile_line all[TS_PROFILE_MAX];
    double wall;
    float x[2] = { 1, 2 }, y[2] = { 0, 0 };
    T_OK(ts_device_open(&d, "cpu", 1, TS_MATH_F32));
    const ts_backend *real = d->be;
    T_OK(ts_profile_begin(d));
    T_EQI(ts_profile_read(all, &wall), 0);
    for (int i = 0; i < 3; i++) T_OK(d->be->add(d->s, y, x, x, 2));
    T_OK(d->be->act_fwd(d->s, x, x, TS_SILU, 0, TS_F32));
    nanosleep(&(struct timespec){ 0, 20000000 }, NULL);
    T_EQI(ts_profile_read(all, &wall), 2);
    T_EQI(line(all, 2, "add")->calls, 3);
    T_EQI(line(all, 2, "act_fwd")->calls, 1);
    ck_assert(all[0].seconds >= all[1].seconds && all[1].seconds >= 0);
    ck_assert(wall >= 0.02 && all[0].seconds + all[1].seconds <= wall - 0.02); /* the sleep is nobody's */
    ck_assert(y[0] == 2 && y[1] == 4);
    T_STATUS(TS_E_BUSY, ts_profile_begin(d));
    ts_profile_reset();
    T_EQI(ts_profile_read(all, &wall), 0);
    ts_profile_end(d);
    ck_assert_ptr_eq(d->be, real);
    T_OK(ts_profile_begin(d)); /* again, after the end */
    ts_profile_end(d);
    ts_profile_end(d);
    ck_assert_ptr_eq(d->be, real);
    ts_device_close(d);
}

/* Every function that computes is replaced: one that is forgotten would count as the tape's. */
T_TEST(is_complete)
{
    (void)be, (void)s;
    ts_device *d;
    T_OK(ts_device_open(&d, "cpu", 1, TS_MATH_F32));
    const ts_backend *real = d->be;
    T_OK(ts_profile_begin(d));
    int kept = 0, n = (int)(sizeof *real / sizeof(void *));
    for (int i = 0; i < n; i++) kept += memcmp((void *const *)real + i, (void *const *)d->be + i, sizeof(void *)) == 0;
    T_EQI(kept, 4 + 3 + 2 + 4 + 12); /* name, about, preferred_math, factor_dtype; stream_new, _free, _sync; mem_free, _stored; capture_; sizes of scratch */
    ts_profile_end(d);
    ts_device_close(d);
}

int main(void)
{
    Suite *u = t_suite("profile");
    T_ADD1(u, counts);
    T_ADD1(u, is_complete);
    return t_run(u);
}
