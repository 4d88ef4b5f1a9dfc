// What kernels are written in: one source for NVRTC (NVIDIA), for clang's HIP (AMD), and for any C++
// compiler, under which `stand_in.hpp` runs a block's threads on the host. No header of a maker's is needed.
//
// A kernel is `KERNEL(name, Arguments) { ... a.field ... }`. All fields of its arguments are 8 bytes long:
// pointers, `i64` and `double`. Its grid and its blocks have one dimension. Rows and elements are counted in
// `i64`. Sums have a fixed order, so equal inputs give equal bits; no float is added atomically.

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)
#define ON_CUDA 1
#elif defined(__HIP__) || defined(__HIPCC_RTC__)
#define ON_HIP 1
#endif

// The most threads of a block.
#define THREADS 256

typedef long long i64;
typedef unsigned long long u64;
typedef unsigned int u32;

#if ON_CUDA

#define DEVICE static __device__ __forceinline__
#define KERNEL(name, Arguments) extern "C" __global__ void __launch_bounds__(THREADS) name(const Arguments a)
#define SHARED(type, name, count) __shared__ type name[count]
#define UNROLL _Pragma("unroll")
#define UNROLL_4 _Pragma("unroll 4")
// For loops of many turns, which compilers would unroll: code costs seconds at the first start.
#define ROLLED _Pragma("unroll 1")
#define WARP 32

DEVICE int thread_index() { return threadIdx.x; }
DEVICE int block_threads() { return blockDim.x; }
DEVICE i64 block_index() { return blockIdx.x; }
DEVICE i64 grid_blocks() { return gridDim.x; }
// All threads of the block wait here for each other.
DEVICE void barrier() { __syncthreads(); }
DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }
// The lane's value in lane `lane ^ mask`. All lanes of the warp take part.
DEVICE u32 shuffle_xor(u32 x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
// The value of lane `from`. All lanes of the warp take part.
DEVICE u32 shuffle(u32 x, int from) { return __shfl_sync(0xffffffffu, x, from); }
DEVICE float exp_of(float x) { return expf(x); }
DEVICE float log_of(float x) { return logf(x); }
DEVICE float root_of(float x) { return sqrtf(x); }
DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }
DEVICE double nearest_whole(double x) { return rint(x); }
// Adds to an integer that other threads add to at the same time; returns what was there before.
DEVICE int atomic_add(int *place, int x) { return atomicAdd(place, x); }

#elif ON_HIP

#define DEVICE static __attribute__((device)) inline __attribute__((always_inline))
#define KERNEL(name, Arguments) \
    extern "C" __attribute__((global)) __attribute__((amdgpu_flat_work_group_size(1, THREADS))) void name( \
        const Arguments a)
#define SHARED(type, name, count) static __attribute__((shared)) type name[count]
#define UNROLL _Pragma("unroll")
#define UNROLL_4 _Pragma("unroll 4")
#define ROLLED _Pragma("unroll 1")
#define WARP __AMDGCN_WAVEFRONT_SIZE

DEVICE int thread_index() { return __builtin_amdgcn_workitem_id_x(); }
DEVICE int block_threads() { return __builtin_amdgcn_workgroup_size_x(); }
DEVICE i64 block_index() { return __builtin_amdgcn_workgroup_id_x(); }
DEVICE i64 grid_blocks() { return __builtin_amdgcn_grid_size_x() / __builtin_amdgcn_workgroup_size_x(); }
DEVICE void barrier() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
    __builtin_amdgcn_s_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
DEVICE u32 bits_of(float x) { return __builtin_bit_cast(u32, x); }
DEVICE float float_of(u32 bits) { return __builtin_bit_cast(float, bits); }
DEVICE int hip_lane() { return __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0u)); }
DEVICE u32 shuffle(u32 x, int from) { return (u32)__builtin_amdgcn_ds_bpermute(from << 2, (int)x); }
DEVICE u32 shuffle_xor(u32 x, int mask) { return shuffle(x, hip_lane() ^ mask); }
DEVICE float exp_of(float x) { return __builtin_expf(x); }
DEVICE float log_of(float x) { return __builtin_logf(x); }
DEVICE float root_of(float x) { return __builtin_sqrtf(x); }
DEVICE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
DEVICE double nearest_whole(double x) { return __builtin_rint(x); }
DEVICE int atomic_add(int *place, int x) { return __atomic_fetch_add(place, x, __ATOMIC_RELAXED); }

#else
#include "stand_in.hpp"
#endif

DEVICE int lane_index() { return thread_index() % WARP; }
DEVICE int warp_index() { return thread_index() / WARP; }
DEVICE int block_warps() { return block_threads() / WARP; }

// A bf16 number: the upper half of a float.
struct bf16 {
    unsigned short bits;
};

DEVICE float wide(float x) { return x; }
DEVICE float wide(bf16 x) { return float_of((u32)x.bits << 16); }

// The bits of the nearest bf16, ties to even; not a number stays none.
DEVICE u32 nearest_bf16(float x) {
    u32 bits = bits_of(x);
    u32 none = bits >> 16 | 0x40u;
    u32 rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return x != x ? none : rounded;
}

// Two neighbours as bf16 in one word, the first in the lower half.
DEVICE u32 two_bf16(float first, float second) {
#if ON_CUDA
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
    return both;
#else
    return nearest_bf16(first) | nearest_bf16(second) << 16;
#endif
}

DEVICE void put(float *place, float x) { *place = x; }
DEVICE void put(bf16 *place, float x) { place->bits = (unsigned short)nearest_bf16(x); }

// Neighbours that a thread reads or writes at once where they lie on multiples of 16 bytes: 16 bytes of bf16,
// twice 16 of f32. Else a thread takes one at a time: `take` and `give` go by the length of the array.
#define CHUNK 8

struct alignas(16) Quad {
    u32 x, y, z, w;
};

// N neighbours as they lie in memory: loads of several can be on their way before the first is used.
template <class T, int N> struct Raw;
template <> struct Raw<float, CHUNK> {
    Quad low, high;
};
template <> struct Raw<bf16, CHUNK> {
    Quad all;
};
template <class T> struct Raw<T, 1> {
    T one;
};

DEVICE void unpack(const Raw<float, CHUNK> &raw, float (&x)[CHUNK]) {
    const Quad &low = raw.low, &high = raw.high;
    x[0] = float_of(low.x), x[1] = float_of(low.y), x[2] = float_of(low.z), x[3] = float_of(low.w);
    x[4] = float_of(high.x), x[5] = float_of(high.y), x[6] = float_of(high.z), x[7] = float_of(high.w);
}

DEVICE void unpack(const Raw<bf16, CHUNK> &raw, float (&x)[CHUNK]) {
    const Quad &all = raw.all;
    x[0] = float_of(all.x << 16), x[1] = float_of(all.x & 0xffff0000u);
    x[2] = float_of(all.y << 16), x[3] = float_of(all.y & 0xffff0000u);
    x[4] = float_of(all.z << 16), x[5] = float_of(all.z & 0xffff0000u);
    x[6] = float_of(all.w << 16), x[7] = float_of(all.w & 0xffff0000u);
}

template <class T> DEVICE void unpack(const Raw<T, 1> &raw, float (&x)[1]) { x[0] = wide(raw.one); }

template <class T> DEVICE void take(const T *from, float (&x)[CHUNK]) {
    unpack(*(const Raw<T, CHUNK> *)from, x);
}

DEVICE void give(float *to, const float (&x)[CHUNK]) {
    ((Quad *)to)[0] = {bits_of(x[0]), bits_of(x[1]), bits_of(x[2]), bits_of(x[3])};
    ((Quad *)to)[1] = {bits_of(x[4]), bits_of(x[5]), bits_of(x[6]), bits_of(x[7])};
}

DEVICE void give(bf16 *to, const float (&x)[CHUNK]) {
    *(Quad *)to = {two_bf16(x[0], x[1]), two_bf16(x[2], x[3]), two_bf16(x[4], x[5]), two_bf16(x[6], x[7])};
}

template <class T> DEVICE void take(const T *from, float (&x)[1]) { x[0] = wide(*from); }
template <class T> DEVICE void give(T *to, const float (&x)[1]) { put(to, x[0]); }

// Reads `count` neighbours, at most CHUNK, and zeros for the rest. `quads` says that a whole chunk lies on a
// multiple of 16 bytes. Each call is a hundred instructions: rather have two loops, of chunks and of ones.
template <class T> DEVICE void take(const T *from, int count, bool quads, float (&x)[CHUNK]) {
    if (quads && count >= CHUNK) return take(from, x);
    UNROLL for (int i = 0; i < CHUNK; ++i) x[i] = i < count ? wide(from[i]) : 0.0f;
}

// Writes the first `count` of a chunk, each rounded to the kind of its place.
template <class T> DEVICE void give(T *to, int count, bool quads, const float (&x)[CHUNK]) {
    if (quads && count >= CHUNK) return give(to, x);
    UNROLL for (int i = 0; i < CHUNK; ++i)
        if (i < count) put(to + i, x[i]);
}

// Whether whole chunks of rows of `width` elements from here on lie on multiples of 16 bytes. Null does.
template <class T> DEVICE bool in_quads(const T *place, i64 width) {
    return (u64)place % 16 == 0 && width * sizeof(T) % 16 == 0;
}

// Calls `kernel<T, CHUNK>` where everything lies on multiples of 16 bytes, else `kernel<T, 1>`.
#define BY_CHUNKS(quads, kernel, T) \
    if (quads) kernel<T, CHUNK>(a); \
    else kernel<T, 1>(a)

// What is left of `count` from `first` on, as far as a chunk needs to know.
DEVICE int left(i64 count, i64 first) { return count - first >= CHUNK ? CHUNK : (int)(count - first); }

DEVICE float shuffled(float x, int mask) { return float_of(shuffle_xor(bits_of(x), mask)); }

// The sum over a warp's lanes, the same bits in each. All lanes take part.
DEVICE float warp_sum(float x) {
    UNROLL for (int mask = WARP / 2; mask > 0; mask /= 2) x += shuffled(x, mask);
    return x;
}

// The largest of a warp's lanes.
DEVICE float warp_most(float x) {
    UNROLL for (int mask = WARP / 2; mask > 0; mask /= 2) {
        float other = shuffled(x, mask);
        x = other > x ? other : x;
    }
    return x;
}

// The sum over a block's threads, in a fixed order and the same bits in each. All threads take part, and may
// call again at once.
DEVICE float block_sum(float x) {
    SHARED(float, parts, 32);
    x = warp_sum(x);
    barrier();
    if (lane_index() == 0) parts[warp_index()] = x;
    barrier();
    float sum = 0.0f;
    for (int warp = 0; warp < block_warps(); ++warp) sum += parts[warp];
    return sum;
}
