// Instructions of int8_mma.cuh and async_copy.cuh on the host, in the place of their assembly, as the PTX manual has them.
//
// A copy that was started arrives as late as wait_copy_groups() allows, or at once where `early_copies`: what is read too
// soon, or overwritten while it is read, shows in one of the two.
#pragma once

#include <functional>

#include "host_gpu.h"

namespace quamba {

alignas(1024) inline __shared__ char shared[1 << 18];  // of a block, by the names that kernels have for it
alignas(1024) inline __shared__ uint4 slots[1 << 14];
inline bool early_copies = true;

namespace host {

using Copy = std::function<void()>;
inline std::vector<std::vector<Copy>> copies[1024];  // by thread, in groups, the last one open
inline uint32_t operands[32][2][32][6];              // by warp, as host_gpu::lanes
inline uint32_t addresses[32][2][32];

// What every lane of this warp gave: `held` of this turn, once all lanes are there.
template <class Held>
Held &together(Held (&both)[32][2], const std::function<void(Held &)> &give) {
    host_gpu::Barrier &warp = host_gpu::warps[threadIdx.x / 32];
    Held &held = both[threadIdx.x / 32][warp.opened % 2];
    give(held);
    warp.wait();
    return held;
}

inline int8_t byte(uint32_t word, int i) { return int8_t(word >> 8 * i); }

}  // namespace host

inline void forget_memory() {
    memset(shared, 0xff, sizeof(shared)), memset(slots, 0xff, sizeof(slots));  // NaN
    for (auto &of_thread : host::copies) of_thread.assign(1, {});
}

constexpr uint32_t IN_SLOTS = 1u << 30;

inline uint32_t shared_address(const void *pointer) {
    const char *byte = static_cast<const char *>(pointer), *of_slots = reinterpret_cast<const char *>(slots);
    return byte >= shared && byte < shared + sizeof(shared) ? uint32_t(byte - shared)
                                                            : uint32_t(byte - of_slots) | IN_SLOTS;
}

inline char *shared_pointer(uint32_t address) {
    return address & IN_SLOTS ? reinterpret_cast<char *>(slots) + (address ^ IN_SLOTS) : shared + address;
}

inline void copy_async(uint32_t to, const void *from, int bytes) {
    const auto copy = [=] { memset(shared_pointer(to), 0, 16), memcpy(shared_pointer(to), from, bytes); };
    if (early_copies) return copy();
    host::copies[threadIdx.x].back().push_back(copy);
}
inline void copy_streamed(uint32_t to, const void *from, int bytes) { copy_async(to, from, bytes); }

inline void end_copy_group() { host::copies[threadIdx.x].emplace_back(); }

template <int PENDING>
void wait_copy_groups() {
    auto &groups = host::copies[threadIdx.x];
    while (groups.size() > PENDING + 1) {
        for (const host::Copy &copy : groups.front()) copy();
        groups.erase(groups.begin());
    }
}

inline void mma(int32_t (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    const int lane = threadIdx.x % 32;
    const auto &held = host::together<uint32_t[32][6]>(host::operands, [&](auto &of) {
        const uint32_t own[6] = {a0, a1, a2, a3, b0, b1};
        memcpy(of[lane], own, sizeof(own));
    });
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 32; k++) {
            const int quad = k % 16 / 4, upper = k / 16;
            sums[i] += host::byte(held[row % 8 * 4 + quad][row / 8 + 2 * upper], k % 4) *
                       host::byte(held[column * 4 + quad][4 + upper], k % 4);
        }
    }
}

inline void load_matrices(uint32_t (&words)[4], uint32_t address) {
    const int lane = threadIdx.x % 32;
    const auto &held = host::together<uint32_t[32]>(host::addresses, [&](auto &of) { of[lane] = address; });
    for (int i = 0; i < 4; i++) memcpy(&words[i], shared_pointer(held[8 * i + lane / 4]) + lane % 4 * 4, 4);
}

}  // namespace quamba
