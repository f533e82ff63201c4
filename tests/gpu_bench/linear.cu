// Are the integer linear kernels right, and how fast? Every result against a loop over K, then microseconds.
//
//   nvcc -std=c++17 -O3 --fmad=false -arch=sm_90 tests/gpu_bench/linear.cu -o linear_bench
//   ./linear_bench [--all] [--serial]
//
// --all: every kernel beside the chosen one; --serial: no kernel begins before the one ahead of it has ended.
// Times are those of a CUDA graph of launches that take turns over copies of the weight larger together than
// the L2 cache. GB/s counts the weight alone. Exit status 1 if one result differs.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../../plugins/QuantizedLinear/kernel.cuh"
#include "../../plugins/RequantizedLinear/kernel.cuh"
#include "../../plugins/common/int8_linear_launch.cuh"

using namespace quamba;

static void check(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
    std::exit(2);
}
#define CHECK(call) check(call, #call)

__device__ uint32_t mix(uint64_t i) {
    uint32_t h = static_cast<uint32_t>(i ^ i >> 32) * 2654435761u;
    h = (h ^ h >> 15) * 2246822519u;
    return h ^ h >> 13;
}

__global__ void fill_codes(int8_t *to, int64_t count, uint32_t seed) {
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count;
         i += int64_t(gridDim.x) * blockDim.x) {
        to[i] = static_cast<int8_t>(mix(i + seed * 0x100000000ull));
    }
}

__global__ void fill_floats(float *to, int64_t count, float low, float high, uint32_t seed) {
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count;
         i += int64_t(gridDim.x) * blockDim.x) {
        to[i] = low + (high - low) * (mix(i + seed * 0x100000000ull) / 4294967296.0f);
    }
}

template <class End>
__global__ void plain_linear(Int8Product p, End end) {
    const int m = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (m >= p.M) return;
    int32_t total = 0;
    for (int k = 0; k < p.K; k++) total += int(p.x[t * p.x_stride + k]) * p.weight[int64_t(m) * p.K + k];
    end.y[int64_t(t) * p.M + m] = end.value(total, end.row(m), end.load(t, m));
}

__global__ void count_differences(const uint8_t *a, const uint8_t *b, int64_t count, unsigned *differences) {
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < count;
         i += int64_t(gridDim.x) * blockDim.x) {
        if (a[i] != b[i]) atomicAdd(differences, 1u);
    }
}

// Everything on the GPU, made once; `pool` gives weight and x at any offset.
struct Memory {
    static constexpr int64_t CODES = 768ll << 20, FLOATS = 32 << 20, OUTPUT = 160ll << 20;
    int8_t *pool, *x;
    float *scale, *bias, *out_scale, *residual;
    char *found, *expected;
    unsigned *differences;

    Memory() {
        CHECK(cudaMalloc(&pool, CODES));
        CHECK(cudaMalloc(&x, 64 << 20));
        for (float **p : {&scale, &bias, &out_scale, &residual}) CHECK(cudaMalloc(p, FLOATS * sizeof(float)));
        CHECK(cudaMalloc(&found, OUTPUT));
        CHECK(cudaMalloc(&expected, OUTPUT));
        CHECK(cudaMalloc(&differences, sizeof(unsigned)));
        fill_codes<<<1024, 256>>>(pool, CODES, 1);
        fill_codes<<<1024, 256>>>(x, 64 << 20, 2);
        fill_floats<<<1024, 256>>>(scale, FLOATS, 0.5f, 2.0f, 3);
        fill_floats<<<1024, 256>>>(bias, FLOATS, -9.0f, 9.0f, 4);
        fill_floats<<<1024, 256>>>(out_scale, FLOATS, 20000.0f, 60000.0f, 5);
        fill_floats<<<1024, 256>>>(residual, FLOATS, -9.0f, 9.0f, 6);
        CHECK(cudaDeviceSynchronize());
    }
};

static RequantizedEnd make_end(const Memory &memory, char *y, int, RequantizedEnd *) {
    return {reinterpret_cast<int8_t *>(y), memory.scale, memory.bias, memory.out_scale, 0.7f};
}

static ResidualEnd make_end(const Memory &memory, char *y, int M, ResidualEnd *) {
    return {reinterpret_cast<float *>(y), memory.scale, memory.bias, memory.residual, M + 3, 0.7f};
}

template <class End>
struct Variant {
    const char *name;
    int least, most;  // tokens it is timed on
    cudaError_t (*launch)(const Int8Product &, const End &, const Gpu &, cudaStream_t);
};

template <class End>
cudaError_t run_gemv(const Int8Product &p, const End &end, const Gpu &gpu, cudaStream_t stream) {
    return launch_gemv<Int8Format>(p, Codes{whole_chunks(p.x, p.x_stride, p.K)}, end, whole_chunks(p.weight, p.K, p.K), gpu,
                                   stream);
}

template <class End, class Tile, int SPLITS>
cudaError_t run_gemm(const Int8Product &p, const End &end, const Gpu &gpu, cudaStream_t stream) {
    return launch_gemm<Tile>(p, end, SPLITS, gpu, stream);
}

template <class End>
std::vector<Variant<End>> variants(bool clusters) {
    std::vector<Variant<End>> all = {
        {"chosen", 1, 1 << 30, launch_int8_linear<End>},
        {"gemv", 1, 8, run_gemv<End>},
        {"gemm 16x64", 8, 16, run_gemm<End, FewTokens, 1>},
        {"gemm 32x64", 17, 32, run_gemm<End, SomeTokens, 1>},
        {"gemm 64x64", 33, 1 << 30, run_gemm<End, MediumTile, 1>},
        {"gemm 128x128", 128, 1 << 30, run_gemm<End, LargeTile, 1>},
    };
    if (clusters) {
        all.push_back({"gemm 16x64, K in 2", 8, 16, run_gemm<End, FewTokens, 2>});
        all.push_back({"gemm 16x64, K in 4", 8, 16, run_gemm<End, FewTokens, 4>});
        all.push_back({"gemm 64x64, K in 2", 33, 512, run_gemm<End, MediumTile, 2>});
        all.push_back({"gemm 64x64, K in 4", 33, 512, run_gemm<End, MediumTile, 4>});
        all.push_back({"gemm 64x64, K in 8", 33, 512, run_gemm<End, MediumTile, 8>});
        all.push_back({"gemm 128x128, K in 2", 128, 512, run_gemm<End, LargeTile, 2>});
    }
    return all;
}

// Bytes that differ, guard bytes behind the output among them; -1 where the kernel refused to start.
template <class End>
long differences(const Variant<End> &variant, const Int8Product &p, const Memory &memory, int y_offset,
                 const Gpu &gpu, cudaStream_t stream) {
    const int64_t shift = y_offset * int64_t(sizeof(typename End::Output));
    const int64_t bytes = int64_t(p.T) * p.M * sizeof(typename End::Output) + shift + 256;
    CHECK(cudaMemsetAsync(memory.found, 0x5A, bytes, stream));
    CHECK(cudaMemsetAsync(memory.expected, 0x5A, bytes, stream));
    CHECK(cudaMemsetAsync(memory.differences, 0, sizeof(unsigned), stream));
    const cudaError_t error = variant.launch(
        p, make_end(memory, memory.found + shift, p.M, static_cast<End *>(nullptr)), gpu, stream);
    if (error != cudaSuccess) {
        std::fprintf(stderr, "%s: %s\n", variant.name, cudaGetErrorString(error));
        cudaGetLastError();
        return -1;
    }
    plain_linear<<<dim3((p.M + 63) / 64, p.T), 64, 0, stream>>>(
        p, make_end(memory, memory.expected + shift, p.M, static_cast<End *>(nullptr)));
    count_differences<<<256, 256, 0, stream>>>(reinterpret_cast<uint8_t *>(memory.found),
                                               reinterpret_cast<uint8_t *>(memory.expected), bytes,
                                               memory.differences);
    unsigned count = 0;
    CHECK(cudaMemcpyAsync(&count, memory.differences, sizeof(count), cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    return count;
}

template <class End>
int count_wrong(const char *op, const Memory &memory, const Gpu &gpu, cudaStream_t stream) {
    const int tokens[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 100, 128, 129, 300};
    const int columns[] = {1,   3,   15,  16,  17,  48,  63,   64,   65,   80,
                           127, 128, 129, 160, 384, 768, 1000, 1536, 2560, 3000};
    const int rows[] = {1, 5, 8, 13, 16, 17, 24, 63, 64, 65, 80, 128, 130, 192, 257, 768, 3352};
    const auto all = variants<End>(gpu.clusters);
    uint32_t state = 1;
    auto draw = [&](int count) { return int((state = state * 1664525u + 1013904223u) >> 8) % count; };
    int wrong = 0, cases = 0;
    for (int i = 0; i < 1500; i++) {
        Int8Product p = {};
        p.T = tokens[draw(19)], p.K = columns[draw(20)], p.M = rows[draw(17)];
        if (draw(2)) p.K = (p.K + 15) / 16 * 16;
        const bool aligned = draw(2);
        p.x_stride = p.K + (aligned ? 16 * draw(3) : draw(5));
        p.x = memory.x + (aligned ? 16 * draw(4) : draw(32));
        p.weight = memory.pool + (draw(2) ? 0 : draw(32));
        const Variant<End> &variant = i % 2 ? all[0] : all[draw(int(all.size()))];
        if (std::strstr(variant.name, "gemv") && p.T > 8) continue;
        const int y_offset = draw(3) ? 0 : draw(8);
        const long count = differences(variant, p, memory, y_offset, gpu, stream);
        cases++;
        if (count == 0) continue;
        if (wrong++ < 20) {
            std::printf(
                "WRONG %s %s: %ld bytes differ, T=%d K=%d M=%d x_stride=%lld x%%16=%d weight%%16=%d y+%d\n",
                op, variant.name, count, p.T, p.K, p.M, static_cast<long long>(p.x_stride),
                int(reinterpret_cast<uintptr_t>(p.x) % 16), int(reinterpret_cast<uintptr_t>(p.weight) % 16),
                y_offset);
        }
    }
    std::printf("%s: %d of %d cases wrong\n", op, wrong, cases);
    return wrong;
}

// Microseconds a launch, the best of several replays of a graph of them.
template <class End>
double microseconds(const Variant<End> &variant, Int8Product p, const Memory &memory, const Gpu &gpu,
                    cudaStream_t stream) {
    const int64_t step = (int64_t(p.M) * p.K + 255) / 256 * 256;
    const int64_t copies = std::max<int64_t>(8, (256 << 20) / step);
    const End end = make_end(memory, memory.found, p.M, static_cast<End *>(nullptr));
    const int launches = p.T > 64 ? 10 : int(std::max<int64_t>(copies, 32));
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < launches; i++) {
        p.weight = memory.pool + i % copies * step;
        CHECK(variant.launch(p, end, gpu, stream));
    }
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&executable, graph, 0));
    cudaEvent_t start, stop;
    CHECK(cudaEventCreate(&start));
    CHECK(cudaEventCreate(&stop));
    float best = 1e30f;
    for (int i = 0; i < 6; i++) {
        float ms = 0;
        CHECK(cudaEventRecord(start, stream));
        CHECK(cudaGraphLaunch(executable, stream));
        CHECK(cudaEventRecord(stop, stream));
        CHECK(cudaEventSynchronize(stop));
        CHECK(cudaEventElapsedTime(&ms, start, stop));
        if (i > 0) best = std::min(best, ms);
    }
    CHECK(cudaEventDestroy(start));
    CHECK(cudaEventDestroy(stop));
    CHECK(cudaGraphExecDestroy(executable));
    CHECK(cudaGraphDestroy(graph));
    return best * 1e3 / launches;
}

template <class End>
void time_shape(const char *name, int M, int K, const Memory &memory, const Gpu &gpu, cudaStream_t stream,
                bool all) {
    for (int T : {1, 8, 64, 512, 2048}) {
        for (const auto &variant : variants<End>(gpu.clusters)) {
            const bool chosen = !std::strcmp(variant.name, "chosen");
            if (!chosen && (!all || T < variant.least || T > variant.most)) continue;
            const Int8Product p = {memory.x, memory.pool, K, T, K, M};
            const double us = microseconds(variant, p, memory, gpu, stream);
            std::printf("%-15s M=%-6d K=%-5d T=%-5d %-31s %9.2f us %7.0f GB/s %7.1f TOP/s\n", name, M, K, T,
                        variant.name, us, double(M) * K / us / 1e3, 2.0 * M * K * T / us / 1e6);
        }
    }
}

int main(int argc, char **argv) {
    Gpu gpu = {};
    CHECK(current_gpu(gpu));
    bool all = false;
    for (int i = 1; i < argc; i++) {
        if (!std::strcmp(argv[i], "--all")) {
            all = true;
        } else if (!std::strcmp(argv[i], "--serial")) {
            gpu.overlap = false;
        } else {
            std::fprintf(stderr, "usage: %s [--all] [--serial]\n", argv[0]);
            return 2;
        }
    }
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    const Memory memory;
    const int wrong = count_wrong<RequantizedEnd>("RequantizedLinear", memory, gpu, stream) +
                      count_wrong<ResidualEnd>("QuantizedLinear", memory, gpu, stream);
    time_shape<RequantizedEnd>("130m in_proj", 3352, 768, memory, gpu, stream, all);
    time_shape<ResidualEnd>("130m out_proj", 768, 1536, memory, gpu, stream, all);
    time_shape<RequantizedEnd>("780m in_proj", 6448, 1536, memory, gpu, stream, all);
    time_shape<ResidualEnd>("780m out_proj", 1536, 3072, memory, gpu, stream, all);
    time_shape<RequantizedEnd>("2.7b in_proj", 10576, 2560, memory, gpu, stream, all);
    time_shape<ResidualEnd>("2.7b out_proj", 2560, 5120, memory, gpu, stream, all);
    time_shape<RequantizedEnd>("2.8b x_proj", 192, 5120, memory, gpu, stream, all);
    time_shape<RequantizedEnd>("2.8b dt_proj", 5120, 160, memory, gpu, stream, all);
    time_shape<RequantizedEnd>("8b in_proj", 18560, 4096, memory, gpu, stream, all);
    time_shape<ResidualEnd>("8b out_proj", 4096, 8192, memory, gpu, stream, all);
    return wrong == 0 ? 0 : 1;
}
