/* test_backend.c - the tables of all backends are complete: a member left out of an initialiser is silently NULL. */
#include <stddef.h>

#include "tests/t.h"

enum { MEMBERS = sizeof(ts_backend) / sizeof(void *) };
_Static_assert(sizeof(ts_backend) == MEMBERS * sizeof(void *), "ts_backend holds pointers alone");

/* Where backend.h says that a backend may lack it. */
static int is_optional(int i)
{
    const size_t at = (size_t)i * sizeof(void *);
    return at == offsetof(ts_backend, preferred_math) || at == offsetof(ts_backend, factor_dtype) || at == offsetof(ts_backend, mem_stored) ||
           (at >= offsetof(ts_backend, capture_begin) && at <= offsetof(ts_backend, capture_free));
}

T_TEST(no_member_is_null)
{
    (void)be, (void)s;
    for (int b = 0; ts_backend_at(b); b++) {
        const void *member[MEMBERS];
        memcpy(member, ts_backend_at(b), sizeof member);
        for (int i = 0; i < MEMBERS; i++)
            ck_assert_msg(member[i] != NULL || is_optional(i), "backend %s: pointer %d of ts_backend (from 0) is NULL",
                          member[0] ? ts_backend_at(b)->name : "without a name", i);
    }
}

T_TEST(names_find_their_tables)
{
    (void)be, (void)s;
    int n = 0;
    for (; ts_backend_at(n); n++) ck_assert_ptr_eq(ts_backend_get(ts_backend_at(n)->name), ts_backend_at(n));
    T_TRUE(n >= 1);
    ck_assert_ptr_nonnull(ts_backend_get("cpu"));
    ck_assert_ptr_null(ts_backend_get("cp"));
    ck_assert_ptr_null(ts_backend_get(""));
    ck_assert_ptr_null(ts_backend_get(NULL));
    ck_assert_ptr_null(ts_backend_at(-1));
    ck_assert_ptr_null(ts_backend_at(n + 100));
}

int main(void)
{
    Suite *u = t_suite("backend");
    T_ADD1(u, no_member_is_null);
    T_ADD1(u, names_find_their_tables);
    return t_run(u);
}
