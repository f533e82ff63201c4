// The instructions of sm_80 and later that the int8 kernels are made of, and who holds what in them.
//
// mma.sync.m16n8k32 multiplies A (16, 32) by B (32, 8), both int8, into C (16, 8) int32. Lane l of a warp
// holds four words of A, two of B and four sums; the functions below say which (PTX ISA, "Matrix Fragments
// for mma.m16n8k32"). They are host-device so that a test can replay a warp on the CPU.
#pragma once

#include "async_copy.cuh"
#include "int8_linear.cuh"
#include "overlap.cuh"
#include "wide_loads.cuh"

namespace quamba {

// Row and first column of word i (four codes) of A. B's two words are words 0 and 2 of its transpose.
QUAMBA_HOST_DEVICE constexpr int fragment_row(int lane, int i) { return lane / 4 + 8 * (i % 2); }
QUAMBA_HOST_DEVICE constexpr int fragment_k(int lane, int i) { return 4 * (lane % 4) + 16 * (i / 2); }

// Row and column of sum i.
QUAMBA_HOST_DEVICE constexpr int sum_row(int lane, int i) { return lane / 4 + 8 * (i / 2); }
QUAMBA_HOST_DEVICE constexpr int sum_column(int lane, int i) { return 2 * (lane % 4) + i % 2; }

#ifdef __CUDACC__

__device__ __forceinline__ void mma(int32_t (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Four 8 x 16-byte matrices; lanes 8i..8i+7 give the addresses of the rows of matrix i.
__device__ __forceinline__ void load_matrices(uint32_t (&words)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address)
                 : "memory");
}

#endif  // __CUDACC__

}  // namespace quamba
