// The gradient of a table by the rows that were looked up, which come sorted by token (`sort_by_expert.cu`).
// The threads that meet the first of a token's rows add them all up, in their order.
//
// Bytes: each row once in its kind, and each row of the table that is used twice in f32.

struct EmbeddingGradArguments {
    const void *d_out;
    const int *tokens; // of each row
    const int *order;  // the rows, by token
    float *d_table;
    i64 rows, width;
    i64 lanes; // threads of a row, a power of two
};

// The place after the last row of the token whose first row is at `first`: by steps that double, then halve.
DEVICE i64 end_of_token(const EmbeddingGradArguments &a, i64 first, int token) {
    i64 inside = first, step = 1;
    while (inside + step < a.rows && a.tokens[a.order[inside + step]] == token) inside += step, step *= 2;
    for (; step > 0; step /= 2)
        if (inside + step < a.rows && a.tokens[a.order[inside + step]] == token) inside += step;
    return inside + 1;
}

template <class T, int N> DEVICE void embedding_grad(const EmbeddingGradArguments &a) {
    const T *d_out = (const T *)a.d_out;
    int lanes = (int)a.lanes, lane = thread_index() % lanes, teams = block_threads() / lanes;
    i64 step = grid_blocks() * teams;
    ROLLED for (i64 first = block_index() * teams + thread_index() / lanes; first < a.rows; first += step) {
        int token = a.tokens[a.order[first]];
        if (first > 0 && a.tokens[a.order[first - 1]] == token) continue;
        i64 end = end_of_token(a, first, token);
        ROLLED for (i64 column = lane * N; column < a.width; column += lanes * N) {
            float sum[N], x[N];
            float *place = a.d_table + token * a.width + column;
            take(place, sum);
            for (i64 row = first; row < end; ++row) {
                take(d_out + a.order[row] * a.width + column, x);
                UNROLL for (int i = 0; i < N; ++i) sum[i] += x[i];
            }
            give(place, sum);
        }
    }
}

// Whether rows consist of whole chunks that lie on multiples of 16 bytes.
DEVICE bool has_chunks(const EmbeddingGradArguments &a) {
    return a.width % CHUNK == 0 && (u64)a.d_out % 16 == 0 && (u64)a.d_table % 16 == 0;
}

KERNEL(embedding_grad_f32, EmbeddingGradArguments) { BY_CHUNKS(has_chunks(a), embedding_grad, float); }
KERNEL(embedding_grad_bf16, EmbeddingGradArguments) { BY_CHUNKS(has_chunks(a), embedding_grad, bf16); }
