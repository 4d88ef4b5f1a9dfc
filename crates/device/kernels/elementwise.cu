// Element by element: addition, and the cast between f32 and bf16.
//
// Bytes: addition 3 N of the kind, of bf16 to f32 10 N, cast 6 N in all.

struct PairArguments {
    const void *x;
    void *out;
    i64 count;
};

template <class From, class To, int N> DEVICE void one(const From *x, To *out, bool adds) {
    float sum[N], more[N];
    take(x, sum);
    if (adds) {
        take((const To *)out, more);
        UNROLL for (int i = 0; i < N; ++i) sum[i] += more[i];
    }
    give(out, sum);
}

// `out = x`, or `out += x`.
template <class From, class To> DEVICE void pairs(const PairArguments &a, bool adds) {
    const From *x = (const From *)a.x;
    To *out = (To *)a.out;
    i64 whole = in_quads(x, CHUNK) && in_quads(out, CHUNK) ? a.count / CHUNK * CHUNK : 0;
    i64 thread = block_index() * block_threads() + thread_index(), threads = grid_blocks() * block_threads();
    UNROLL_4 for (i64 at = thread * CHUNK; at < whole; at += threads * CHUNK)
        one<From, To, CHUNK>(x + at, out + at, adds);
    ROLLED for (i64 at = whole + thread; at < a.count; at += threads)
        one<From, To, 1>(x + at, out + at, adds);
}

KERNEL(add_f32, PairArguments) { pairs<float, float>(a, true); }
KERNEL(add_bf16, PairArguments) { pairs<bf16, bf16>(a, true); }
KERNEL(add_bf16_to_f32, PairArguments) { pairs<bf16, float>(a, true); }
KERNEL(cast_to_f32, PairArguments) { pairs<bf16, float>(a, false); }
KERNEL(cast_to_bf16, PairArguments) { pairs<float, bf16>(a, false); }
