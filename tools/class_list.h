/* class_list.h - which classes an option names: numbers, names, or both. */
#ifndef TS_CLASS_LIST_H
#define TS_CLASS_LIST_H

#include <stdint.h>

/* "all", or items such as "3,10-12,dog". An item is the name of a class; numbers and ranges as opt_list takes them; or the name in
 * other ASCII case or without the number before it ("7-symbols": "Symbols"). A name that holds commas must stand alone, and only alone
 * may a name that reads as a number. names: count of them, or NULL. option is the name for messages, "--class".
 * Returns 0 and *n numbers (malloc'ed), or an exit code with one line on stderr. */
int class_list(const char *option, const char *text, const char *const *names, int count, int64_t **numbers, int *n);

#endif
