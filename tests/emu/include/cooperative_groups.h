/* cooperative_groups.h - the emulated CUDA device: a stand-in for NVIDIA's header, as far as kernels/cuda uses it. */
#ifndef TS_EMU_COOPERATIVE_GROUPS_H
#define TS_EMU_COOPERATIVE_GROUPS_H

#include "cuda_runtime.h"

namespace cooperative_groups
{

struct grid_group {
    void sync(EMU_SITE) const
    {
        emu::grid_barrier(file, line);
    }
};

inline grid_group this_grid()
{
    return grid_group();
}

} // namespace cooperative_groups

#endif
