// A stable counting sort by a key, in three launches. Each block takes a piece of the rows; a row's rank
// among the equal keys of its piece comes from comparing it with all of them, which takes less time than the
// barriers of a cleverer way. With `from`, rows come in the order of a sort by lower bits: that is a further
// digit of a radix sort.
//
// Bytes a row: 28, and 16 for each pair of a key and a piece.

// Rows of a piece: one of each thread of a block.
#define SORT_PIECE THREADS

// The most keys: every block holds where the rows of each begin.
#define MOST_KEYS 1024

struct SortArguments {
    const int *ids;
    const int *from; // null: rows in their order
    int *places;     // of each row; between the launches its rank in its piece
    int *counts;     // [keys, pieces]: of each key in each piece, then in the pieces before it
    int *totals;     // of each key
    int *order;
    int *ends; // null: not wanted
    i64 rows, keys, pieces;
    i64 shift, mask; // the key is `id >> shift & mask`
};

// The key of the row at `at`, or -1 after the last.
DEVICE int key_at(const SortArguments &a, i64 at) {
    if (at >= a.rows) return -1;
    return a.ids[a.from ? a.from[at] : at] >> a.shift & (int)a.mask;
}

// Ranks rows within their pieces, and counts keys there.
KERNEL(sort_rank, SortArguments) {
    SHARED(int, keys, SORT_PIECE);
    for (i64 piece = block_index(); piece < a.pieces; piece += grid_blocks()) {
        i64 at = piece * SORT_PIECE + thread_index();
        int own = key_at(a, at), before = 0, after = 0;
        barrier();
        keys[thread_index()] = own;
        for (i64 key = thread_index(); key < a.keys; key += SORT_PIECE) a.counts[key * a.pieces + piece] = 0;
        barrier();
        for (int i = 0; i < SORT_PIECE; ++i) {
            int is_equal = keys[i] == own;
            before += is_equal & (i < thread_index());
            after += is_equal & (i > thread_index());
        }
        if (own < 0 || own >= a.keys) continue;
        a.places[at] = before;
        if (after == 0) a.counts[own * a.pieces + piece] = before + 1;
    }
}

// The sum of `x` over the block's threads of lower index. All threads take part, and may call again at once.
DEVICE int sum_before(int x, int *total) {
    SHARED(int, sums, SORT_PIECE);
    int own = thread_index(), sum = x;
    barrier();
    sums[own] = sum;
    for (int step = 1; step < SORT_PIECE; step *= 2) {
        barrier();
        int lower = own >= step ? sums[own - step] : 0;
        barrier();
        sum += lower;
        sums[own] = sum;
    }
    barrier();
    *total = sums[SORT_PIECE - 1];
    return sum - x;
}

// Turns a key's counts into the sums of those before. A block takes a key; there are as many blocks.
KERNEL(sort_scan, SortArguments) {
    int *counts = a.counts + block_index() * a.pieces, total = 0;
    for (i64 first = 0; first < a.pieces; first += SORT_PIECE) {
        i64 piece = first + thread_index();
        int count = piece < a.pieces ? counts[piece] : 0, found;
        int before = total + sum_before(count, &found);
        if (piece < a.pieces) counts[piece] = before;
        total += found;
    }
    if (thread_index() == 0) a.totals[block_index()] = total;
}

// Puts each row in its place.
KERNEL(sort_place, SortArguments) {
    SHARED(int, starts, MOST_KEYS);
    int total = 0;
    for (i64 first = 0; first < a.keys; first += SORT_PIECE) {
        i64 key = first + thread_index();
        int count = key < a.keys ? a.totals[key] : 0, found;
        int start = total + sum_before(count, &found);
        if (key < a.keys) starts[key] = start;
        if (key < a.keys && a.ends && block_index() == 0) a.ends[key] = start + count;
        total += found;
    }
    barrier();
    for (i64 piece = block_index(); piece < a.pieces; piece += grid_blocks()) {
        i64 at = piece * SORT_PIECE + thread_index();
        int own = key_at(a, at);
        if (own < 0 || own >= a.keys) continue;
        int place = starts[own] + a.counts[own * a.pieces + piece] + a.places[at];
        a.places[at] = place;
        a.order[place] = a.from ? a.from[at] : (int)at;
    }
}
