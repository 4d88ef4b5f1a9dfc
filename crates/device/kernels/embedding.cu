// The gradient of a table by the rows that were looked up, which come sorted by token (`sort_by_expert.cu`).
// Who is at the first of a token's rows adds them all up, in their order.
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

template <class T> DEVICE void embedding_grad(const EmbeddingGradArguments &a) {
    const T *d_out = (const T *)a.d_out;
    bool quads = in_quads(d_out, a.width), table_quads = in_quads(a.d_table, a.width);
    int lanes = (int)a.lanes, lane = thread_index() % lanes, teams = block_threads() / lanes;
    i64 step = grid_blocks() * teams;
    for (i64 first = block_index() * teams + thread_index() / lanes; first < a.rows; first += step) {
        int token = a.tokens[a.order[first]];
        if (first > 0 && a.tokens[a.order[first - 1]] == token) continue;
        i64 end = end_of_token(a, first, token);
        for (i64 column = lane * CHUNK; column < a.width; column += lanes * CHUNK) {
            int count = left(a.width, column);
            float sum[CHUNK], x[CHUNK];
            float *place = a.d_table + token * a.width + column;
            take(place, count, table_quads, sum);
            for (i64 row = first; row < end; ++row) {
                take(d_out + a.order[row] * a.width + column, count, quads, x);
                UNROLL for (int i = 0; i < CHUNK; ++i) sum[i] += x[i];
            }
            give(place, count, table_quads, sum);
        }
    }
}

KERNEL(embedding_grad_f32, EmbeddingGradArguments) { embedding_grad<float>(a); }
KERNEL(embedding_grad_bf16, EmbeddingGradArguments) { embedding_grad<bf16>(a); }

