// Copies from memory into shared memory that go on while the threads do something else (sm_80).
#pragma once

#include <cstdint>
#include <cstring>

namespace quamba {

#ifdef __CUDACC__

__device__ __forceinline__ uint32_t shared_address(const void *pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts a copy of 16 bytes into shared memory, of which those from `bytes` on become zero.
__device__ __forceinline__ void copy_async(uint32_t to, const void *from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// The same of bytes that are read once, a whole DRAM burst at a time.
__device__ __forceinline__ void copy_streamed(uint32_t to, const void *from, int bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
}

// Starts a copy of 4 or 16 bytes, both addresses on as many.
template <int BYTES>
__device__ __forceinline__ void copy_piece_async(void *to, const void *from) {
#ifndef __CUDA_ARCH__
    memcpy(to, from, BYTES);
#else
    if constexpr (BYTES == 16) {
        copy_async(shared_address(to), from, 16);
    } else {
        static_assert(BYTES == 4, "through L1");
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory");
    }
#endif
}

__device__ __forceinline__ void end_copy_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int PENDING>
__device__ __forceinline__ void wait_copy_groups() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

#endif  // __CUDACC__

}  // namespace quamba
