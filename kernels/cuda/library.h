/* library.h - NVIDIA's libraries are loaded at run time, so that a build with CUDA runs without them. */
#ifndef TS_CUDA_LIBRARY_H
#define TS_CUDA_LIBRARY_H

#include <dlfcn.h>

#define TS_TEXT_(x) #x
#define TS_TEXT(x) TS_TEXT_(x)
/* "libNAME.so.MAJOR", MAJOR a macro of the library's header. */
#define TS_LIBRARY(name, major) "lib" name ".so." TS_TEXT(major)

/* It stays until the program ends. NULL if it is not there: the reason is in dlerror(). */
static inline void *ts_library(const char *name)
{
    return dlopen(name, RTLD_NOW | RTLD_LOCAL);
}

template <class F> static bool ts_find(void *library, const char *name, F **f)
{
    *f = (F *)dlsym(library, name);
    return *f != nullptr;
}

#endif
