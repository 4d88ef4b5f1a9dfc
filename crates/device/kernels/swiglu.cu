// SwiGLU times a weight per row, and its gradient (Shazeer, arXiv 2002.05202). A warp takes a row.
//
// Bytes: forward 3 F of the kind a row, gradient 5 F; a row's weight and its gradient are 4 each.

struct SwigluArguments {
    const void *gate_up;
    const float *weights; // of rows; null for 1
    void *out;
    i64 rows, width;
};

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp_of(-x)); }

template <class T> DEVICE void swiglu(const SwigluArguments &a) {
    const T *gate_up = (const T *)a.gate_up;
    T *out = (T *)a.out;
    bool quads = in_quads(gate_up, a.width) && in_quads(out, a.width);
    i64 warps = grid_blocks() * block_warps();
    for (i64 row = block_index() * block_warps() + warp_index(); row < a.rows; row += warps) {
        float weight = a.weights ? a.weights[row] : 1.0f;
        const T *gates = gate_up + row * 2 * a.width, *ups = gates + a.width;
        for (i64 first = lane_index() * CHUNK; first < a.width; first += WARP * CHUNK) {
            int count = left(a.width, first);
            float gate[CHUNK], up[CHUNK];
            take(gates + first, count, quads, gate);
            take(ups + first, count, quads, up);
            UNROLL for (int i = 0; i < CHUNK; ++i) up[i] *= gate[i] * sigmoid(gate[i]) * weight;
            give(out + row * a.width + first, count, quads, up);
        }
    }
}

KERNEL(swiglu_f32, SwigluArguments) { swiglu<float>(a); }
KERNEL(swiglu_bf16, SwigluArguments) { swiglu<bf16>(a); }

struct SwigluGradArguments {
    const void *gate_up;
    const float *weights; // null for 1
    const void *d_out;
    void *d_gate_up;
    float *d_weights; // given where weights are
    i64 rows, width;
};

// With s the sigmoid of the gate: d_up = w d_out gate s, d_gate = w d_out up s (1 + gate (1 - s)).
template <class T> DEVICE void swiglu_grad(const SwigluGradArguments &a) {
    const T *gate_up = (const T *)a.gate_up, *d_out = (const T *)a.d_out;
    T *d_gate_up = (T *)a.d_gate_up;
    bool quads = in_quads(gate_up, a.width) && in_quads(d_out, a.width) && in_quads(d_gate_up, a.width);
    i64 warps = grid_blocks() * block_warps();
    for (i64 row = block_index() * block_warps() + warp_index(); row < a.rows; row += warps) {
        float weight = a.weights ? a.weights[row] : 1.0f, d_weight = 0.0f;
        i64 at = row * 2 * a.width;
        for (i64 first = lane_index() * CHUNK; first < a.width; first += WARP * CHUNK) {
            int count = left(a.width, first);
            float gate[CHUNK], up[CHUNK], d[CHUNK];
            take(gate_up + at + first, count, quads, gate);
            take(gate_up + at + a.width + first, count, quads, up);
            take(d_out + row * a.width + first, count, quads, d);
            UNROLL for (int i = 0; i < CHUNK; ++i) {
                float s = sigmoid(gate[i]), silu = gate[i] * s;
                d_weight += d[i] * up[i] * silu;
                float d_weighted = d[i] * weight;
                gate[i] = d_weighted * up[i] * s * (1.0f + gate[i] * (1.0f - s));
                up[i] = d_weighted * silu;
            }
            give(d_gate_up + at + first, count, quads, gate);
            give(d_gate_up + at + a.width + first, count, quads, up);
        }
        if (a.d_weights) {
            d_weight = warp_sum(d_weight);
            if (lane_index() == 0) a.d_weights[row] = d_weight;
        }
    }
}

KERNEL(swiglu_grad_f32, SwigluGradArguments) { swiglu_grad<float>(a); }
KERNEL(swiglu_grad_bf16, SwigluGradArguments) { swiglu_grad<bf16>(a); }
