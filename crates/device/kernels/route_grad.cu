// The gradient of routing by the logits; `route.cu` comes before it. A warp takes a token.

struct RouteGradArguments {
    const float *logits;
    const int *experts;
    const int *counts; // read if `balance` is not 0
    const float *d_weights;
    void *d_logits;
    i64 tokens, width, is_sigmoid, choices, renormalise, scope_tokens;
    double scale;
    double balance; // the balance loss's weight times E / (K n^2), with scopes of n tokens
    double z_scale;
    double keep;
};

// One token's gradient by its chosen scores: `factor (d_w - mean)`, for `w = scale s / N` with N the sum of
// the chosen scores, or N = 1.
struct ByChoices {
    const int *experts;
    const float *d_weights;
    float factor, mean;
};

DEVICE ByChoices by_choices(const RouteGradArguments &a, const Scores &scores, int token) {
    ByChoices by = {a.experts + token * a.choices, a.d_weights + token * a.choices, (float)a.scale, 0.0f};
    if (!a.renormalise) return by;
    float sum = 0.0f, along = 0.0f;
    ROLLED for (int k = lane_index(); k < a.choices; k += WARP) {
        float score = score_of(scores, by.experts[k]);
        sum += score;
        along += by.d_weights[k] * score;
    }
    sum = warp_sum(sum) + (a.is_sigmoid ? 1e-20f : 0.0f);
    by.mean = warp_sum(along) / sum;
    by.factor /= sum;
    return by;
}

DEVICE float d_choice(const ByChoices &by, int k) { return by.factor * (by.d_weights[k] - by.mean); }

// One token's gradient by its scores of the balance loss, which pulls the share `score / total` of each
// expert by `pull counts`; a softmax's total is 1 whatever its logits are.
struct ByBalance {
    const int *counts;
    float pull, total, along;
};

DEVICE ByBalance by_balance(const RouteGradArguments &a, const Scores &scores, int token) {
    ByBalance by = {a.counts + token / (int)a.scope_tokens * a.width, (float)a.balance, 1.0f, 0.0f};
    if (by.pull == 0.0f) return by;
    float along = 0.0f, total = 0.0f;
    ROLLED for (int i = lane_index(); i < a.width; i += WARP) {
        float score = score_of(scores, i);
        along += score * (by.pull * (float)by.counts[i]);
        total += score;
    }
    if (a.is_sigmoid) by.total = warp_sum(total);
    by.along = warp_sum(along) / by.total;
    return by;
}

DEVICE float d_share(const ByBalance &by, bool is_sigmoid, int expert) {
    if (by.pull == 0.0f) return 0.0f;
    float pulled = by.pull * (float)by.counts[expert];
    return is_sigmoid ? (pulled - by.along) / by.total : pulled;
}

template <class T> DEVICE void route_grad(const RouteGradArguments &a) {
    int warps = (int)grid_blocks() * block_warps(), first = (int)block_index() * block_warps() + warp_index();
    float z_scale = (float)a.z_scale;
    for (int token = first; token < a.tokens; token += warps) {
        Scores scores = scores_of(a.logits + token * a.width, (int)a.width, a.is_sigmoid);
        ByChoices choices = by_choices(a, scores, token);
        ByBalance balance = by_balance(a, scores, token);
        // A softmax's own gradient: s (d_s - sum of s d_s).
        float along = 0.0f;
        if (!scores.is_sigmoid) {
            ROLLED for (int k = lane_index(); k < a.choices; k += WARP)
                along += score_of(scores, choices.experts[k]) * d_choice(choices, k);
            along = warp_sum(along) + balance.along;
        }
        float twice = 2.0f * z_scale * log_sum_exp(scores);
        T *d_logits = (T *)a.d_logits + token * a.width;
        ROLLED for (int i = lane_index(); i < a.width; i += WARP) {
            float score = score_of(scores, i), d_score = d_share(balance, scores.is_sigmoid, i);
            ROLLED for (int k = 0; k < a.choices; ++k)
                if (choices.experts[k] == i) d_score += d_choice(choices, k);
            float d = scores.is_sigmoid ? score * (1.0f - score) * d_score : score * (d_score - along);
            if (z_scale != 0.0f) d += twice * (exp_of(scores.logits[i] - scores.largest) / scores.sum);
            put(d_logits + i, (float)a.keep * d);
        }
    }
}

KERNEL(route_grad_f32, RouteGradArguments) { route_grad<float>(a); }
KERNEL(route_grad_bf16, RouteGradArguments) { route_grad<bf16>(a); }
