// Which kernels tokens take that are scanned one by one, for states of every kind.
#pragma once

#include "../common/launch.cuh"
#include "kernel.cuh"
#include "step.cuh"

namespace quamba {

// 16 or 4 where every row of B, C and x begins on as many bytes and is made of whole pieces, else 1.
template <class Op>
int piece_bytes(const Op &op) {
    const auto address = [](const void *pointer) { return reinterpret_cast<uintptr_t>(pointer); };
    const int64_t counts = op.size.N | op.size.P | op.x_stride | op.B_stride | op.C_stride;
    const uintptr_t all = address(op.x) | address(op.B) | address(op.C) | counts * sizeof(SSDElement<Op>);
    return all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : 1;
}

// The tokens from `begin` on; those of a call with chunks have their steps by now.
template <class Stored, int N_LANE, int ROWS, int TILE, class Op>
cudaError_t launch_rows(const Op &op, const RowScales &scales, SSDStep *steps, int64_t begin, const Gpu &gpu,
                        cudaStream_t stream) {
    using Scan = SSDScan<Op, Stored, N_LANE, ROWS, TILE>;
    if (op.size.L < SSD_STEPS_FROM) steps = nullptr;
    if (steps && begin == 0) {
        const unsigned blocks = unsigned((op.size.B * op.size.L * op.size.H + 255) / 256);
        const cudaError_t error =
            launch_overlapped(ssd_steps<Op>, dim3(blocks), 256, 0, 1, gpu, stream, op, steps);
        if (error != cudaSuccess) return error;
    }
    const unsigned blocks = unsigned((op.size.P + Scan::BLOCK_ROWS - 1) / Scan::BLOCK_ROWS);
    return launch_overlapped(ssd_scan<Stored, N_LANE, ROWS, TILE, Op>,
                             dim3(blocks, unsigned(op.size.H), unsigned(op.size.B)), SSD_THREADS,
                             sizeof(typename Scan::Shared), 1, gpu, stream, op, scales,
                             static_cast<const SSDStep *>(steps), begin, piece_bytes(op));
}

template <class Stored, int N_LANE, class Op>
cudaError_t launch_one_token(const Op &op, const RowScales &scales, const Gpu &gpu, cudaStream_t stream) {
    constexpr int ROWS = 4, BLOCK_ROWS = STEP_WARPS * ROWS, BYTES = sizeof(SSDElement<Op>);
    const auto address = [](const void *pointer) { return reinterpret_cast<uintptr_t>(pointer); };
    const uintptr_t rows = address(op.B) | address(op.C) | (op.B_stride | op.C_stride) * BYTES;
    uintptr_t states = address(op.state) | address(op.state_out);
    if constexpr (SSDInputs<Op>::CODES) states |= address(op.state_scale);
    const bool whole =
        op.size.N == 32 * N_LANE && op.size.P % ROWS == 0 && rows % (N_LANE * BYTES) == 0 && states % 16 == 0;
    const auto kernel = whole ? ssd_one_token<Stored, N_LANE, ROWS, true, Op>
                              : ssd_one_token<Stored, N_LANE, ROWS, false, Op>;
    const unsigned blocks = unsigned((op.size.P + BLOCK_ROWS - 1) / BLOCK_ROWS);
    return launch_overlapped(kernel, dim3(blocks, unsigned(op.size.H), unsigned(op.size.B)), STEP_THREADS, 0,
                             1, gpu, stream, op, scales);
}

// More rows a warp share the reads of B and C; fewer give more warps where rows are few.
template <class Stored, int N_LANE, class Op>
cudaError_t launch_lanes(const Op &op, const RowScales &scales, SSDStep *steps, int64_t begin, const Gpu &gpu,
                         cudaStream_t stream) {
    if (op.size.L == 1) return launch_one_token<Stored, N_LANE>(op, scales, gpu, stream);
    const int64_t rows = op.size.B * op.size.H * op.size.P;
    if constexpr (N_LANE <= 4) {
        if (rows >= int64_t(64) * gpu.multiprocessors)
            return launch_rows<Stored, N_LANE, 4, 32>(op, scales, steps, begin, gpu, stream);
    }
    const bool fits = sizeof(typename SSDScan<Op, Stored, N_LANE, 2, 32>::Shared) <= size_t(gpu.shared_bytes);
    if (fits && rows >= int64_t(16) * gpu.multiprocessors)
        return launch_rows<Stored, N_LANE, 2, 32>(op, scales, steps, begin, gpu, stream);
    using Narrow = typename SSDScan<Op, Stored, N_LANE, 1, 32>::Shared;
    if constexpr (sizeof(Narrow) > 99 * 1024) {  // what a block has on sm_86 and sm_89
        if (sizeof(Narrow) > size_t(gpu.shared_bytes))
            return launch_rows<Stored, N_LANE, 1, 16>(op, scales, steps, begin, gpu, stream);
    }
    return launch_rows<Stored, N_LANE, 1, 32>(op, scales, steps, begin, gpu, stream);
}

// The tokens from `begin` on, one by one.
template <class Stored, class Op>
cudaError_t launch_tokens(const Op &op, const RowScales &scales, SSDStep *steps, int64_t begin, const Gpu &gpu,
                          cudaStream_t stream) {
    if (op.size.N <= 32) return launch_lanes<Stored, 1>(op, scales, steps, begin, gpu, stream);
    if (op.size.N <= 64) return launch_lanes<Stored, 2>(op, scales, steps, begin, gpu, stream);
    if (op.size.N <= 128) return launch_lanes<Stored, 4>(op, scales, steps, begin, gpu, stream);
    return launch_lanes<Stored, 8>(op, scales, steps, begin, gpu, stream);
}

inline const char *ssd_refusal(int64_t B, int64_t H, int64_t N) {
    if (N > 256) return "N, the state size, must be at most 256";
    if (H > 65535) return "H, the number of heads, must be at most 65535";
    if (B > 65535) return "B, the batch, must be at most 65535";
    return nullptr;
}

}  // namespace quamba
