/* strict.h - what the tests of the emulated device share: mistakes on purpose, each in a process of its own. */
#ifndef TS_EMU_STRICT_H
#define TS_EMU_STRICT_H

#include <check.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.cuh"

enum { N = 96 }; /* threads of a block */

/* Without callbacks of single accesses (AddressSanitizer, coverage) neither races nor unwritten memory are seen. */
enum { CALLBACKS = TS_EMU_CALLBACKS };

static ts_stream *s;

static inline int *device_ints(int n)
{
    void *p;
    ck_assert_int_eq(mem_alloc_cuda(s, &p, (size_t)n * sizeof(int)), TS_OK);
    return (int *)p;
}

static inline int *written_ints(int n)
{
    int *p = device_ints(n);
    ck_assert_int_eq(zero_cuda(s, p, (size_t)n * sizeof(int)), TS_OK);
    return p;
}

/* body, in a process of its own, must die with `text` in what it says; NULL: it must live. */
static inline void expect(const char *what, void (*body)(), const char *text)
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        ck_assert_int_eq(stream_new_cuda(&s, 0, 0), TS_OK);
        body();
        ck_assert_int_eq(stream_sync_cuda(s), TS_OK);
        _exit(0);
    }
    close(ends[1]);
    char said[4096];
    size_t n = 0;
    for (ssize_t got; (got = read(ends[0], said + n, sizeof said - 1 - n)) > 0;) n += (size_t)got;
    said[n] = '\0';
    close(ends[0]);
    int status;
    waitpid(child, &status, 0);
    if (text)
        ck_assert_msg(WIFSIGNALED(status) && strstr(said, text), "%s: expected \"%s\", it said \"%s\"", what, text,
                      said);
    else
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: failed with \"%s\"", what, said);
}

/* What main of such a test returns. */
static inline int run_tests(const char *name, std::initializer_list<const TTest *> tests)
{
    Suite *u = suite_create(name);
    TCase *c = tcase_create(name);
    tcase_set_timeout(c, 120);
    for (const TTest *t : tests) tcase_add_test(c, t);
    suite_add_tcase(u, c);
    SRunner *r = srunner_create(u);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}

#define LAUNCH(kernel, grid, block, bytes, ...)                                                                        \
    ck_assert_int_eq(TS_LAUNCH(kernel, grid, block, bytes, s, __VA_ARGS__), TS_OK)

#define LAUNCH_TOGETHER(kernel, grid, block, bytes, ...)                                                               \
    ck_assert_int_eq(TS_LAUNCH_TOGETHER(kernel, grid, block, bytes, s, __VA_ARGS__), TS_OK)

#endif
