// What a kernel says to overlap with the kernels before and behind it.
#pragma once

namespace quamba {

#ifdef __CUDACC__

// Programmatic dependent launch (sm_90): a kernel may begin while the one before it ends. Nothing that an
// earlier kernel writes may be read, and nothing at all written, before wait_for_inputs().
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Near the end of a kernel that is long: blocks that come early are put where there is room, not evenly.
__device__ __forceinline__ void let_next_kernel_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif  // __CUDACC__

}  // namespace quamba
