// One block of a CUDA kernel on the host: its warps take turns, each until a barrier of the block.
//
// Included before a kernel's source with __CUDACC__ defined, and by the name of CUDA's own headers; host_launch.h has
// what a launcher calls.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __shared__ thread_local  // of which there is one, as one thread of the host runs a block
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __isGlobal(pointer) true
#define __builtin_assume(fact)
#define asm
#define volatile(...) host_gpu::assembly(#__VA_ARGS__)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

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

// Opens when `size` threads are there; one that has ended is waited for no longer.
struct Barrier {
    unsigned size, there, opened;

    void open() {
        if (there == size) there = 0, opened++, progress++;
    }
    void wait() {
        const unsigned now = opened;
        there++, open();
        while (opened == now) yield();
    }
    void leave() {
        size--;
        if (there > 0) open();
    }
};
inline Barrier block, warps[32];

// What is reached below sm_90: the barrier of a block, and what copies and prefetches say.
inline void assembly(const std::string &text) {
    if (text.find("barrier.cta.sync") != std::string::npos) return block.wait();
    for (const char *known : {"\"\"", "prefetch.", "cp.async.commit_group", "cp.async.wait_group"}) {
        if (text.rfind(known, 0) == 0 || text.rfind(std::string("\"") + known, 0) == 0) return;
    }
    fprintf(stderr, "assembly that the host does not know: %s\n", text.c_str());
    abort();
}

inline void end_thread() {
    threads[threadIdx.x].done = true, progress++;
    block.leave(), warps[threadIdx.x / 32].leave();
}
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
    blockDim = dim3(count);
    block = {count, 0, 0};
    for (Barrier &warp : warps) warp = {32, 0, 0};
    for (Thread &thread : threads) {
        thread.stack.resize(1 << 16);
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.data();
        thread.context.uc_stack.ss_size = thread.stack.size();
        thread.context.uc_link = &turns;
        makecontext(&thread.context, [] { (*running)(), end_thread(); }, 0);
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

inline int __syncthreads_or(int value) {
    static int any[1024];
    any[threadIdx.x] = value;
    host_gpu::block.wait();
    const bool found = std::any_of(any, any + blockDim.x, [](int one) { return one != 0; });
    host_gpu::block.wait();
    return found;
}

inline int __all_sync(unsigned, int predicate) {
    int all = 1;
    for (int lane = 0; lane < 32; lane++) all &= __shfl_sync(0, predicate, lane) != 0;
    return all;
}

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdividef(float a, float b) { return a / b; }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

template <class To, class From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof(to));
    return to;
}
inline int __float_as_int(float value) { return same_bits<int>(value); }
inline float __int_as_float(int bits) { return same_bits<float>(bits); }

inline unsigned __byte_perm(unsigned a, unsigned b, unsigned which) {
    const uint64_t bytes = uint64_t(b) << 32 | a;
    unsigned picked = 0;
    for (int i = 0; i < 4; i++) picked |= unsigned(bytes >> 8 * (which >> 4 * i & 7) & 0xff) << 8 * i;
    return picked;
}
inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 32; i += 8) sum += int8_t(a >> i) * int8_t(b >> i);
    return sum;
}

inline size_t __cvta_generic_to_shared(const void *pointer) { return reinterpret_cast<size_t>(pointer); }

struct char4 {
    signed char x, y, z, w;
};
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct __half {
    uint16_t bits;
    operator float() const;
};
struct __half2 {
    __half x, y;
};
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }

// Of a subnormal number all bits are of the fraction, in units of 2^-24.
inline float __half2float(__half value) {
    const uint32_t exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
    const float magnitude = exponent == 0 ? std::ldexp(float(fraction), -24)
                            : exponent == 31 ? fraction ? NAN : INFINITY
                                             : std::ldexp(float(1024 + fraction), int(exponent) - 25);
    return value.bits >> 15 ? -magnitude : magnitude;
}
inline __half::operator float() const { return __half2float(*this); }

// Whole units of the result's last bit, half of one to even: a sum that 2^23 leaves no other bits of.
inline __half __float2half_rn(float value) {
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const float magnitude = std::fabs(value);
    if (std::isnan(value)) return {uint16_t(sign | 0x7e00)};
    if (magnitude >= 65520.0f) return {uint16_t(sign | 0x7c00)};
    if (magnitude == 0.0f) return {sign};
    int exponent = 0;
    std::frexp(magnitude, &exponent);
    const int unit = std::max(exponent - 11, -24);
    const auto units = uint16_t(std::nearbyint(std::ldexp(magnitude, -unit)));
    return {uint16_t(sign | (units + ((unit + 24) << 10)))};  // a carry makes the next exponent
}
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 value) { return {__half2float(value.x), __half2float(value.y)}; }
using std::isnan;
using std::max;
using std::min;
