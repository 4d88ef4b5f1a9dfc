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

template <int N> DEVICE Exponentials with_chunk(Exponentials all, const float (&x)[N]) {
    float largest = all.largest;
    UNROLL for (int i = 0; i < N; ++i) largest = x[i] > largest ? x[i] : largest;
    float shift = shift_of(largest), sum = all.sum;
    if (largest != all.largest) sum *= exp_of(all.largest - shift);
    UNROLL for (int i = 0; i < N; ++i) sum += exp_of(x[i] - shift);
    return {largest, sum};
}

// Of a row, in each of a block's threads. Two chunks at a time: both are on their way before the first is
// needed.
template <int N> DEVICE Exponentials exponentials_of(const float *logits, i64 width) {
    Exponentials own = {float_of(0xff800000u), 0.0f};
    i64 step = block_threads() * N;
    ROLLED for (i64 first = thread_index() * N; first < width; first += 2 * step) {
        float x[N], y[N] = {0.0f};
        bool has_next = first + step < width;
        take(logits + first, x);
        if (has_next) take(logits + first + step, y);
        own = with_chunk(own, x);
        if (has_next) own = with_chunk(own, y);
    }
    float largest = block_most(own.largest);
    return {largest, block_sum(own.sum * exp_of(own.largest - shift_of(largest)))};
}

// Turns the logits of a chunk into `scale (softmax - [target])`, the target being at `hit` or elsewhere.
template <int N> DEVICE void to_gradient(float (&x)[N], i64 hit, float scale, Exponentials all) {
    float share = scale / all.sum;
    UNROLL for (int i = 0; i < N; ++i) {
        float d = share * exp_of(x[i] - all.largest);
        x[i] = i == hit ? d - scale : d;
    }
}

template <class T, int N>
DEVICE void put_gradient(
    const LossArguments &a, const float *logits, T *d_logits, i64 target, Exponentials all) {
    i64 step = block_threads() * N;
    ROLLED for (i64 first = thread_index() * N; first < a.width; first += 2 * step) {
        float x[N], y[N] = {0.0f};
        bool has_next = first + step < a.width;
        take(logits + first, x);
        if (has_next) take(logits + first + step, y);
        to_gradient(x, target - first, (float)a.scale, all);
        give(d_logits + first, x);
        if (!has_next) continue;
        to_gradient(y, target - first - step, (float)a.scale, all);
        give(d_logits + first + step, y);
    }
}

// A row without a target: no loss, no gradient.
template <class T, int N> DEVICE void put_zeros(const LossArguments &a, float *loss, T *d_logits) {
    if (thread_index() == 0) *loss = 0.0f;
    if (!d_logits) return;
    float zeros[N] = {0.0f};
    ROLLED for (i64 first = thread_index() * N; first < a.width; first += block_threads() * N)
        give(d_logits + first, zeros);
}

template <class T, int N> DEVICE void loss(const LossArguments &a) {
    ROLLED for (i64 row = block_index(); row < a.rows; row += grid_blocks()) {
        const float *logits = a.logits + row * a.width;
        T *d_logits = a.d_logits ? (T *)a.d_logits + row * a.width : nullptr;
        i64 target = a.targets[row];
        if (target < 0) {
            put_zeros<T, N>(a, a.losses + row, d_logits);
            continue;
        }
        Exponentials all = exponentials_of<N>(logits, a.width);
        // Read before any thread may overwrite it with its gradient. Not a number if there is no such word.
        float hit = target < a.width ? logits[target] : float_of(0x7fc00000u);
        barrier();
        if (thread_index() == 0) a.losses[row] = all.largest - hit + log_of(all.sum);
        if (d_logits) put_gradient<T, N>(a, logits, d_logits, target, all);
    }
}

// Whether rows consist of whole chunks that lie on multiples of 16 bytes.
DEVICE bool has_chunks(const LossArguments &a) {
    return a.width % CHUNK == 0 && (u64)a.logits % 16 == 0 && (u64)a.d_logits % 16 == 0;
}

KERNEL(loss_f32, LossArguments) { BY_CHUNKS(has_chunks(a), loss, float); }
KERNEL(loss_bf16, LossArguments) { BY_CHUNKS(has_chunks(a), loss, bf16); }
