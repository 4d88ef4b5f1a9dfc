// Rotary positions, in place (Su et al., arXiv 2104.09864). A thread turns a chunk of pairs of a few heads of
// one token, so that its sines are made once.
//
// Bytes: 2 R of the kind a head, R being the rotary width.

// Heads that share a thread's sines.
#define HEADS 4

struct RopeArguments {
    void *x; // [T, H, C]
    const int *positions;
    const double *turns; // of each pair, in full turns a position
    i64 tokens, heads, width, half;
    i64 back;
};

// Sine and cosine of `turns` full turns, by Taylor's series within an eighth of a turn.
DEVICE void sine_of_turns(double turns, float &sine, float &cosine) {
    turns -= nearest_whole(turns);
    double quarters = nearest_whole(4.0 * turns);
    float x = (float)((turns - 0.25 * quarters) * 6.283185307179586476925), z = x * x;
    float s = fused(z, 1.0f / 362880.0f, -1.0f / 5040.0f);
    s = fused(z, fused(z, s, 1.0f / 120.0f), -1.0f / 6.0f);
    s = fused(s * z, x, x);
    float c = fused(z, -1.0f / 3628800.0f, 1.0f / 40320.0f);
    c = fused(z, fused(z, c, -1.0f / 720.0f), 1.0f / 24.0f);
    c = fused(z, fused(z, c, -0.5f), 1.0f);
    int quadrant = (int)quarters & 3;
    sine = quadrant & 1 ? c : s;
    cosine = quadrant & 1 ? s : c;
    if (quadrant & 2) sine = -sine;
    if (quadrant == 1 || quadrant == 2) cosine = -cosine;
}

template <class T, int N> DEVICE void rope(const RopeArguments &a) {
    // Counted in 32 bits where that is enough: a division of 64 takes as long as the rest.
    u32 chunks = (u32)(a.half / N), groups = (u32)((a.heads + HEADS - 1) / HEADS);
    i64 items = a.tokens * groups * chunks, step = grid_blocks() * block_threads();
    ROLLED for (i64 item = block_index() * block_threads() + thread_index(); item < items; item += step) {
        i64 rest = item <= 0xffffffff ? (u32)item / chunks : item / chunks;
        int at = (int)(item - rest * chunks) * N;
        i64 token = rest <= 0xffffffff ? (u32)rest / groups : rest / groups;
        int head = (int)(rest - token * groups) * HEADS;
        double position = a.positions[token];
        float sine[N], cosine[N];
        UNROLL for (int i = 0; i < N; ++i) {
            sine_of_turns(position * a.turns[at + i], sine[i], cosine[i]);
            if (a.back) sine[i] = -sine[i];
        }
        T *place = (T *)a.x + (token * a.heads + head) * a.width + at;
        UNROLL for (int h = 0; h < HEADS; ++h, place += a.width) {
            if (head + h >= (int)a.heads) break;
            float l[N], r[N];
            take((const T *)place, l);
            take((const T *)place + a.half, r);
            UNROLL for (int i = 0; i < N; ++i) {
                float turned = l[i] * cosine[i] - r[i] * sine[i];
                r[i] = l[i] * sine[i] + r[i] * cosine[i];
                l[i] = turned;
            }
            give(place, l);
            give(place + a.half, r);
        }
    }
}

template <class T> DEVICE bool in_quads(const RopeArguments &a) {
    return in_quads((const T *)a.x, a.width) && a.half % CHUNK == 0;
}

KERNEL(rope_f32, RopeArguments) { BY_CHUNKS(in_quads<float>(a), rope, float); }
KERNEL(rope_bf16, RopeArguments) { BY_CHUNKS(in_quads<bf16>(a), rope, bf16); }
