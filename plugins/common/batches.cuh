// Loads from memory several at a time, so that their latencies pass together.
#pragma once

namespace quamba {

#ifdef __CUDACC__

// use(i, load(i)) for the i < count of this thread: i = thread, thread + threads, ...
template <int BATCH, class Load, class Use>
__device__ __forceinline__ void in_batches(int count, int thread, int threads, Load load, Use use) {
    for (int first = thread; first < count; first += BATCH * threads) {
        decltype(load(0)) loaded[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            const int i = first + k * threads;
            if (i < count) loaded[k] = load(i);
        }
#pragma unroll
        for (int k = 0; k < BATCH; k++) {
            const int i = first + k * threads;
            if (i < count) use(i, loaded[k]);
        }
    }
}

// Shared out to all threads of the block.
template <int BATCH, class Load, class Use>
__device__ __forceinline__ void in_batches(int count, Load load, Use use) {
    in_batches<BATCH>(count, int(threadIdx.x), int(blockDim.x), load, use);
}

#endif  // __CUDACC__

}  // namespace quamba
