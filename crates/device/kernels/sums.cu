// Sums over a whole tensor and over columns, in two phases: each block writes its part, then one kernel adds
// the parts in their order.
//
// Bytes: 1 N of the kind; the parts are few.

struct AddColumnsArguments {
    const float *parts; // [rows, width]
    float *out;
    i64 rows, width;
    i64 columns; // of a block, a power of two
};

// `out[c] += sum over rows of parts[r, c]`.
KERNEL(add_columns, AddColumnsArguments) {
    SHARED(float, shared, THREADS);
    int columns = (int)a.columns, sharers = THREADS / columns, sharer = thread_index() / columns;
    i64 blocks = (a.width + columns - 1) / columns;
    ROLLED for (i64 block = block_index(); block < blocks; block += grid_blocks()) {
        i64 column = block * columns + thread_index() % columns;
        float sum = 0.0f;
        if (column < a.width)
            UNROLL_4 for (i64 row = sharer; row < a.rows; row += sharers)
                sum += a.parts[row * a.width + column];
        barrier();
        shared[thread_index()] = sum;
        barrier();
        ROLLED for (int half = sharers / 2; half > 0; half /= 2) {
            if (sharer < half) shared[thread_index()] += shared[thread_index() + half * columns];
            barrier();
        }
        if (sharer == 0 && column < a.width) a.out[column] += shared[thread_index()];
    }
}

struct SumsArguments {
    const void *x;
    float *parts; // [blocks, 2]: each block's sum and its sum of squares, or the latter alone, [blocks, 1]
    i64 count;
    i64 both;
};

template <class T> DEVICE void sums(const SumsArguments &a) {
    const T *x = (const T *)a.x;
    i64 whole = in_quads(x, CHUNK) ? a.count / CHUNK * CHUNK : 0;
    i64 thread = block_index() * block_threads() + thread_index(), threads = grid_blocks() * block_threads();
    float sum[CHUNK] = {0.0f}, squares[CHUNK] = {0.0f};
    UNROLL_4 for (i64 at = thread * CHUNK; at < whole; at += threads * CHUNK) {
        float more[CHUNK];
        take(x + at, more);
        UNROLL for (int i = 0; i < CHUNK; ++i) {
            sum[i] += more[i];
            squares[i] = fused(more[i], more[i], squares[i]);
        }
    }
    ROLLED for (i64 at = whole + thread; at < a.count; at += threads) {
        float one = wide(x[at]);
        sum[0] += one;
        squares[0] = fused(one, one, squares[0]);
    }
    UNROLL for (int i = 1; i < CHUNK; ++i) {
        sum[0] += sum[i];
        squares[0] += squares[i];
    }
    float all = a.both ? block_sum(sum[0]) : 0.0f, all_squares = block_sum(squares[0]);
    if (thread_index() > 0) return;
    if (a.both) a.parts[2 * block_index()] = all;
    a.parts[a.both ? 2 * block_index() + 1 : block_index()] = all_squares;
}

KERNEL(sums_f32, SumsArguments) { sums<float>(a); }
KERNEL(sums_bf16, SumsArguments) { sums<bf16>(a); }
