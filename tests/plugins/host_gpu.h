// One block of a CUDA kernel on the host: its warps take turns, each until a barrier of the block.
//
// Included before a kernel's source with __CUDACC__ defined, and by the name of CUDA's own headers.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __isGlobal(pointer) true
#define __builtin_assume(fact)
// asm volatile("bar.sync 1, ...), the only assembly that is reached below sm_90
#define asm
#define volatile(...) host_gpu::block.wait()

struct Dim3 {
    unsigned x, y, z;
};
inline Dim3 threadIdx, blockIdx;

namespace host_gpu {

struct Thread {
    ucontext_t context;
    std::vector<char> stack;
    bool done;
};
inline std::vector<Thread> threads;
inline ucontext_t turns;
inline unsigned progress;  // barriers that opened and threads that ended

inline void yield() { swapcontext(&threads[threadIdx.x].context, &turns); }

// Opens when `size` threads are there.
struct Barrier {
    unsigned size, there, opened;

    void wait() {
        const unsigned now = opened;
        if (++there == size) there = 0, opened++, progress++;
        while (opened == now) yield();
    }
};
inline Barrier block, warps[32];
inline uint64_t lanes[32][2][32];  // by warp; two, so that nobody writes what somebody has yet to read

inline void run_warp(unsigned warp) {
    for (threadIdx.x = 32 * warp; threadIdx.x < 32 * warp + 32; threadIdx.x++) {
        if (!threads[threadIdx.x].done) swapcontext(&turns, &threads[threadIdx.x].context);
    }
}

template <class Work>
bool advances(Work work) {
    const unsigned before = progress;
    work();
    return progress != before;
}

// Every thread runs body(), a warp as far as it comes; the last warp is first if `backwards`. False: some wait
// for ever. count: a multiple of 32.
template <class Body>
bool run(unsigned count, bool backwards, Body body) {
    static Body *running;
    running = &body;
    threads = std::vector<Thread>(count);
    block = {count, 0, 0};
    for (Barrier &warp : warps) warp = {32, 0, 0};
    for (Thread &thread : threads) {
        thread.stack.resize(1 << 16);
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = thread.stack.size();
        thread.context.uc_link = &turns;
        makecontext(&thread.context, [] { (*running)(), threads[threadIdx.x].done = true, progress++; }, 0);
    }
    while (advances([&] {
        for (unsigned warp = 0; warp < count / 32; warp++) {
            while (advances([&] { run_warp(backwards ? count / 32 - 1 - warp : warp); })) continue;
        }
    })) continue;
    return std::all_of(threads.begin(), threads.end(), [](const Thread &thread) { return thread.done; });
}

}  // namespace host_gpu

template <class Value>
Value __shfl_sync(unsigned, Value value, int from) {
    host_gpu::Barrier &warp = host_gpu::warps[threadIdx.x / 32];
    uint64_t(&held)[32] = host_gpu::lanes[threadIdx.x / 32][warp.opened % 2];
    memcpy(&held[threadIdx.x % 32], &value, sizeof(value));
    warp.wait();
    memcpy(&value, &held[from % 32u], sizeof(value));
    return value;
}

template <class Value>
Value __shfl_xor_sync(unsigned all, Value value, int distance) {
    return __shfl_sync(all, value, int(threadIdx.x % 32) ^ distance);
}

inline void __syncthreads() { host_gpu::block.wait(); }

inline float __fadd_rn(float a, float b) { return a + b; }

struct float2 {
    float x, y;
};
struct __half {  // named by other states than those that are run
    uint16_t bits;
};
struct __half2 {
    __half x, y;
};
float __half2float(__half);
__half __float2half_rn(float);
__half2 __floats2half2_rn(float, float);
float2 __half22float2(__half2);
using std::isnan;
using std::min;
