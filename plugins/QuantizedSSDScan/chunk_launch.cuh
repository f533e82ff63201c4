// The three kernels of a call's whole chunks, one behind the other.
#pragma once

#include "../common/launch.cuh"
#include "chunk_outputs.cuh"
#include "chunk_states.cuh"

namespace quamba {

template <class Stored, int BLOCKS, bool ALIGNED>
cudaError_t launch_chunk_parts(const QuambaQuantizedSSDScan &op, const ChunkWorkspace &workspace, const Gpu &gpu,
                               cudaStream_t stream) {
    constexpr int WARPS = 64 * BLOCKS / STATE_COLUMNS;
    const auto parts = [](int64_t whole, int part) { return unsigned((whole + part - 1) / part); };
    const unsigned H = unsigned(op.size.H), B = unsigned(op.size.B);
    const int64_t P = op.size.P, chunks = op.size.L / CHUNK;
    const unsigned weighing = 2 * parts(op.size.H, WEIGHT_HEADS) + unsigned(op.size.G);
    cudaError_t error = launch_overlapped(ssd_chunk_weights<ALIGNED>, dim3(parts(op.size.L, CHUNK), weighing, B),
                                          WEIGHT_THREADS, 0, 1, gpu, stream, op, workspace);
    if (error != cudaSuccess) return error;
    error = launch_overlapped(ssd_chunk_states<Stored, WARPS>, dim3(parts(P, STATE_ROWS), H, B),
                              32 * WARPS, 0, 1, gpu, stream, op, workspace);
    if (error != cudaSuccess) return error;
    return launch_overlapped(ssd_chunk_outputs<BLOCKS, ALIGNED>,
                             dim3(unsigned(chunks) * parts(P, OUTPUT_ROWS), H, B), OUTPUT_THREADS,
                             sizeof(typename ChunkOutputs<BLOCKS, ALIGNED>::Shared), 1, gpu, stream, op,
                             workspace);
}

template <class Stored, bool ALIGNED>
cudaError_t launch_chunk_blocks(const QuambaQuantizedSSDScan &op, const ChunkWorkspace &workspace,
                                const Gpu &gpu, cudaStream_t stream) {
    const int width = ChunkWorkspace::width(op.size.N);
    if (width == 64) return launch_chunk_parts<Stored, 1, ALIGNED>(op, workspace, gpu, stream);
    if (width == 128) return launch_chunk_parts<Stored, 2, ALIGNED>(op, workspace, gpu, stream);
    return launch_chunk_parts<Stored, 4, ALIGNED>(op, workspace, gpu, stream);
}

// aligned: codes of x, B and C may be read 16 at once.
template <class Stored>
cudaError_t launch_chunks(const QuambaQuantizedSSDScan &op, void *memory, bool aligned, const Gpu &gpu,
                          cudaStream_t stream) {
    const ChunkWorkspace workspace = ChunkWorkspace::of(op, memory);
    if (aligned) return launch_chunk_blocks<Stored, true>(op, workspace, gpu, stream);
    return launch_chunk_blocks<Stored, false>(op, workspace, gpu, stream);
}

}  // namespace quamba
