// Routing: which experts a token visits and how much each one counts, the losses, and the gradient.
//
// A warp takes a token: its logits are read together, and its reductions need no barrier. Lane l holds the
// experts l, l + WARP, and so on, at most 32, so that one word has a bit for each. Scores are computed again
// wherever they are needed, which costs less than keeping them. Sums of score and bias are compared in f64,
// where rounding makes no two of them equal.
//
// Bytes a token: choose 4 E + 8 K, losses 4 E, gradient 4 E + 12 K and the kind of d_logits times E.

// An expert's index where there is none.
#define NO_EXPERT 0x7fffffff

DEVICE float lowest() { return float_of(0xff800000u); }

// What turns a token's logits into scores: `exp(x - largest) / sum`, or a sigmoid of each logit alone.
struct Scores {
    const float *logits;
    bool is_sigmoid;
    float largest;
    float sum, inverse; // of exp(x - largest); 1 / sum
};

// The same in all lanes.
DEVICE Scores scores_of(const float *logits, int experts, i64 is_sigmoid) {
    float largest = lowest(), sum = 0.0f;
    ROLLED for (int i = lane_index(); i < experts; i += WARP)
        largest = logits[i] > largest ? logits[i] : largest;
    largest = warp_most(largest);
    ROLLED for (int i = lane_index(); i < experts; i += WARP) sum += exp_of(logits[i] - largest);
    sum = warp_sum(sum);
    return {logits, is_sigmoid != 0, largest, sum, 1.0f / sum};
}

DEVICE float score_of(const Scores &scores, int expert) {
    float logit = scores.logits[expert];
    if (scores.is_sigmoid) return 1.0f / (1.0f + exp_of(-logit));
    return exp_of(logit - scores.largest) * scores.inverse;
}

DEVICE float log_sum_exp(const Scores &scores) { return scores.largest + log_of(scores.sum); }

// A candidate and its index. Values are never NaN.
struct Best {
    double value;
    int index;
};

DEVICE Best no_candidate() { return {lowest(), NO_EXPERT}; }

// Of equals the lowest index is better.
DEVICE bool is_better(Best a, Best b) {
    return a.value > b.value || (a.value == b.value && a.index < b.index);
}

// The best of a warp's lanes, in each of them. All lanes take part.
DEVICE Best best_of_warp(Best best) {
    UNROLL for (int mask = WARP / 2; mask > 0; mask /= 2) {
        union {
            double whole;
            u32 halves[2];
        } value = {best.value};
        value.halves[0] = shuffle_xor(value.halves[0], mask);
        value.halves[1] = shuffle_xor(value.halves[1], mask);
        Best other = {value.whole, (int)shuffle_xor((u32)best.index, mask)};
        if (is_better(other, best)) best = other;
    }
    return best;
}

// What experts are chosen by. Not a number counts as minus infinity.
DEVICE double selection_of(const Scores &scores, const float *bias, int expert) {
    double sum = (double)score_of(scores, expert) + (bias ? (double)bias[expert] : 0.0);
    return sum == sum ? sum : lowest();
}

// The sum of the two best experts of the group that begins at `first`.
DEVICE double group_value(const Scores &scores, const float *bias, int first, int size) {
    Best found[2];
    ROLLED for (int turn = 0; turn < 2; ++turn) {
        Best best = no_candidate();
        ROLLED for (int i = first + lane_index(); i < first + size; i += WARP) {
            Best candidate = {selection_of(scores, bias, i), i};
            bool is_taken = turn == 1 && candidate.index == found[0].index;
            if (!is_taken && is_better(candidate, best)) best = candidate;
        }
        found[turn] = best_of_warp(best);
    }
    double sum = size == 1 ? found[0].value : found[0].value + found[1].value;
    return sum == sum ? sum : lowest();
}

// A bit for each of the `kept` best groups. Lane g holds the value of group g.
DEVICE u32 best_groups(const Scores &scores, const float *bias, int size, int groups, int kept) {
    Best own = no_candidate();
    ROLLED for (int group = 0; group < groups; ++group) {
        double value = group_value(scores, bias, group * size, size);
        if (lane_index() == group) own = {value, group};
    }
    u32 found = 0;
    ROLLED for (int turn = 0; turn < kept; ++turn) {
        int group = best_of_warp(own).index;
        found |= 1u << group;
        if (lane_index() == group) own = no_candidate();
    }
    return found;
}

struct RouteArguments {
    const float *logits;
    const float *bias; // null for none
    int *experts;
    float *weights;
    int *counts; // zeros at first
    int *loads;
    i64 tokens, width, is_sigmoid, choices, groups, groups_kept, renormalise, scope_tokens;
    double scale;
};

// Chooses the experts of one token, best first, counts them, and writes their scores. Each lane writes every
// WARP-th choice. Returns the sum of the chosen scores.
DEVICE float choose(const RouteArguments &a, const Scores &scores, int token, u32 open) {
    int width = (int)a.width, choices = (int)a.choices, scope = token / (int)a.scope_tokens;
    float sum = 0.0f;
    ROLLED for (int k = 0; k < choices; ++k) {
        Best best = no_candidate();
        int slot = 0;
        ROLLED for (int i = lane_index(); i < width; i += WARP, ++slot) {
            if (!(open >> slot & 1)) continue;
            Best candidate = {selection_of(scores, a.bias, i), i};
            if (is_better(candidate, best)) best = candidate;
        }
        int expert = best_of_warp(best).index;
        if (expert % WARP == lane_index()) open &= ~(1u << expert / WARP);
        float score = score_of(scores, expert);
        sum += score;
        if (k % WARP != lane_index()) continue;
        a.experts[(i64)token * choices + k] = expert;
        a.weights[(i64)token * choices + k] = score;
        atomic_add(&a.counts[(i64)scope * width + expert], 1);
        atomic_add(&a.loads[expert], 1);
    }
    return sum;
}

// Chooses and weighs each token's experts. Whole numbers may be counted in any order.
KERNEL(route_choose, RouteArguments) {
    int warps = (int)grid_blocks() * block_warps(), first = (int)block_index() * block_warps() + warp_index();
    int width = (int)a.width, kept = (int)a.groups_kept, size = width / (int)a.groups;
    for (int token = first; token < a.tokens; token += warps) {
        Scores scores = scores_of(a.logits + (i64)token * width, width, a.is_sigmoid);
        bool any_group = kept == a.groups;
        u32 groups = any_group ? 0 : best_groups(scores, a.bias, size, (int)a.groups, kept), open = 0;
        int slot = 0;
        ROLLED for (int i = lane_index(); i < width; i += WARP, ++slot)
            if (any_group || groups >> i / size & 1) open |= 1u << slot;
        float sum = choose(a, scores, token, open);
        // All sigmoids may be 0.
        float divisor = a.renormalise ? (a.is_sigmoid ? sum + 1e-20f : sum) : 1.0f;
        float *weights = a.weights + token * a.choices;
        ROLLED for (int k = lane_index(); k < a.choices; k += WARP)
            weights[k] = (float)a.scale * (weights[k] / divisor);
    }
}

struct RouteLossArguments {
    const float *logits;
    const int *counts;
    float *partials; // [2, blocks]: balance losses, then logsumexp^2
    i64 tokens, width, is_sigmoid, scope_tokens;
    double pull; // E / (K n^2), with scopes of n tokens
};

// Each block's part of both losses.
KERNEL(route_losses, RouteLossArguments) {
    float balance = 0.0f, squares = 0.0f;
    int warps = (int)grid_blocks() * block_warps(), first = (int)block_index() * block_warps() + warp_index();
    int width = (int)a.width;
    for (int token = first; token < a.tokens; token += warps) {
        Scores scores = scores_of(a.logits + (i64)token * width, width, a.is_sigmoid);
        const int *counts = a.counts + (i64)(token / (int)a.scope_tokens) * width;
        float along = 0.0f, total = 0.0f;
        ROLLED for (int i = lane_index(); i < width; i += WARP) {
            float score = score_of(scores, i);
            along += score * (float)counts[i];
            total += score;
        }
        // A softmax's total is 1.
        balance += along / (a.is_sigmoid ? warp_sum(total) : 1.0f) * (float)a.pull;
        float lse = log_sum_exp(scores);
        if (lane_index() == 0) squares += lse * lse;
    }
    balance = block_sum(balance);
    squares = block_sum(squares);
    if (thread_index() > 0) return;
    a.partials[block_index()] = balance;
    a.partials[grid_blocks() + block_index()] = squares;
}

struct RouteSumArguments {
    const float *partials; // [2, count]
    float *losses;
    i64 count;
};

// Adds what all blocks found to the two losses. One block.
KERNEL(route_sum, RouteSumArguments) {
    for (int loss = 0; loss < 2; ++loss) {
        float sum = 0.0f;
        for (i64 i = thread_index(); i < a.count; i += block_threads()) sum += a.partials[loss * a.count + i];
        sum = block_sum(sum);
        if (thread_index() == 0) a.losses[loss] += sum;
    }
}
