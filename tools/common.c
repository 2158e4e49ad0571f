/* common.c - what all commands share. Contract: tools/common.h. */
#include "tools/common.h"

#include "host/log.h"

ts_status common_device(ts_device **d, const common_options *c)
{
    return ts_device_open(d, c->device, (int)c->threads, (ts_math)c->dtype);
}

ts_preprocess common_preprocess(int choice, const ts_tokenizer *t)
{
    return choice == 0 ? t->c.preprocess : (ts_preprocess)(choice - 1);
}

int report(ts_status st)
{
    if (st != TS_OK) ts_log("tessera: %s", ts_error());
    return ts_exit_code(st);
}
