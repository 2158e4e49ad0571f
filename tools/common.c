/* common.c - what all commands share. Contract: tools/common.h. */
#include "tools/common.h"

#include <stdlib.h>
#include <string.h>

#include "host/log.h"

ts_status common_device(ts_device **d, const common_options *c)
{
    TS_TRY(ts_device_open(d, c->device, (int)c->threads, (ts_math)c->dtype));
    if (c->inference && !c->dtype_given) (*d)->math = ts_device_preferred_math(*d);
    return TS_OK;
}

common_options common_inference(void)
{
    common_options c = COMMON_DEFAULTS;
    c.inference = 1;
    c.dtype = ts_backend_get("cpu")->preferred_math();
    return c;
}

ts_preprocess common_preprocess(int choice, const ts_tokenizer *t)
{
    return choice == 0 ? t->c.preprocess : (ts_preprocess)(choice - 1);
}

ts_device *common_resizer(ts_device *d)
{
    return strcmp(d->be->name, "cpu") == 0 ? NULL : d;
}

json_t *common_text(const char *text)
{
    json_t *o = json_string(text);
    char *copy = o ? NULL : strdup(text);
    for (char *c = copy; c && *c; c++)
        if ((unsigned char)*c >= 128) *c = '?';
    if (copy) o = json_string(copy);
    free(copy);
    return o;
}

int report(ts_status st)
{
    if (st != TS_OK) ts_log("tessera: %s", ts_error());
    return ts_exit_code(st);
}
