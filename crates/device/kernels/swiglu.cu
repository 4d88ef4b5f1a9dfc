// SwiGLU times a weight per row, and its gradient (Shazeer, arXiv 2002.05202). A warp takes a row.
//
// Bytes: forward 3 F of the kind a row, gradient 6 F; a row's weight and its gradient are 4 each.

struct SwigluArguments {
    const void *gate_up;
    const float *weights; // of rows; null for 1
    void *out;
    i64 rows, width;
};

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp_of(-x)); }

template <class T, int N> DEVICE void swiglu(const SwigluArguments &a) {
    i64 warps = grid_blocks() * block_warps();
    ROLLED for (i64 row = block_index() * block_warps() + warp_index(); row < a.rows; row += warps) {
        float weight = a.weights ? a.weights[row] : 1.0f;
        const T *gates = (const T *)a.gate_up + row * 2 * a.width;
        T *out = (T *)a.out + row * a.width;
        ROLLED for (int at = lane_index() * N; at < (int)a.width; at += WARP * N) {
            float gate[N], up[N];
            take(gates + at, gate);
            take(gates + a.width + at, up);
            UNROLL for (int i = 0; i < N; ++i) up[i] *= gate[i] * sigmoid(gate[i]) * weight;
            give(out + at, up);
        }
    }
}

template <class T> DEVICE bool in_quads(const SwigluArguments &a) {
    return in_quads((const T *)a.gate_up, a.width) && in_quads((const T *)a.out, a.width);
}

KERNEL(swiglu_f32, SwigluArguments) { BY_CHUNKS(in_quads<float>(a), swiglu, float); }
KERNEL(swiglu_bf16, SwigluArguments) { BY_CHUNKS(in_quads<bf16>(a), swiglu, bf16); }

struct SwigluGradArguments {
    void *gate_up; // becomes the gradient by it
    const float *weights; // null for 1
    void *d_out; // becomes the output
    float *d_weights; // given where weights are
    i64 rows, width;
};

// With s the sigmoid of the gate: d_up = w d_out gate s, d_gate = w d_out up s (1 + gate (1 - s)).
template <class T, int N> DEVICE void swiglu_grad(const SwigluGradArguments &a) {
    i64 warps = grid_blocks() * block_warps();
    ROLLED for (i64 row = block_index() * block_warps() + warp_index(); row < a.rows; row += warps) {
        float weight = a.weights ? a.weights[row] : 1.0f, d_weight = 0.0f;
        T *gates = (T *)a.gate_up + row * 2 * a.width, *d_out = (T *)a.d_out + row * a.width;
        ROLLED for (int at = lane_index() * N; at < (int)a.width; at += WARP * N) {
            float gate[N], up[N], d[N];
            take(gates + at, gate);
            take(gates + a.width + at, up);
            take(d_out + at, d);
            UNROLL for (int i = 0; i < N; ++i) {
                float s = sigmoid(gate[i]), silu = gate[i] * s, out = silu * up[i];
                d_weight += d[i] * out;
                float d_weighted = d[i] * weight;
                d[i] = out * weight;
                gate[i] = d_weighted * up[i] * s * (1.0f + gate[i] * (1.0f - s));
                up[i] = d_weighted * silu;
            }
            give(gates + at, gate);
            give(gates + a.width + at, up);
            give(d_out + at, d);
        }
        if (a.d_weights) {
            d_weight = warp_sum(d_weight);
            if (lane_index() == 0) a.d_weights[row] = d_weight;
        }
    }
}

template <class T> DEVICE bool in_quads(const SwigluGradArguments &a) {
    return in_quads((const T *)a.gate_up, a.width) && in_quads((const T *)a.d_out, a.width);
}

KERNEL(swiglu_grad_f32, SwigluGradArguments) { BY_CHUNKS(in_quads<float>(a), swiglu_grad, float); }
KERNEL(swiglu_grad_bf16, SwigluGradArguments) { BY_CHUNKS(in_quads<bf16>(a), swiglu_grad, bf16); }
