/* tokens.c. Contract: tokens.h. */
#include "host/tokens.h"

#include <stddef.h>

ts_status ts_token_writer_new(ts_token_writer **w, const char *dir, const char *info, int64_t T, int64_t V,
                              const char *const *classes, int n_classes, int64_t n_sources, int64_t per_shard)
{
    (void)w;
    (void)dir;
    (void)info;
    (void)T;
    (void)V;
    (void)classes;
    (void)n_classes;
    (void)n_sources;
    (void)per_shard;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

int64_t ts_token_writer_resume(const ts_token_writer *w)
{
    (void)w;
    return 0;
}

ts_status ts_token_writer_add(ts_token_writer *w, int64_t source, int32_t label, const int32_t *tokens)
{
    (void)w;
    (void)source;
    (void)label;
    (void)tokens;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

ts_status ts_token_writer_finish(ts_token_writer *w, int64_t n_errors)
{
    (void)w;
    (void)n_errors;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

void ts_token_writer_abandon(ts_token_writer *w)
{
    (void)w;
}

ts_status ts_token_set_open(ts_token_set **t, const char *dir, int verify)
{
    (void)t;
    (void)dir;
    (void)verify;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

void ts_token_set_close(ts_token_set *t)
{
    (void)t;
}

int64_t ts_token_set_count(const ts_token_set *t)
{
    (void)t;
    return 0;
}

int64_t ts_token_set_T(const ts_token_set *t)
{
    (void)t;
    return 0;
}

int64_t ts_token_set_V(const ts_token_set *t)
{
    (void)t;
    return 0;
}

const char *ts_token_set_info(const ts_token_set *t)
{
    (void)t;
    return 0;
}

int ts_token_set_classes(const ts_token_set *t)
{
    (void)t;
    return 0;
}

const char *ts_token_set_class(const ts_token_set *t, int i)
{
    (void)t;
    (void)i;
    return 0;
}

ts_status ts_token_set_get(const ts_token_set *t, int64_t i, int32_t *tokens, int32_t *label, uint64_t *source)
{
    (void)t;
    (void)i;
    (void)tokens;
    (void)label;
    (void)source;
    return ts_fail(TS_E_INTERNAL, "not written yet");
}

