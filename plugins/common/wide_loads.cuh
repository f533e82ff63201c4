// 16 bytes of a weight matrix from memory into registers.
#pragma once

#include <cstdint>

namespace quamba {

#ifdef __CUDACC__

// 16 bytes that are read once: past L1, a whole DRAM burst at a time.
__device__ __forceinline__ uint4 load_streamed(const void *pointer) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(pointer));
    return v;
}

// 16 bytes from any address; those from `count` on are zero and not read.
__device__ __forceinline__ uint4 load_codes(const int8_t *pointer, int count) {
    uint32_t words[4] = {};
#pragma unroll
    for (int i = 0; i < 16; i++) {
        if (i < count)
            words[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(pointer[i])) << (8 * (i % 4));
    }
    return {words[0], words[1], words[2], words[3]};
}

#endif  // __CUDACC__

}  // namespace quamba
