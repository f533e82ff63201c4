// The blocks of a cluster (sm_90): in step with each other, and each other's shared memory.
#pragma once

#include <cstdint>

namespace quamba {

#ifdef __CUDACC__

// What a thread wrote to shared memory is seen by every thread that waits. All threads of all blocks arrive and
// wait in turn. No block may touch another's shared memory before that block has begun, or after it has ended.
__device__ __forceinline__ void arrive_at_cluster_barrier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive;" ::: "memory");
#endif
}

__device__ __forceinline__ void wait_at_cluster_barrier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void synchronize_cluster() {
    arrive_at_cluster_barrier();
    wait_at_cluster_barrier();
}

// Where `address` of this block's shared memory lies in that of block `rank`.
__device__ __forceinline__ uint32_t address_in_block(uint32_t address, int rank) {
    uint32_t there = address;
#if __CUDA_ARCH__ >= 900
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
#endif
    return there;
}

// Four integers at `address` of this block's shared memory, as block `rank` holds them.
__device__ __forceinline__ int4 load_from_block(uint32_t address, int rank) {
    int4 v{};
#if __CUDA_ARCH__ >= 900
    asm volatile("ld.shared::cluster.v4.s32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address_in_block(address, rank))
                 : "memory");
#endif
    return v;
}

__device__ __forceinline__ unsigned long long load_wide_from_block(uint32_t address, int rank) {
    unsigned long long v{};
#if __CUDA_ARCH__ >= 900
    asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(v) : "r"(address_in_block(address, rank)) : "memory");
#endif
    return v;
}

#endif  // __CUDACC__

}  // namespace quamba
