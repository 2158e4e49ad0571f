/* tile.c - contract: kernels/cpu/tile.h. */
#include "kernels/cpu/tile.h"

#if defined __AMX_BF16__ && defined __AMX_TILE__

#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int ready;

/* Linux hands the registers out to processes that ask (arch_prctl of asm/prctl.h). oneDNN knows what the machine has, and what
 * its environment variable takes away. */
static void ask(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    ready = dnnl_get_effective_cpu_isa() == dnnl_cpu_isa_avx512_core_amx &&
            syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
}

int tile_unit(void)
{
    pthread_once(&once, ask);
    return ready;
}

#else

int tile_unit(void)
{
    return 0;
}

#endif
