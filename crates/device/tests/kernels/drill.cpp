// Starts kernels on small operands of exactly their length, in bf16, at sizes that leave no chunk whole and at
// sizes that do: for sanitizers, which find accesses beyond an operand, and races where the threads of blocks
// are threads of the system. It is compiled behind the source of all kernels.

#include <initializer_list>
#include <memory>
#include <vector>

// Operands live as long as the program, each in memory of its own.
template <class T> static T *operand(i64 count, int seed) {
    static std::vector<std::shared_ptr<void>> kept;
    T *numbers = (T *)aligned_alloc(16, (count * sizeof(T) + 15) / 16 * 16);
    kept.emplace_back(numbers, free);
    for (i64 i = 0; i < count; ++i) {
        float number = (float)((i * 37 + seed) % 101) / 50.0f - 1.0f;
        if constexpr (sizeof(T) == 8) numbers[i] = (T)number;
        else put(numbers + i, number);
    }
    return numbers;
}

static int *indices(i64 count, i64 step) {
    int *numbers = (int *)operand<float>(count, 0);
    for (i64 i = 0; i < count; ++i) numbers[i] = (int)(i * step % count);
    return numbers;
}

template <class Arguments> static void start(Kernel *kernel, Arguments arguments) {
    stand_in_launch(kernel, 2, THREADS, &arguments);
}

static void rows(i64 width) {
    const i64 count = 18, half = width / 2;
    bf16 *gate_up = operand<bf16>(count * 2 * width, 1), *out = operand<bf16>(count * width, 2);
    float *weights = operand<float>(count, 3), *d_weights = operand<float>(count, 4);
    start(swiglu_bf16, SwigluArguments{gate_up, weights, out, count, width});
    start(swiglu_grad_bf16, SwigluGradArguments{gate_up, weights, out, d_weights, count, width});
    int *order = indices(count, 5);
    bf16 *x = operand<bf16>(count / 2 * width, 6);
    start(dispatch_2, DispatchArguments{x, order, out, count, width, 2, 16});
    start(combine_bf16, CombineArguments{out, order, x, count / 2, width, 2, 1, 4});
    const double *turns = operand<double>(half, 7);
    start(rope_bf16, RopeArguments{out, order, turns, count / 2, 2, width, half, 0});
}

static void norms(Kernel *forward, Kernel *backward, i64 width) {
    const i64 count = 70;
    bf16 *x = operand<bf16>(count * width, 1), *out = operand<bf16>(count * width, 2);
    bf16 *scale = operand<bf16>(width, 3), *d_x = operand<bf16>(count * width, 4);
    float *parts = operand<float>(2 * width, 5), *d_scale = operand<float>(width, 6);
    start(forward, RmsNormArguments{x, scale, out, count, width, 1e-6});
    start(backward, RmsNormGradArguments{out, x, scale, d_x, parts, count, width, 1e-6, 1});
    start(add_columns, AddColumnsArguments{parts, d_scale, 2, width, 8});
}

static void flat(i64 count) {
    bf16 *x = operand<bf16>(count, 1), *out = operand<bf16>(count, 2);
    float *parts = operand<float>(4, 3), *parameter = operand<float>(count, 4);
    float *gradient = operand<float>(count, 5), *first = operand<float>(count, 6);
    float *second = operand<float>(count, 7), *squares = operand<float>(1, 8);
    for (i64 i = 0; i < count; ++i) second[i] *= second[i];
    squares[0] = 4.0f;
    start(sums_bf16, SumsArguments{x, parts, count, 1});
    start(add_bf16, PairArguments{x, out, count});
    start(cast_to_bf16, PairArguments{parameter, out, count});
    i64 *spans = operand<i64>(4, 9);
    spans[0] = 0, spans[1] = 3, spans[2] = 5, spans[3] = count - 1;
    AdamWArguments update{parameter, gradient, first, second, squares, out, spans, count, 2};
    update.clip = 1.0, update.beta1 = 0.9, update.beta2 = 0.95, update.epsilon = 1e-8;
    update.rate = 1e-3, update.root = 1.2, update.kept = 0.99;
    start(adamw_bf16, update);
}

int main() {
    // Threads of the system take long to start, and races do not depend on the width.
#ifdef STAND_IN_THREADS
    rows(33);
    flat(5003);
#else
    for (i64 width : {33, 64}) rows(width);
    for (i64 count : {5003, 4096}) flat(count);
    norms(rms_norm_16_bf16, rms_norm_grad_16_bf16, 128);
    norms(rms_norm_wide_bf16, rms_norm_grad_wide_bf16, 2056);
    norms(rms_norm_ones_bf16, rms_norm_grad_ones_bf16, 33);
#endif
    norms(rms_norm_8_bf16, rms_norm_grad_8_bf16, 64);
    norms(rms_norm_128_bf16, rms_norm_grad_128_bf16, 1000);
    printf("all kernels have run\n");
}
