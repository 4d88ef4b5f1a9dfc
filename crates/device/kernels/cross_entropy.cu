// The loss of each row of logits, and its gradient by them. A block takes a row, and reads it twice: the
// second time mostly from the cache.
//
// Bytes a row: 4 V from memory, and the kind of d_logits times V.

struct LossArguments {
    const float *logits;
    const int *targets; // of each row; -1 for none
    float *losses;
    void *d_logits; // null: not wanted; may be `logits` if of that kind
    i64 rows, width;
    double scale;
};

// The largest of a block's threads, in each of them. All threads take part, and may call again at once.
DEVICE float block_most(float x) {
    SHARED(float, parts, 32);
    x = warp_most(x);
    barrier();
    if (lane_index() == 0) parts[warp_index()] = x;
    barrier();
    float most = parts[0];
    for (int warp = 1; warp < block_warps(); ++warp) most = parts[warp] > most ? parts[warp] : most;
    return most;
}

// The largest of some logits, and the sum of `exp(x - largest)`; minus infinity counts as nothing.
struct Exponentials {
    float largest, sum;
};

// What `x` is lessened by: by nothing if all is minus infinity.
DEVICE float shift_of(float largest) { return largest == float_of(0xff800000u) ? 0.0f : largest; }

DEVICE Exponentials with_chunk(Exponentials all, const float (&x)[CHUNK], int count) {
    float largest = all.largest;
    UNROLL for (int i = 0; i < CHUNK; ++i) largest = i < count && x[i] > largest ? x[i] : largest;
    float shift = shift_of(largest), sum = all.sum;
    if (largest != all.largest) sum *= exp_of(all.largest - shift);
    UNROLL for (int i = 0; i < CHUNK; ++i) sum += i < count ? exp_of(x[i] - shift) : 0.0f;
    return {largest, sum};
}

// Of a row, in each of a block's threads.
DEVICE Exponentials exponentials_of(const float *logits, i64 width, bool quads) {
    Exponentials own = {float_of(0xff800000u), 0.0f};
    for (i64 first = thread_index() * CHUNK; first < width; first += block_threads() * CHUNK) {
        float x[CHUNK];
        int count = left(width, first);
        take(logits + first, count, quads, x);
        own = with_chunk(own, x, count);
    }
    float largest = block_most(own.largest);
    return {largest, block_sum(own.sum * exp_of(own.largest - shift_of(largest)))};
}

// Writes `scale (softmax - [target])` of a row.
template <class T>
DEVICE void put_gradient(
    const LossArguments &a, const float *logits, T *d_logits, i64 target, Exponentials all) {
    bool quads = in_quads(a.logits, a.width), d_quads = in_quads(d_logits, a.width);
    float scale = (float)a.scale, share = scale / all.sum;
    for (i64 first = thread_index() * CHUNK; first < a.width; first += block_threads() * CHUNK) {
        float x[CHUNK];
        int count = left(a.width, first);
        take(logits + first, count, quads, x);
        UNROLL for (int i = 0; i < CHUNK; ++i) {
            float d = share * exp_of(x[i] - all.largest);
            x[i] = first + i == target ? d - scale : d;
        }
        give(d_logits + first, count, d_quads, x);
    }
}

// A row without a target: no loss, no gradient.
template <class T> DEVICE void put_zeros(const LossArguments &a, float *loss, T *d_logits) {
    if (thread_index() == 0) *loss = 0.0f;
    float zeros[CHUNK] = {0.0f};
    bool quads = in_quads(d_logits, a.width);
    if (!d_logits) return;
    for (i64 first = thread_index() * CHUNK; first < a.width; first += block_threads() * CHUNK)
        give(d_logits + first, left(a.width, first), quads, zeros);
}

template <class T> DEVICE void loss(const LossArguments &a) {
    for (i64 row = block_index(); row < a.rows; row += grid_blocks()) {
        const float *logits = a.logits + row * a.width;
        T *d_logits = a.d_logits ? (T *)a.d_logits + row * a.width : nullptr;
        i64 target = a.targets[row];
        if (target < 0) {
            put_zeros(a, a.losses + row, d_logits);
            continue;
        }
        Exponentials all = exponentials_of(logits, a.width, in_quads(a.logits, a.width));
        // Read before any thread may overwrite it with its gradient. Not a number if there is no such word.
        float hit = target < a.width ? logits[target] : float_of(0x7fc00000u);
        barrier();
        if (thread_index() == 0) a.losses[row] = all.largest - hit + log_of(all.sum);
        if (d_logits) put_gradient(a, logits, d_logits, target, all);
    }
}

KERNEL(loss_f32, LossArguments) { loss<float>(a); }
KERNEL(loss_bf16, LossArguments) { loss<bf16>(a); }
