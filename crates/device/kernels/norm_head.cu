// NormHead: the inverse norms of a head's columns, and rows times a number for each column.
//
// Bytes: the head once in its kind; rows once read and once written in theirs. The parts are few.

struct ColumnSquaresArguments {
    const void *w;
    float *parts; // [teams of all blocks, width]
    i64 rows, width;
    i64 lanes; // threads of a row, a power of two
};

// Each team's sum of squares of every column, over every so many rows.
template <class T, int N> DEVICE void column_squares(const ColumnSquaresArguments &a) {
    const T *w = (const T *)a.w;
    int lanes = (int)a.lanes, lane = thread_index() % lanes, teams = block_threads() / lanes;
    i64 team = block_index() * teams + thread_index() / lanes, all = grid_blocks() * teams;
    for (i64 column = (i64)lane * N; column < a.width; column += (i64)lanes * N) {
        float sum[N] = {0.0f};
        for (i64 row = team; row < a.rows; row += all) {
            float x[N];
            take(w + row * a.width + column, x);
            UNROLL for (int i = 0; i < N; ++i) sum[i] += x[i] * x[i];
        }
        give(a.parts + team * a.width + column, sum);
    }
}

DEVICE bool has_chunks(const ColumnSquaresArguments &a) { return a.width % CHUNK == 0 && (u64)a.w % 16 == 0; }

KERNEL(column_squares_f32, ColumnSquaresArguments) { BY_CHUNKS(has_chunks(a), column_squares, float); }
KERNEL(column_squares_bf16, ColumnSquaresArguments) { BY_CHUNKS(has_chunks(a), column_squares, bf16); }

struct ColumnScalesArguments {
    const float *parts; // [count, width]
    float *out;
    i64 count, width;
};

// `1 / (root of the sum of all parts + 1e-7)` of every column. A warp takes a column.
KERNEL(column_scales, ColumnScalesArguments) {
    i64 warps = grid_blocks() * block_warps();
    for (i64 column = block_index() * block_warps() + warp_index(); column < a.width; column += warps) {
        float sum = 0.0f;
        for (i64 part = lane_index(); part < a.count; part += WARP) sum += a.parts[part * a.width + column];
        sum = warp_sum(sum);
        if (lane_index() == 0) a.out[column] = 1.0f / (root_of(sum) + 1e-7f);
    }
}

struct ScaleColumnsArguments {
    const void *x;
    const float *scales;
    void *out;
    i64 rows, width;
};

template <class T, int N> DEVICE void scale_columns(const ScaleColumnsArguments &a) {
    const T *from = (const T *)a.x;
    T *to = (T *)a.out;
    i64 step = grid_blocks() * block_threads() * N, all = a.rows * a.width;
    for (i64 first = (block_index() * block_threads() + thread_index()) * N; first < all; first += step) {
        float x[N], scales[N];
        take(from + first, x);
        take(a.scales + first % a.width, scales);
        UNROLL for (int i = 0; i < N; ++i) x[i] *= scales[i];
        give(to + first, x);
    }
}

DEVICE bool has_chunks(const ScaleColumnsArguments &a) {
    return a.width % CHUNK == 0 && ((u64)a.x | (u64)a.scales | (u64)a.out) % 16 == 0;
}

KERNEL(scale_columns_f32, ScaleColumnsArguments) { BY_CHUNKS(has_chunks(a), scale_columns, float); }
KERNEL(scale_columns_bf16, ScaleColumnsArguments) { BY_CHUNKS(has_chunks(a), scale_columns, bf16); }
