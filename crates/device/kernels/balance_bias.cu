// The selection bias's step towards equal loads, with zero mean: `b += rate (sign(e) - mean(sign(e)))` with
// `e = mean(loads) - load` (arXiv 2408.15664). One block. Signs are taken of `sum(loads) - E load`, in whole
// numbers.
//
// Bytes: 12 E.

struct BalanceBiasArguments {
    const int *loads;
    float *bias;
    i64 experts;
    double rate;
};

// The sum over a block's threads of whole numbers. All threads take part, and may call again at once.
DEVICE i64 block_count(i64 x) {
    SHARED(i64, parts, 1024);
    barrier();
    parts[thread_index()] = x;
    barrier();
    i64 sum = 0;
    for (int thread = 0; thread < block_threads(); ++thread) sum += parts[thread];
    return sum;
}

DEVICE int sign_of(i64 x) { return (x > 0) - (x < 0); }

KERNEL(balance_bias, BalanceBiasArguments) {
    i64 own = 0, signs = 0;
    for (i64 i = thread_index(); i < a.experts; i += block_threads()) own += a.loads[i];
    i64 sum = block_count(own);
    for (i64 i = thread_index(); i < a.experts; i += block_threads())
        signs += sign_of(sum - a.experts * a.loads[i]);
    float mean = (float)block_count(signs) / (float)a.experts;
    for (i64 i = thread_index(); i < a.experts; i += block_threads())
        a.bias[i] += (float)a.rate * ((float)sign_of(sum - a.experts * a.loads[i]) - mean);
}
