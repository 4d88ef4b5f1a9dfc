// AdamW over a flat bundle, with the clipping of the global norm and the working copy (Loshchilov and Hutter,
// arXiv 1711.05101).
//
// Bytes: 28 N, and 2 or 4 N of the working copy.

struct AdamWArguments {
    float *parameter;
    const float *gradient;
    float *first, *second;
    const float *squares; // of all gradients
    void *working; // null for none
    const i64 *spans; // pairs of the first element that decays and the first after it, ascending
    i64 count, span_count;
    double clip; // 0 for none
    double beta1, beta2, epsilon;
    double rate; // divided by the first moment's correction
    double root; // 1 over the root of the second moment's correction
    double kept; // of an element that decays: 1 - rate decay
};

// Spans that begin at or before an element.
DEVICE i64 spans_until(const AdamWArguments &a, i64 element) {
    i64 low = 0, high = a.span_count;
    while (low < high) {
        i64 middle = (low + high) / 2;
        if (a.spans[2 * middle] <= element) low = middle + 1;
        else high = middle;
    }
    return low;
}

// The rule's numbers as they are computed with.
struct AdamWRule {
    float factor, beta1, beta2, fresh1, fresh2, epsilon, rate, root, kept;
};

template <class T, int N> DEVICE void adamw(const AdamWArguments &a, const AdamWRule &rule, i64 at) {
    float p[N], g[N], m[N], v[N];
    take((const float *)a.parameter + at, p);
    take(a.gradient + at, g);
    take((const float *)a.first + at, m);
    take((const float *)a.second + at, v);
    i64 span = spans_until(a, at), end = span > 0 ? a.spans[2 * span - 1] : 0;
    i64 next = span < a.span_count ? a.spans[2 * span] : a.count;
    UNROLL for (int i = 0; i < N; ++i) {
        ROLLED while (next <= at + i) {
            end = a.spans[2 * span + 1];
            next = ++span < a.span_count ? a.spans[2 * span] : a.count;
        }
        bool decays = at + i < end;
        float clipped = g[i] * rule.factor;
        m[i] = rule.beta1 * m[i] + rule.fresh1 * clipped;
        v[i] = rule.beta2 * v[i] + rule.fresh2 * clipped * clipped;
        float move = m[i] / (root_of(v[i]) * rule.root + rule.epsilon);
        p[i] = p[i] * (decays ? rule.kept : 1.0f) - rule.rate * move;
    }
    give(a.parameter + at, p);
    give(a.first + at, m);
    give(a.second + at, v);
    if (a.working) give((T *)a.working + at, p);
}

template <class T> DEVICE void adamw_all(const AdamWArguments &a) {
    bool quads = in_quads(a.parameter, CHUNK) && in_quads(a.gradient, CHUNK) && in_quads(a.first, CHUNK) &&
                 in_quads(a.second, CHUNK) && in_quads((const T *)a.working, CHUNK);
    AdamWRule rule = {1.0f,
                      (float)a.beta1,
                      (float)a.beta2,
                      (float)(1.0 - a.beta1),
                      (float)(1.0 - a.beta2),
                      (float)a.epsilon,
                      (float)a.rate,
                      (float)a.root,
                      (float)a.kept};
    if (a.clip > 0.0) {
        float factor = (float)a.clip / (root_of(a.squares[0]) + 1e-6f);
        // Written so that a norm that is not a number reaches the parameters.
        rule.factor = factor > 1.0f ? 1.0f : factor;
    }
    i64 whole = quads ? a.count / CHUNK * CHUNK : 0;
    i64 thread = block_index() * block_threads() + thread_index(), threads = grid_blocks() * block_threads();
    ROLLED for (i64 at = thread * CHUNK; at < whole; at += threads * CHUNK) adamw<T, CHUNK>(a, rule, at);
    ROLLED for (i64 at = whole + thread; at < a.count; at += threads) adamw<T, 1>(a, rule, at);
}

KERNEL(adamw_f32, AdamWArguments) { adamw_all<float>(a); }
KERNEL(adamw_bf16, AdamWArguments) { adamw_all<bf16>(a); }
