// Kernels on the host, for tests: what `prelude.cuh` promises, in plain C++.
//
// A block's threads are fibers: each runs until it waits for the others, in the order of their indices, which
// is fast and always the same. With STAND_IN_REVERSED the order is the opposite one: a kernel that lacks a
// barrier gives other bits. With STAND_IN_THREADS they are threads of the system, so that a sanitizer finds
// races. WARP may be 32 (NVIDIA) or 64 (AMD's CDNA).
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef WARP
#define WARP 32
#endif
#define MOST_THREADS 1024
#define UNROLL
#define UNROLL_4
#define ROLLED
#define DEVICE static inline
// Beside each kernel stands the length of its arguments, so that a launch with others is refused.
#define KERNEL(name, Arguments) \
    static void name##_body(const Arguments &); \
    extern "C" void name(const void *arguments) { name##_body(*(const Arguments *)arguments); } \
    extern "C" const long long name##_bytes = sizeof(Arguments); \
    static void name##_body(const Arguments &a)

typedef void Kernel(const void *arguments);

#ifdef STAND_IN_THREADS
#include <atomic>
#include <mutex>
#include <pthread.h>
#include <thread>
#include <vector>

#define SHARED(type, name, count) static type name[count]

// The block that runs; one at a time in a process.
struct Running {
    int threads;
    long long grid;
    pthread_barrier_t all, warps[MOST_THREADS];
    uint32_t exchange[MOST_THREADS];
};
static Running running;
static thread_local int own_index;
static thread_local long long own_block;

static inline int thread_index() { return own_index; }
static inline int block_threads() { return running.threads; }
static inline long long block_index() { return own_block; }
static inline long long grid_blocks() { return running.grid; }
static inline void barrier() { pthread_barrier_wait(&running.all); }
static inline void warp_barrier() { pthread_barrier_wait(&running.warps[own_index / WARP]); }
static inline uint32_t *exchanged() { return running.exchange; }

extern "C" void stand_in_launch(Kernel *kernel, long long grid, int threads, const void *arguments) {
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> guard(one_at_a_time);
    running.threads = threads;
    running.grid = grid;
    pthread_barrier_init(&running.all, nullptr, threads);
    for (int warp = 0; warp < threads / WARP; ++warp)
        pthread_barrier_init(&running.warps[warp], nullptr, WARP);
    std::vector<std::thread> all;
    for (int index = 0; index < threads; ++index)
        all.emplace_back([=] {
            own_index = index;
            for (own_block = 0; own_block < grid; ++own_block) {
                kernel(arguments);
                barrier();
            }
        });
    for (std::thread &one : all) one.join();
    for (int warp = 0; warp < threads / WARP; ++warp) pthread_barrier_destroy(&running.warps[warp]);
    pthread_barrier_destroy(&running.all);
}

#else

#define SHARED(type, name, count) static thread_local type name[count]

// What a fiber waits for: its warp, its block, or nothing any more.
enum Event { NONE, OF_WARP, OF_BLOCK, DONE };

// The block that runs on this thread of the system.
struct Running {
    int threads, index;
    long long grid, block;
    Kernel *kernel;
    const void *arguments;
    void *outside, *stacks[MOST_THREADS];
    Event waits_for[MOST_THREADS];
    uint32_t exchange[MOST_THREADS];
};
static thread_local Running running;

static inline int thread_index() { return running.index; }
static inline int block_threads() { return running.threads; }
static inline long long block_index() { return running.block; }
static inline long long grid_blocks() { return running.grid; }
static inline uint32_t *exchanged() { return running.exchange; }

#if defined(__x86_64__) && !defined(STAND_IN_UCONTEXT)
// Leaves one stack for another: what a call must keep is pushed here and popped there.
extern "C" void stand_in_switch(void **from, void *to);
__asm__(R"(
    .text
    .globl stand_in_switch
    .hidden stand_in_switch
    .type stand_in_switch, @function
stand_in_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size stand_in_switch, . - stand_in_switch
)");

// A stack on which `begin` starts when it is switched to.
static void *prepared(char *stack, size_t bytes, void (*begin)()) {
    uintptr_t top = (uintptr_t)(stack + bytes) & ~(uintptr_t)15;
    void **slots = (void **)top;
    slots[-1] = nullptr;
    slots[-2] = (void *)begin;
    for (int pushed = 3; pushed <= 8; ++pushed) slots[-pushed] = nullptr;
    return slots - 8;
}

static inline void switch_stacks(void **from, void **to) { stand_in_switch(from, *to); }
#else
#include <ucontext.h>

static void *prepared(char *stack, size_t bytes, void (*begin)()) {
    ucontext_t *context = (ucontext_t *)stack;
    getcontext(context);
    context->uc_stack.ss_sp = stack + sizeof(ucontext_t);
    context->uc_stack.ss_size = bytes - sizeof(ucontext_t);
    context->uc_link = nullptr;
    makecontext(context, begin, 0);
    return context;
}

static void switch_stacks(void **from, void **to) {
    static thread_local ucontext_t outside;
    if (!*from) *from = &outside;
    swapcontext((ucontext_t *)*from, (ucontext_t *)*to);
}
#endif

// Turns are taken in this order, which is its own inverse.
static inline int turn_of(int index) {
#ifdef STAND_IN_REVERSED
    return running.threads - 1 - index;
#else
    return index;
#endif
}

// Runs the next lane of the warp. The last one starts another round: of its warp, or of the next one.
static __attribute__((noinline)) void wait_for(Event event) {
    int index = running.index, turn = turn_of(index), lane = turn % WARP, first = turn - lane;
    if (lane > 0 && running.waits_for[turn_of(first)] != event) {
        fprintf(stderr, "kernel: thread %d waits where the first of its warp does not\n", index);
        abort();
    }
    running.waits_for[index] = event;
    bool is_last = lane == WARP - 1 || turn == running.threads - 1;
    int next = !is_last ? turn + 1 : event == OF_WARP ? first : (turn + 1) % running.threads;
    if (event == DONE && next == 0) return switch_stacks(&running.stacks[index], &running.outside);
    if (next == turn) return;
    running.index = turn_of(next);
    switch_stacks(&running.stacks[index], &running.stacks[running.index]);
}

static inline void barrier() { wait_for(OF_BLOCK); }
static inline void warp_barrier() { wait_for(OF_WARP); }

static void run_fiber() {
    for (long long block = 0; block < running.grid; ++block) {
        running.block = block;
        running.kernel(running.arguments);
        barrier();
    }
    wait_for(DONE);
}

extern "C" void stand_in_launch(Kernel *kernel, long long grid, int threads, const void *arguments) {
    const size_t stack_bytes = 64 << 10;
    static thread_local char *memory = nullptr;
    if (!memory) memory = (char *)malloc(stack_bytes * MOST_THREADS);
    if (!memory || threads > MOST_THREADS) abort();
    running.threads = threads, running.grid = grid, running.index = turn_of(0);
    running.kernel = kernel, running.arguments = arguments, running.outside = nullptr;
    for (int index = 0; index < threads; ++index) {
        running.stacks[index] = prepared(memory + index * stack_bytes, stack_bytes, run_fiber);
        running.waits_for[index] = NONE;
    }
    switch_stacks(&running.outside, &running.stacks[running.index]);
}
#endif

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t shuffle(uint32_t x, int from) {
    int index = thread_index(), first = index - index % WARP;
    exchanged()[index] = x;
    warp_barrier();
    uint32_t found = exchanged()[first + from];
    warp_barrier();
    return found;
}

static inline uint32_t shuffle_xor(uint32_t x, int mask) { return shuffle(x, thread_index() % WARP ^ mask); }
static inline float exp_of(float x) { return expf(x); }
static inline float log_of(float x) { return logf(x); }
static inline float root_of(float x) { return sqrtf(x); }
static inline float fused(float a, float b, float c) { return fmaf(a, b, c); }
static inline double nearest_whole(double x) { return rint(x); }
static inline int atomic_add(int *place, int x) { return __atomic_fetch_add(place, x, __ATOMIC_RELAXED); }

// The width of this stand-in's warps.
extern "C" const int stand_in_warp = WARP;
