// RMSNorm of rows and its gradient (Zhang and Sennrich, arXiv 1910.07467). A team of threads takes a row and
// keeps it in registers: few threads for a head, a block for a wide row.
//
// Bytes: forward 2 D of the kind a row, gradient 3 D, 4 D where it adds; the partial sums by the scale are
// 4 D a block, written and read once.

// The sums over a team of a power of two threads, the same bits in each. All threads of the block take part.
template <int TEAM> DEVICE void team_sums(float &x, float &y) {
    const int width = TEAM < WARP ? TEAM : WARP;
    UNROLL for (int mask = width / 2; mask > 0; mask /= 2) {
        x += shuffled(x, mask);
        y += shuffled(y, mask);
    }
    if constexpr (TEAM > WARP) {
        SHARED(float, xs, 32);
        SHARED(float, ys, 32);
        barrier();
        if (lane_index() == 0) xs[warp_index()] = x, ys[warp_index()] = y;
        barrier();
        int first = thread_index() / TEAM * (TEAM / WARP);
        x = xs[first], y = ys[first];
        UNROLL for (int warp = 1; warp < TEAM / WARP; ++warp) x += xs[first + warp], y += ys[first + warp];
    }
}

// A lane's chunks of the first part of a row; zeros beyond its end.
template <class T, int TEAM, int KEPT, int N>
DEVICE void fetch(const T *row, int lane, int width, Raw<T, N> (&raw)[KEPT]) {
    UNROLL for (int k = 0; k < KEPT; ++k) {
        int at = (k * TEAM + lane) * N;
        raw[k] = at < width ? *(const Raw<T, N> *)(row + at) : Raw<T, N>{};
    }
}

struct RmsNormArguments {
    const void *x, *scale;
    void *out;
    i64 rows, width;
    double epsilon;
};

// A thread keeps KEPT chunks of N elements; only with several of them may a row be longer than a team keeps.
template <class T, int TEAM, int KEPT, int N> DEVICE void rms_norm(const RmsNormArguments &a) {
    const T *scale = (const T *)a.scale;
    const int teams = THREADS / TEAM, lane = thread_index() % TEAM;
    // The same number of turns for all threads of a block; those without a row have one of no width.
    ROLLED for (i64 base = block_index() * teams; base < a.rows; base += grid_blocks() * teams) {
        i64 row = base + thread_index() / TEAM;
        int width = row < a.rows ? (int)a.width : 0, beyond = KEPT > 1 ? width : 0;
        const T *from = (const T *)a.x + row * a.width;
        T *out = (T *)a.out + row * a.width;
        Raw<T, N> kept[KEPT];
        fetch<T, TEAM>(from, lane, width, kept);
        float x[N], by[N], squares = 0.0f;
        UNROLL for (int k = 0; k < KEPT; ++k) {
            unpack(kept[k], x);
            UNROLL for (int i = 0; i < N; ++i) squares += x[i] * x[i];
        }
        ROLLED for (int at = (KEPT * TEAM + lane) * N; at < beyond; at += TEAM * N) {
            take(from + at, x);
            UNROLL for (int i = 0; i < N; ++i) squares += x[i] * x[i];
        }
        float none = 0.0f;
        team_sums<TEAM>(squares, none);
        float root = 1.0f / root_of(squares / (float)a.width + (float)a.epsilon);
        UNROLL for (int k = 0; k < KEPT; ++k) {
            int at = (k * TEAM + lane) * N;
            if (at >= width) break;
            unpack(kept[k], x);
            take(scale + at, by);
            UNROLL for (int i = 0; i < N; ++i) by[i] *= x[i] * root;
            give(out + at, by);
        }
        ROLLED for (int at = (KEPT * TEAM + lane) * N; at < beyond; at += TEAM * N) {
            take(from + at, x);
            take(scale + at, by);
            UNROLL for (int i = 0; i < N; ++i) by[i] *= x[i] * root;
            give(out + at, by);
        }
    }
}

struct RmsNormGradArguments {
    const void *d_out, *x, *scale;
    void *d_x;
    float *partials; // [blocks, width]: each block's sums by the scale
    i64 rows, width;
    double epsilon;
    i64 add;
};

// With n = x r the normed row and g = d_out s: d_x = r (g - n mean(g n)), d_s = sum over rows of d_out n.
// A team keeps its whole row.
template <class T, int TEAM, int KEPT, int N> DEVICE void rms_norm_grad(const RmsNormGradArguments &a) {
    const int teams = THREADS / TEAM, team = thread_index() / TEAM, lane = thread_index() % TEAM;
    float sums[KEPT][N] = {{0.0f}}, x[N], d[N], scale[N];
    Raw<T, N> scales[KEPT], xs[KEPT], ds[KEPT], there[KEPT];
    fetch<T, TEAM>((const T *)a.scale, lane, (int)a.width, scales);
    ROLLED for (i64 base = block_index() * teams; base < a.rows; base += grid_blocks() * teams) {
        i64 row = base + team, first = row * a.width;
        int width = row < a.rows ? (int)a.width : 0;
        fetch<T, TEAM>((const T *)a.x + first, lane, width, xs);
        fetch<T, TEAM>((const T *)a.d_out + first, lane, width, ds);
        fetch<T, TEAM>((const T *)a.d_x + first, lane, a.add ? width : 0, there);
        float squares = 0.0f, dots = 0.0f;
        UNROLL for (int k = 0; k < KEPT; ++k) {
            unpack(xs[k], x);
            unpack(ds[k], d);
            unpack(scales[k], scale);
            UNROLL for (int i = 0; i < N; ++i) {
                squares += x[i] * x[i];
                dots += d[i] * scale[i] * x[i];
            }
        }
        team_sums<TEAM>(squares, dots);
        float root = 1.0f / root_of(squares / (float)a.width + (float)a.epsilon);
        float along = dots / (float)a.width * root * root;
        UNROLL for (int k = 0; k < KEPT; ++k) {
            int at = (k * TEAM + lane) * N;
            if (at >= width) break;
            float d_x[N];
            unpack(xs[k], x);
            unpack(ds[k], d);
            unpack(scales[k], scale);
            unpack(there[k], d_x);
            UNROLL for (int i = 0; i < N; ++i) {
                sums[k][i] += d[i] * x[i] * root;
                d_x[i] += root * (d[i] * scale[i] - x[i] * along);
            }
            give((T *)a.d_x + first + at, d_x);
        }
    }
    // The teams of a block add up theirs, one after the other.
    SHARED(float, all, TEAM * KEPT * N);
    ROLLED for (int turn = 0; turn < teams; ++turn) {
        UNROLL for (int k = 0; k < KEPT; ++k)
            UNROLL for (int i = 0; i < N; ++i) {
                float *place = all + (k * TEAM + lane) * N + i;
                if (turn == team) *place = turn == 0 ? sums[k][i] : *place + sums[k][i];
            }
        barrier();
    }
    ROLLED for (int column = thread_index(); column < (int)a.width; column += THREADS)
        a.partials[block_index() * a.width + column] = all[column];
}
