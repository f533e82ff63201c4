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

// Near the end of a kernel that is long: blocks that come early are put where there is room, not evenly. A
// short one says it before its own wait_for_inputs(): what the next one does before its wait is hidden.
__device__ __forceinline__ void let_next_kernel_begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Whether what a kernel does before wait_for_inputs() may be hidden behind the kernel before it.
__device__ constexpr bool kernels_overlap() {
#if __CUDA_ARCH__ >= 900
    return true;
#else
    return false;
#endif
}

// How often to go through code that a block runs once, the last time for good. Instructions come from memory as weights
// do: where a kernel waits for the one before it, it goes through on zeros first. The compiler must not see the number,
// or it would make two copies of the code.
__device__ __forceinline__ int rehearsed_passes() {
    int passes = kernels_overlap() ? 2 : 1;
    asm volatile("" : "+r"(passes));
    return passes;
}

// The same number, from which nothing is computed in front of this place, to be kept through a rehearsal.
__device__ __forceinline__ int known_here(int value) {
    asm volatile("" : "+r"(value));
    return value;
}

// Has a value computed where it stands, even if what follows does not use it in a rehearsal.
__device__ __forceinline__ void compute_here(int value) { asm volatile("" ::"r"(value)); }
__device__ __forceinline__ void compute_here(float value) { asm volatile("" ::"f"(value)); }

// A hint, which may be given before wait_for_inputs() for what an earlier kernel writes: nothing is read.
__device__ __forceinline__ void prefetch_into_L2(const void *address) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

// `address` in global memory, found here: the compiler would find it where it is used, behind a wait.
template <class T>
__device__ __forceinline__ T *found_now(T *address) {
    asm volatile("" : "+l"(address));
    __builtin_assume(__isGlobal(address));
    return address;
}

#endif  // __CUDACC__

}  // namespace quamba
