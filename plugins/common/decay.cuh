// decay_rounded() by a table a warp holds in its registers: the same bits for every input, fewer instructions.
//
// x = (m / 32) ln 2 + r with |r| < 0.01084, exp(x) = 2^(m / 32) exp(r). Lane j holds 2^(j / 32), and a shuffle
// takes m's last five bits for j. decay_wide() needs ten fp64 operations where the polynomial alone takes
// eighteen; decay_narrow() needs none, and says where fp32 pairs leave the last bit open.
#pragma once

#include <type_traits>

#include "warp.cuh"

namespace quamba {

#ifdef __CUDACC__
__device__
#endif
    constexpr double POWERS[32] = {  // 2^(j / 32)
        1.0, 1.0218971486541166, 1.0442737824274138, 1.0671404006768237, 1.0905077326652577,
        1.1143867425958924, 1.1387886347566916, 1.1637248587775775, 1.189207115002721, 1.215247359980469,
        1.241857812073484, 1.2690509571917332, 1.2968395546510096, 1.3252366431597413, 1.3542555469368927,
        1.383909881963832, 1.4142135623730951, 1.4451808069770467, 1.4768261459394993, 1.5091644275934228,
        1.5422108254079407, 1.5759808451078865, 1.6104903319492543, 1.645755478153965, 1.681792830507429,
        1.718619298122478, 1.7562521603732995, 1.7947090750031072, 1.8340080864093424, 1.8741676341103,
        1.9152065613971474, 1.9571441241754002};

constexpr float STEPS_PER_NAT = 46.166241f;  // 32 / ln 2
// ln 2 / 32 = NATS + NATS_REST. NATS has 24 bits, and x - m NATS is a multiple of 2^-30 below 2^-6: exact.
constexpr float NATS = 0.02166085f;
constexpr double NATS_REST = -5.952044687368025e-11;

// One of POWERS, and what scales it.
struct WidePower {
    uint32_t low, high;  // the halves of 2^(j / 32), j 2^15 taken from the upper one

    QUAMBA_HOST_DEVICE static WidePower entry(int j, const double (&powers)[32]) {
        uint64_t bits;
        memcpy(&bits, &powers[j], sizeof(bits));
        return {uint32_t(bits), uint32_t(bits >> 32) - (uint32_t(j) << 15)};
    }
    // 2^(m / 32): m = 32 n + j adds j 2^15 and n to the exponent.
    QUAMBA_HOST_DEVICE double scaled(int m) const {
        const uint64_t bits = uint64_t(high + (uint32_t(m) << 15)) << 32 | low;
        double power;
        memcpy(&power, &bits, sizeof(power));
        return power;
    }
};

struct NarrowPower {
    float power, excess;  // power exp(excess) = 2^(j / 32) within 2^-50

    QUAMBA_HOST_DEVICE static NarrowPower entry(int j, const double (&powers)[32]) {
        const double rounded = static_cast<float>(powers[j]), reciprocal = powers[(32 - j) % 32] / 2;
        return {static_cast<float>(rounded), static_cast<float>((powers[j] - rounded) * reciprocal)};
    }
};

// decay_rounded(x). Powers: m -> the entry of m mod 32.
//
// The polynomial is within 2^-53 of exp(r) - 1, Taylor's of degree 7 with r^6 made up for in r^2 and r^4. Tried
// on every float: some lie within 2^-52.6 of a middle between two results.
template <class Powers>
QUAMBA_HOST_DEVICE float decay_wide(float x, const Powers &powers) {
    const double wide = fmaxf(x, -105.0f), round = 6755399441055744.0;  // 1.5 2^52: its ulp is 1
    const double shifted = fma(wide, double(STEPS_PER_NAT), round), steps = shifted - round;
    const double r = fma(steps, -NATS_REST, fma(steps, -double(NATS), wide));
    double sum = fma(0.008333333333333333, r, 0.04166690492483334);
    sum = fma(sum, r, 0.16666666666666666);
    sum = fma(sum, r, 0.49999999999091727);
    sum = fma(sum, r, 1.0) * r;
    uint64_t bits;  // the last of `shifted` are m
    memcpy(&bits, &shifted, sizeof(bits));
    const int m = int(uint32_t(bits));
    const double power = powers(m).scaled(m);
    return static_cast<float>(fma(power, sum, power));
}

// decay_rounded(x), or NaN where its last bit is open: where exp(x) is subnormal, or a middle between two floats
// lies within 2^-35.6 of it, which is one x in two thousand.
//
// high + low is 2^(j / 32) exp(r). `high` and what it leaves of power (1 + r) are exact; the relative errors of
// `low` are, in 1e-12: square 1.9, polynomial 3.5 + 0.2, tail 1.9, three roundings of low 3.6 each, the product
// with the excess 0.1; together below 18.5.
template <class Powers>
QUAMBA_HOST_DEVICE float decay_narrow(float x, const Powers &powers) {
    const float round = 12582912.0f, bound = 1.9e-11f;  // 1.5 2^23: its ulp is 1
    const float shifted = fmaf(x, STEPS_PER_NAT, round), steps = shifted - round;
    int32_t m;  // and what ends in `shifted` behind it
    memcpy(&m, &shifted, sizeof(m));
    const NarrowPower entry = powers(m);
    const float r = fmaf(steps, -NATS, x), excess = fmaf(steps, -float(NATS_REST), entry.excess);
    const float tail = r * r * fmaf(fmaf(0.041666668f, r, 0.16666752f), r, 0.5f);
    const float high = fmaf(entry.power, r, entry.power);
    float low = fmaf(entry.power, tail, fmaf(entry.power, r, entry.power - high));
    low = fmaf(high + low, excess, low);
    const float least = high + fmaf(high, -bound, low), most = high + fmaf(high, bound, low);
    uint32_t bits;
    memcpy(&bits, &least, sizeof(bits));
    bits += uint32_t(m >> 5) << 23;
    float value;  // least 2^n
    memcpy(&value, &bits, sizeof(value));
    return least == most && x > -87.25f ? value : NAN;
}

#ifdef __CUDACC__

// Issue slots (a quarter of an SM's cycle) an exponential of a warp, by its SASS and the rates of the CUDA guide:
//   sm_90  polynomial 36 (18 fp64 of 2), wide 20 (10 fp64 of 2; 16 instructions), narrow 28
//   sm_87  polynomial 1290 (18 fp64 and 2 conversions of 64), wide 770, narrow 28 and 24 for what it leaves open
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 900 || __CUDA_ARCH__ == 1000)
constexpr bool FAST_FP64 = true;  // half of fp32's rate; everywhere else a 64th, or fewer
#else
constexpr bool FAST_FP64 = false;
#endif

// A table of 32, an entry a lane. Every lane of the warp takes part in operator().
template <class Entry>
struct LanePowers {
    Entry own = Entry::entry(threadIdx.x % 32, POWERS);

    __device__ Entry operator()(int m) const {  // a shuffle looks at the last five bits of m alone
        const auto [first, second] = own;
        return {__shfl_sync(ALL_LANES, first, m), __shfl_sync(ALL_LANES, second, m)};
    }
};

// decay_rounded() for all lanes of a warp at once.
class LaneDecay {
public:
    // decay[i][k] = decay_rounded(exponent(i, k)), all of them under way at once.
    template <int ROWS, int COLUMNS, class Exponent>
    __device__ __forceinline__ void operator()(float (&decay)[ROWS][COLUMNS], Exponent exponent) const {
        bool open = false;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
#pragma unroll
            for (int k = 0; k < COLUMNS; k++) {
                if constexpr (FAST_FP64) {
                    decay[i][k] = decay_wide(exponent(i, k), powers);
                } else {
                    decay[i][k] = decay_narrow(exponent(i, k), powers);
                    open |= isnan(decay[i][k]);
                }
            }
        }
        if (open) close(decay, exponent);
    }

private:
    // Lanes may be apart here, so no table.
    template <int ROWS, int COLUMNS, class Exponent>
    __device__ static void close(float (&decay)[ROWS][COLUMNS], Exponent exponent) {
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
#pragma unroll
            for (int k = 0; k < COLUMNS; k++) {
                if (isnan(decay[i][k])) decay[i][k] = decay_rounded(exponent(i, k));
            }
        }
    }

    LanePowers<std::conditional_t<FAST_FP64, WidePower, NarrowPower>> powers;
};

#endif  // __CUDACC__

}  // namespace quamba
