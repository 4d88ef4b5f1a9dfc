// Rows that move between tokens and experts: dispatch copies them, combine adds up those of a token.
//
// Bytes: dispatch 2 D of the kind a row, combine D a row and D (2 D where it adds) a token; 4 an index.

struct DispatchArguments {
    const void *x;
    const int *order; // of rows: token x choices + choice
    void *out;
    i64 rows, units; // of a row
    i64 choices;
    i64 lanes; // threads of a row, a power of two
};

// Moves bits: Unit is as wide as the rows' places allow.
template <class Unit> DEVICE void dispatch(const DispatchArguments &a) {
    const Unit *x = (const Unit *)a.x;
    Unit *out = (Unit *)a.out;
    int lanes = (int)a.lanes, lane = thread_index() % lanes, teams = block_threads() / lanes;
    i64 step = grid_blocks() * teams;
    ROLLED for (i64 row = block_index() * teams + thread_index() / lanes; row < a.rows; row += step) {
        const Unit *from = x + (i64)(a.order[row] / (int)a.choices) * a.units;
        Unit *to = out + row * a.units;
        UNROLL_4 for (int at = lane; at < (int)a.units; at += lanes) to[at] = from[at];
    }
}

KERNEL(dispatch_16, DispatchArguments) { dispatch<Quad>(a); }
KERNEL(dispatch_4, DispatchArguments) { dispatch<u32>(a); }
KERNEL(dispatch_2, DispatchArguments) { dispatch<unsigned short>(a); }

struct CombineArguments {
    const void *x;
    const int *places; // of a token's rows, [T, K]
    void *out;
    i64 tokens, width, choices;
    i64 add;
    i64 lanes; // threads of a token, a power of two
};

// In order of the choices.
template <class T, int N> DEVICE void combine(const CombineArguments &a) {
    int lanes = (int)a.lanes, lane = thread_index() % lanes, teams = block_threads() / lanes;
    i64 step = grid_blocks() * teams;
    ROLLED for (i64 token = block_index() * teams + thread_index() / lanes; token < a.tokens; token += step) {
        const int *places = a.places + token * a.choices;
        T *out = (T *)a.out + token * a.width;
        ROLLED for (int at = lane * N; at < (int)a.width; at += lanes * N) {
            float sum[N] = {0.0f}, more[N];
            for (int choice = 0; choice < (int)a.choices; ++choice) {
                take((const T *)a.x + places[choice] * a.width + at, more);
                UNROLL for (int i = 0; i < N; ++i) sum[i] += more[i];
            }
            if (a.add) {
                take((const T *)out + at, more);
                UNROLL for (int i = 0; i < N; ++i) sum[i] += more[i];
            }
            give(out + at, sum);
        }
    }
}

template <class T> DEVICE bool in_quads(const CombineArguments &a) {
    return in_quads((const T *)a.x, a.width) && in_quads((const T *)a.out, a.width);
}

KERNEL(combine_f32, CombineArguments) { BY_CHUNKS(in_quads<float>(a), combine, float); }
KERNEL(combine_bf16, CombineArguments) { BY_CHUNKS(in_quads<bf16>(a), combine, bf16); }
