// RMSNorm of rows and its gradient (Zhang and Sennrich, arXiv 1910.07467). A team of threads takes a row and
// keeps it in registers: few threads for a head, a block for a wide row.
//
// Bytes: forward 2 D of the kind a row, gradient 3 D, 4 D where it adds; the partial sums by the scale are
// 4 D a block, written and read once.

// The sum over a team of 8, 32 or THREADS threads, the same bits in each. All threads of the block take part.
template <int TEAM> DEVICE float team_sum(float x) {
    if constexpr (TEAM == THREADS) return block_sum(x);
    else {
        UNROLL for (int mask = TEAM / 2; mask > 0; mask /= 2) x += shuffled(x, mask);
        return x;
    }
}

struct RmsNormArguments {
    const void *x, *scale;
    void *out;
    i64 rows, width;
    double epsilon;
};

// A thread keeps KEPT chunks of N elements.
template <class T, int TEAM, int KEPT, int N> DEVICE void rms_norm(const RmsNormArguments &a) {
    const T *scale = (const T *)a.scale;
    const int teams = THREADS / TEAM, lane = thread_index() % TEAM;
    // The same number of turns for all threads of a block; those without a row have one of no width.
    ROLLED for (i64 base = block_index() * teams; base < a.rows; base += grid_blocks() * teams) {
        i64 row = base + thread_index() / TEAM;
        int width = row < a.rows ? (int)a.width : 0, beyond = TEAM == THREADS ? width : 0;
        const T *from = (const T *)a.x + row * a.width;
        T *out = (T *)a.out + row * a.width;
        float kept[KEPT][N], more[N], by[N], squares = 0.0f;
        UNROLL for (int k = 0; k < KEPT; ++k) {
            int at = (k * TEAM + lane) * N;
            if (at >= width) break;
            take(from + at, kept[k]);
            UNROLL for (int i = 0; i < N; ++i) squares += kept[k][i] * kept[k][i];
        }
        ROLLED for (int at = (KEPT * TEAM + lane) * N; at < beyond; at += TEAM * N) {
            take(from + at, more);
            UNROLL for (int i = 0; i < N; ++i) squares += more[i] * more[i];
        }
        float root = 1.0f / root_of(team_sum<TEAM>(squares) / (float)a.width + (float)a.epsilon);
        UNROLL for (int k = 0; k < KEPT; ++k) {
            int at = (k * TEAM + lane) * N;
            if (at >= width) break;
            take(scale + at, by);
            UNROLL for (int i = 0; i < N; ++i) by[i] *= kept[k][i] * root;
            give(out + at, by);
        }
        ROLLED for (int at = (KEPT * TEAM + lane) * N; at < beyond; at += TEAM * N) {
            take(from + at, more);
            take(scale + at, by);
            UNROLL for (int i = 0; i < N; ++i) by[i] *= more[i] * root;
            give(out + at, by);
        }
    }
}

// The smaller teams take rows that lie on multiples of 16 bytes and that they keep whole.
KERNEL(rms_norm_8_f32, RmsNormArguments) { rms_norm<float, 8, 2, CHUNK>(a); }
KERNEL(rms_norm_8_bf16, RmsNormArguments) { rms_norm<bf16, 8, 2, CHUNK>(a); }
KERNEL(rms_norm_32_f32, RmsNormArguments) { rms_norm<float, 32, 4, CHUNK>(a); }
KERNEL(rms_norm_32_bf16, RmsNormArguments) { rms_norm<bf16, 32, 4, CHUNK>(a); }
KERNEL(rms_norm_256_f32, RmsNormArguments) { rms_norm<float, THREADS, 4, CHUNK>(a); }
KERNEL(rms_norm_256_bf16, RmsNormArguments) { rms_norm<bf16, THREADS, 4, CHUNK>(a); }
KERNEL(rms_norm_ones_f32, RmsNormArguments) { rms_norm<float, THREADS, 4, 1>(a); }
KERNEL(rms_norm_ones_bf16, RmsNormArguments) { rms_norm<bf16, THREADS, 4, 1>(a); }

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
    float sums[KEPT][N] = {{0.0f}}, scale[KEPT][N];
    UNROLL for (int k = 0; k < KEPT; ++k) {
        int at = (k * TEAM + lane) * N;
        if (at < (int)a.width) take((const T *)a.scale + at, scale[k]);
    }
    ROLLED for (i64 base = block_index() * teams; base < a.rows; base += grid_blocks() * teams) {
        i64 row = base + team, first = row * a.width;
        int width = row < a.rows ? (int)a.width : 0;
        float in[KEPT][N], d[KEPT][N], squares = 0.0f, dots = 0.0f;
        UNROLL for (int k = 0; k < KEPT; ++k) {
            int at = (k * TEAM + lane) * N;
            if (at >= width) break;
            take((const T *)a.x + first + at, in[k]);
            take((const T *)a.d_out + first + at, d[k]);
            UNROLL for (int i = 0; i < N; ++i) {
                squares += in[k][i] * in[k][i];
                dots += d[k][i] * scale[k][i] * in[k][i];
            }
        }
        float root = 1.0f / root_of(team_sum<TEAM>(squares) / (float)a.width + (float)a.epsilon);
        float along = team_sum<TEAM>(dots) / (float)a.width * root * root;
        UNROLL for (int k = 0; k < KEPT; ++k) {
            int at = (k * TEAM + lane) * N;
            if (at >= width) break;
            T *to = (T *)a.d_x + first + at;
            float there[N] = {0.0f};
            if (a.add) take((const T *)to, there);
            UNROLL for (int i = 0; i < N; ++i) {
                sums[k][i] += d[k][i] * in[k][i] * root;
                there[i] += root * (d[k][i] * scale[k][i] - in[k][i] * along);
            }
            give(to, there);
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

KERNEL(rms_norm_grad_8_f32, RmsNormGradArguments) { rms_norm_grad<float, 8, 2, CHUNK>(a); }
KERNEL(rms_norm_grad_8_bf16, RmsNormGradArguments) { rms_norm_grad<bf16, 8, 2, CHUNK>(a); }
KERNEL(rms_norm_grad_32_f32, RmsNormGradArguments) { rms_norm_grad<float, 32, 4, CHUNK>(a); }
KERNEL(rms_norm_grad_32_bf16, RmsNormGradArguments) { rms_norm_grad<bf16, 32, 4, CHUNK>(a); }
KERNEL(rms_norm_grad_256_f32, RmsNormGradArguments) { rms_norm_grad<float, THREADS, 4, CHUNK>(a); }
KERNEL(rms_norm_grad_256_bf16, RmsNormGradArguments) { rms_norm_grad<bf16, THREADS, 4, CHUNK>(a); }
KERNEL(rms_norm_grad_ones_f32, RmsNormGradArguments) { rms_norm_grad<float, THREADS, 4, 1>(a); }
KERNEL(rms_norm_grad_ones_bf16, RmsNormGradArguments) { rms_norm_grad<bf16, THREADS, 4, 1>(a); }
