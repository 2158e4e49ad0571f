/* options_help.h - the texts of an option table: what --help prints, and what messages say is allowed. */
#ifndef TS_OPTIONS_HELP_H
#define TS_OPTIONS_HELP_H

#include "tools/options.h"

enum { OPT_TEXT = 256 };

/* "1 to 1024", "f32 or bf16", "DIR": what an option takes. */
void opt_allowed(const opt *o, char text[OPT_TEXT]);

/* The whole of --help, to stdout. */
void opt_help(const opt_command *command, const opt *options);

#endif
