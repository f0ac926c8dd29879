/* The implementation `native` of the searched convolution, for CPUs. `rfnext/ops/native_build.py` compiles it,
   `native.py` calls it.

   The identity behind it is derived in rfnext/ops/__init__.py: y = sum_k W_k m_k with the mixed input
   m_k = sum_i p_i shift(x, k d_i). Positions (batch, *size_out) are flattened and cut into tiles. For each tile and tap the
   mixed input is summed up in a buffer that stays in the core's cache, and multiplied from there; the backward pass does the
   same with u_k = W_k^T g, whose elements meet those of x once: to mix, for the gradient of the shares, and for that of x.
   Rows of images are too short for vectors that end where they do: they are first copied between zeros, for some channels at
   a time, so that each shift is an offset and all terms of a tap are summed up in registers. Small images of many channels
   are read position by position instead, a row of channels for each, without the positions where a tap reads padding alone.

   Depthwise convs have nothing to share. There each plane of the input is copied into a frame of zeros, where every shift is
   an offset, and all taps of all branches are summed up in registers. Where channels lie last in memory, a vector holds
   channels of one position rather than positions of one channel.

   Plain C with the vector extensions of GCC and Clang. The file includes itself to be compiled for float and for double. */

#ifndef REAL

#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
#endif

/* A product holds ROWS x COLUMNS vectors of sums in registers, beside COLUMNS of one operand and one of the other: 28 of 32
   registers, or 16 of 16. */
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define ROWS 8
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define ROWS 4
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define ROWS 8
#else
#define VECTOR_BYTES 16
#define ROWS 4
#endif
#define COLUMNS 3
#define TOGETHER 4 /* rows of a depthwise conv's output that are summed up at a time, COLUMNS vectors of each */
#define DOTS 8     /* and terms whose products with the gradient are */
#define NUMBER 8   /* of positions, or terms, that are summed up at a time where channels lie last */
#define SUMMED 128 /* positions after which their sum goes to the total: they stay in the cache for all terms, and a long sum
                      of floats is less precise */

#define DEPTH 64   /* channels that are mixed at a time */
#define TERMS 4    /* and terms of a tap whose sums are in registers then */

#define SMALL 256        /* positions of a small plane, and of a tile of small planes */
#define LARGER_SMALL 1024 /* and of a plane of at least DEPTH channels */
#define DEPTH_SMALL 256  /* channels of these that are mixed at a time */
#define MOST_TAPS 9

#define TILE 192 /* positions; a multiple of COLUMNS vectors of floats, in all cases above */
#define ALIGNED 64 /* elements: each part of the scratch space starts on a cache line of its own */

#define INLINE static inline __attribute__((always_inline))
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

typedef struct {
    int64_t batch, groups, channel_in, channel_out; /* channels per group */
    int64_t taps, terms, terms_per_tap, shares, branches;
    int64_t last; /* channels lie last in x, y and their gradients: depthwise convs, terms in the order of the rows they read */
    int64_t size_in[3], size_out[3], stride[3]; /* padded with leading ones */
} conv;

/* What a tap reads: the input moved by shift, times a share. */
typedef struct {
    int64_t tap, share, shift[3];
} term;

/* Positions of a tile that follow each other, and where what a term reads for them lies in a channel of the input. */
typedef struct {
    int64_t to, from, length;
} run;

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t parts_of(int64_t n, int64_t size) { return (n + size - 1) / size; }
static int64_t up(int64_t n, int64_t multiple) { return parts_of(n, multiple) * multiple; }
static int64_t volume(const int64_t *size) { return size[0] * size[1] * size[2]; }

static int64_t runs_per_term(const conv *c) { return TILE / c->size_out[2] + 2; }

/* As equal as whole vectors allow, and a number that the threads can share out evenly, if there is enough for all. */
static int64_t tile_size(int64_t positions, int64_t threads, int64_t lanes)
{
    int64_t tiles = parts_of(positions, TILE);
    if (tiles % threads && positions >= 4 * lanes * threads) tiles = up(tiles, threads);
    return up(parts_of(positions, tiles), lanes);
}

/* Fill runs with what a term reads for positions first to last, zeros left out, and return how many there are.
   sample: elements of the input from one sample to the next. */
static int64_t find_runs(const conv *c, const term *t, int64_t first, int64_t last, int64_t sample, run *runs)
{
    const int64_t *in = c->size_in, *out = c->size_out, *stride = c->stride, *shift = t->shift;
    const int64_t begin = shift[2] < 0 ? parts_of(-shift[2], stride[2]) : 0;
    const int64_t end = shift[2] < in[2] ? (in[2] - 1 - shift[2]) / stride[2] + 1 : 0;
    int64_t count = 0;
    for (int64_t q = first, length; q < last; q += length) {
        const int64_t w = q % out[2], row = q / out[2];
        const int64_t h = row % out[1], slice = row / out[1], n = slice / out[0];
        const int64_t i = slice % out[0] * stride[0] + shift[0], j = h * stride[1] + shift[1];
        length = smaller(out[2] - w, last - q);
        const int64_t start = larger(w, begin), stop = smaller(w + length, end);
        if (i < 0 || i >= in[0] || j < 0 || j >= in[1] || stop <= start) continue;
        const int64_t to = q - first + start - w;
        const int64_t from = n * sample + (i * in[1] + j) * in[2] + start * stride[2] + shift[2];
        run *previous = count ? runs + count - 1 : 0;
        if (previous && stride[2] == 1 && previous->to + previous->length == to && previous->from + previous->length == from)
            previous->length += stop - start;
        else
            runs[count++] = (run){to, from, stop - start};
    }
    return count;
}

/* The runs of a tap's terms, which are terms[0] to terms[number - 1], with counts before them. Returns how many in all. */
static int64_t find_all(const conv *c, const term *terms, int64_t number, int64_t first, int64_t last, int64_t *counts)
{
    run *runs = (run *)(counts + c->terms_per_tap);
    int64_t total = 0;
    for (int64_t t = 0; t < number; t++) {
        const int64_t sample = c->groups * c->channel_in * volume(c->size_in);
        counts[t] = find_runs(c, terms + t, first, last, sample, runs + t * runs_per_term(c));
        total += counts[t];
    }
    return total;
}

/* Short rows, and those read in steps, are copied between zeros first, where every shift is an offset. A copy has `slots` of
   `size` elements for a channel, one for each row of the input that a tile reads; the first is of zeros. A slot has the
   elements 0, s, 2 s, ... of its row, for a stride s, then 1, s + 1, ..., `pitch` from one such part to the next, with
   `before` zeros before it. Those behind it are the ones before the next. */
typedef struct {
    int64_t before, pitch, size, slots, rows, segments;
} lines;

/* Of a tile: rows of the input and their slots, pieces of rows of the output, and where each reads what. */
typedef struct {
    int64_t slots, segments, first_sample;
    int64_t *row, *slot, *to, *length, *used, *offset; /* used (terms), offset (segments, terms) */
} reading;

static int64_t floor_of(int64_t a, int64_t b) { return a >= 0 ? a / b : -parts_of(-a, b); }
static int64_t copies_of(const lines *l, int64_t channels, int64_t slots) { return l->before + channels * slots * l->size; }

static int in_lines(const conv *c)
{
    return c->size_out[2] <= TILE && (c->size_out[0] * c->size_out[1] > 1 || c->stride[2] > 1);
}

static lines lines_of(const conv *c, const term *terms, int64_t lanes)
{
    const int64_t stride = c->stride[2], length = parts_of(c->size_in[2], stride), out = volume(c->size_out);
    int64_t before = 0, after = 0;
    for (int64_t t = 0; t < c->terms; t++) {
        const int64_t shift = floor_of(terms[t].shift[2], stride);
        before = larger(before, -shift);
        after = larger(after, c->size_out[2] + shift - length);
    }
    lines l = {.before = before, .segments = TILE / c->size_out[2] + 2};
    l.pitch = larger(length + larger(before, after), up(c->size_out[2], lanes / 2));
    l.size = l.pitch * stride;
    l.rows = smaller(c->batch, TILE / larger(out, 1) + 2) * c->size_in[0] * c->size_in[1];
    l.slots = 1 + smaller(l.rows, l.segments * c->terms);
    return l;
}

static int64_t integers_of_lines(const conv *c, const lines *l)
{
    return l->rows + l->slots + 2 * l->segments + c->terms * (1 + l->segments);
}

static reading reading_in(const conv *c, const lines *l, int64_t *integers)
{
    reading r = {.slot = integers, .row = integers + l->rows};
    r.to = r.row + l->slots, r.length = r.to + l->segments, r.used = r.length + l->segments, r.offset = r.used + c->terms;
    return r;
}

/* What a tile of the positions first to last reads. */
static void find_lines(const conv *c, const lines *l, const term *terms, int64_t first, int64_t last, reading *r)
{
    const int64_t *in = c->size_in, *out = c->size_out, *stride = c->stride, rows = in[0] * in[1];
    r->slots = 1, r->segments = 0, r->first_sample = first / volume(out);
    memset(r->slot, 0, l->rows * sizeof(int64_t));
    memset(r->used, 0, c->terms * sizeof(int64_t));
    for (int64_t q = first, length; q < last; q += length) {
        const int64_t w = q % out[2], row = q / out[2];
        const int64_t h = row % out[1], slice = row / out[1], n = slice / out[0];
        int64_t *offset = r->offset + r->segments * c->terms;
        length = smaller(out[2] - w, last - q);
        r->to[r->segments] = q - first, r->length[r->segments++] = length;
        for (int64_t t = 0; t < c->terms; t++) {
            const int64_t *shift = terms[t].shift;
            const int64_t i = slice % out[0] * stride[0] + shift[0], j = h * stride[1] + shift[1];
            offset[t] = 0; /* zeros */
            if (i < 0 || i >= in[0] || j < 0 || j >= in[1]) continue;
            int64_t *slot = r->slot + (n - r->first_sample) * rows + i * in[1] + j;
            if (!*slot) r->row[*slot = r->slots++] = slot - r->slot;
            const int64_t step = floor_of(shift[2], stride[2]), phase = shift[2] - step * stride[2];
            offset[t] = *slot * l->size + phase * l->pitch + l->before + step + w;
            r->used[t] = 1;
        }
    }
}

static int is_used(const reading *r, int64_t first, int64_t number)
{
    for (int64_t t = first; t < first + number; t++)
        if (r->used[t]) return 1;
    return 0;
}

static int64_t terms_of_tap(const conv *c, const term *terms, int64_t t)
{
    int64_t number = 1;
    while (t + number < c->terms && terms[t + number].tap == terms[t].tap) number++;
    return number;
}

/* Into how many ranges of samples to cut the backward pass, and into how many blocks of input channels: none of two pieces
   writes where the other does. */
static void cut(const conv *c, int64_t threads, int64_t lanes, int64_t *ranges, int64_t *blocks)
{
    const int64_t panels = parts_of(c->channel_in, ROWS), size = volume(c->size_out);
    /* Ranges cost memory: no more than the input and the output take, unless that is little. */
    const int64_t copies = threads * c->groups * c->taps * up(c->channel_in, ROWS) * up(c->channel_out, lanes);
    const int64_t ends = c->batch * c->groups * (c->channel_in * volume(c->size_in) + c->channel_out * size);
    const int64_t most = copies <= larger(ends, 1 << 22) ? smaller(threads, c->batch) : 1;
    double least = 0;
    *ranges = *blocks = 1;
    for (int64_t r = 1; r <= most; r++) {
        const int64_t b = smaller(parts_of(threads, r), panels);
        /* Work of the piece that is last to finish: each block arranges all of g anew, and of ranges each thread sums up a
           gradient of the weights of its own, which costs it about as much as so many positions. */
        const double rounds = (double)parts_of(r * b * c->groups, threads), positions = r > 1 ? 32 : 0;
        const double work = rounds * (up(parts_of(c->batch, r) * size, lanes) + positions) * (parts_of(panels, b) + 0.2);
        if (r == 1 || work < least) least = work, *ranges = r, *blocks = b;
    }
}

/* A plane within zeros, wide enough for all shifts: size of the whole, and where the plane lies in it. */
typedef struct {
    int64_t size[3], start[3];
} frame;

static int is_depthwise(const conv *c)
{
    return c->channel_in == 1 && c->channel_out == 1 && c->stride[0] * c->stride[1] * c->stride[2] == 1;
}

/* Of a plane of the input that is read by shifts; mirrored: of the output, read by the same shifts backwards. */
static frame frame_of(const conv *c, const term *terms, int mirrored)
{
    const int64_t *source = mirrored ? c->size_out : c->size_in, *target = mirrored ? c->size_in : c->size_out;
    frame f;
    for (int a = 0; a < 3; a++) {
        int64_t before = 0, after = 0;
        for (int64_t t = 0; t < c->terms; t++) {
            const int64_t shift = mirrored ? -terms[t].shift[a] : terms[t].shift[a];
            before = larger(before, -shift);
            after = larger(after, target[a] + shift - source[a]);
        }
        f.size[a] = before + source[a] + after, f.start[a] = before;
    }
    return f;
}

/* Where in the frame the first element of the target is read. */
static int64_t offset_of(const frame *f, const term *t, int mirrored)
{
    int64_t offset = 0;
    for (int a = 0; a < 3; a++)
        offset = offset * f->size[a] + f->start[a] + (mirrored ? -t->shift[a] : t->shift[a]);
    return offset;
}

/* Small planes of many channels: a tile is of whole samples, and its input is stored position by position, with a row of
   channels for each and one of zeros behind the last. Forward, `depth` channels at a time; vectors of outputs are cut into
   `ranges`, each for a thread, of `panels` that are multiplied together. Backward, the same of inputs. */
typedef struct {
    int64_t samples, tiles, positions, rows, depth, ranges, panels;
} small;

/* Per tap: for how many positions of a sample anything is read, and per tile at which; and per term which row they read. */
typedef struct {
    int64_t *number, *at, *from; /* (taps), (taps, positions), (terms, positions) */
} reads;

static int is_small(const conv *c, int64_t threads, int64_t lanes)
{
    const int64_t in = smaller(c->channel_in, c->channel_out), most = in < DEPTH ? SMALL : LARGER_SMALL;
    if (!in_lines(c) || is_depthwise(c) || in < lanes || c->taps > MOST_TAPS) return 0;
    return volume(c->size_out) <= most && volume(c->size_in) <= 4 * most &&
           c->groups * parts_of(c->channel_in, lanes) >= threads; /* else threads would have nothing to do */
}

/* Samples of a tile: by their outputs, and, where strides leave few of these, by their inputs, which are stored whole. */
static int64_t samples_of_small(const conv *c)
{
    return larger(1, smaller(SMALL / larger(volume(c->size_out), 1), 4 * SMALL / larger(volume(c->size_in), 1)));
}

static void cut_vectors(int64_t vectors, small *s)
{
    s->ranges = larger(1, smaller(s->ranges, vectors));
    s->panels = parts_of(parts_of(vectors, s->ranges), COLUMNS);
}

static small small_of(const conv *c, int64_t threads, int64_t vectors)
{
    const int64_t out = volume(c->size_out);
    small s = {.depth = smaller(c->channel_in, DEPTH_SMALL)};
    s.samples = smaller(samples_of_small(c), parts_of(c->batch, threads));
    s.tiles = parts_of(c->batch, s.samples);
    s.positions = s.samples * out, s.rows = s.samples * volume(c->size_in);
    s.ranges = parts_of(threads, c->groups * s.tiles);
    cut_vectors(vectors, &s);
    return s;
}

static void by_channels(const conv *c, int64_t threads, int64_t vectors, small *s)
{
    s->samples = smaller(samples_of_small(c), c->batch);
    s->tiles = parts_of(c->batch, s->samples);
    s->positions = s->samples * volume(c->size_out), s->rows = s->samples * volume(c->size_in);
    s->ranges = parts_of(threads, c->groups);
    cut_vectors(vectors, s);
}

/* The first vector of a panel; those of a range are as equal as whole vectors allow. */
static int64_t panel_start(const small *s, int64_t vectors, int64_t panel)
{
    const int64_t range = panel / s->panels, first = vectors * range / s->ranges, last = vectors * (range + 1) / s->ranges;
    return range == s->ranges ? vectors : first + (last - first) * (panel % s->panels) / s->panels;
}

static int64_t integers_of_small(const conv *c, const small *s) { return c->taps + (c->taps + c->terms) * s->positions; }

static reads find_reads(const conv *c, const small *s, const term *terms, int64_t *integers)
{
    const int64_t *in = c->size_in, *out = c->size_out, size_in = volume(in), size_out = volume(out);
    reads r = {.number = integers, .at = integers + c->taps, .from = integers + c->taps * (1 + s->positions)};
    memset(r.number, 0, c->taps * sizeof(int64_t));
    for (int64_t t = 0, number; t < c->terms; t += number) {
        const int64_t k = terms[t].tap;
        int64_t count = 0, *at = r.at + k * s->positions;
        number = terms_of_tap(c, terms, t);
        for (int64_t d = 0, p = 0; d < out[0]; d++)
            for (int64_t h = 0; h < out[1]; h++)
                for (int64_t w = 0; w < out[2]; w++, p++) {
                    int any = 0;
                    for (int64_t n = t; n < t + number; n++) {
                        const int64_t *shift = terms[n].shift, a = d * c->stride[0] + shift[0], i = h * c->stride[1] + shift[1];
                        const int64_t j = w * c->stride[2] + shift[2];
                        const int there = a >= 0 && a < in[0] && i >= 0 && i < in[1] && j >= 0 && j < in[2];
                        r.from[n * s->positions + count] = there ? (a * in[1] + i) * in[2] + j : s->rows;
                        any |= there;
                    }
                    if (any) at[count++] = p;
                }
        r.number[k] = count;
        for (int64_t sample = 1; sample < s->samples; sample++)
            for (int64_t v = 0; v < count; v++) {
                at[sample * count + v] = at[v] + sample * size_out;
                for (int64_t n = t; n < t + number; n++) {
                    int64_t *from = r.from + n * s->positions;
                    from[sample * count + v] = from[v] == s->rows ? s->rows : from[v] + sample * size_in;
                }
            }
    }
    return r;
}

/* Where channels lie last: what is computed together is a block of as many channels as a vector holds. A plane is copied
   between zeros that lie beside its rows; terms that read a row outside are left out. */
static frame between_zeros(const conv *c, const term *terms, int mirrored)
{
    const int64_t *source = mirrored ? c->size_out : c->size_in;
    frame f = frame_of(c, terms, mirrored);
    for (int a = 0; a < 2; a++) f.size[a] = source[a], f.start[a] = 0;
    return f;
}

static int64_t terms_of_row(const conv *c, const term *terms, int64_t t)
{
    int64_t number = 1;
    while (t + number < c->terms && terms[t + number].shift[0] == terms[t].shift[0] &&
           terms[t + number].shift[1] == terms[t].shift[1])
        number++;
    return number;
}

/* Elements of a row of the table below: a count, then first and last term of each piece, one per slice that is read. */
static int64_t entries_of(const conv *c, const term *terms)
{
    int64_t slices = 1;
    for (int64_t t = 1; t < c->terms; t++) slices += terms[t].shift[0] != terms[t - 1].shift[0];
    return 1 + 2 * slices;
}

/* Per row of the target, which pieces of the list of terms read rows that are there. */
static void find_terms(const conv *c, const term *terms, int mirrored, int64_t *table)
{
    const int64_t *source = mirrored ? c->size_out : c->size_in, *target = mirrored ? c->size_in : c->size_out;
    const int64_t entries = entries_of(c, terms);
    for (int64_t row = 0; row < target[0] * target[1]; row++, table += entries) {
        table[0] = 0;
        for (int64_t t = 0, number; t < c->terms; t += number) {
            number = terms_of_row(c, terms, t);
            const int64_t i = row / target[1] + (mirrored ? -terms[t].shift[0] : terms[t].shift[0]);
            const int64_t j = row % target[1] + (mirrored ? -terms[t].shift[1] : terms[t].shift[1]);
            if (i < 0 || i >= source[0] || j < 0 || j >= source[1]) continue;
            int64_t *piece = table + 2 * table[0] - 1;
            if (!table[0] || piece[1] != t) piece += 2, table[0]++, piece[0] = t;
            piece[1] = t + number;
        }
    }
}

/* Into how many ranges of samples the backward pass is cut where there are fewer blocks of channels than threads. */
static int64_t ranges_of_samples(const conv *c, int64_t threads, int64_t lanes)
{
    return smaller(c->batch, parts_of(threads, parts_of(c->groups, lanes)));
}

/* How many threads to ask for. Where channels lie last, each copies a block of channels of a sample: no more than there are of
   these, so that the copies take about as much memory as the input and the output, on any number of cores. */
static int64_t most_threads(const conv *c, int64_t wanted, int64_t lanes)
{
#ifdef _OPENMP
    return c->last ? smaller(wanted, c->batch * parts_of(c->groups, lanes)) : wanted;
#else
    (void)c, (void)wanted, (void)lanes;
    return 1;
#endif
}

/* Sizes of the scratch space of forward() and backward(): elements, then elements per thread, then int64 per thread, then
   doubles. */
static void space(const conv *c, const term *terms, int64_t threads, int64_t lanes, int64_t *forward, int64_t *backward)
{
    forward[3] = c->shares;
    backward[3] = (threads + 1) * c->shares + c->groups * c->channel_out + c->branches;
    if (c->last) {
        const frame f = between_zeros(c, terms, 0), b = between_zeros(c, terms, 1);
        const int64_t entries = entries_of(c, terms), blocks = parts_of(c->groups, lanes);
        forward[0] = 0;
        forward[1] = up((c->terms + volume(f.size)) * lanes, ALIGNED);
        forward[2] = up(c->terms + entries * c->size_out[0] * c->size_out[1], ALIGNED);
        backward[0] = up(ranges_of_samples(c, threads, lanes) * blocks * (c->terms + 1) * lanes, ALIGNED);
        backward[1] = up((c->terms + volume(f.size) + volume(b.size)) * lanes, ALIGNED);
        backward[2] = up(2 * c->terms + entries * c->size_in[0] * c->size_in[1], ALIGNED);
        return;
    }
    if (is_depthwise(c)) {
        const frame f = frame_of(c, terms, 0), b = frame_of(c, terms, 1);
        const int64_t all_terms = up(c->terms, DOTS), rows = c->size_out[0] * c->size_out[1];
        const int64_t row = larger(up(c->size_in[2], lanes), up(c->size_out[2], lanes));
        forward[0] = backward[0] = 0;
        forward[1] = up(all_terms + volume(f.size) + COLUMNS * lanes + TOGETHER * row, ALIGNED);
        backward[1] = forward[1] + up(volume(b.size) + COLUMNS * lanes + rows * row + all_terms * lanes, ALIGNED);
        forward[2] = backward[2] = up(2 * all_terms, ALIGNED);
        return;
    }
    if (is_small(c, threads, lanes)) {
        const int64_t columns = COLUMNS * lanes, wide = up(c->channel_out, larger(lanes, ROWS));
        small s = small_of(c, threads, parts_of(c->channel_out, lanes));
        const int64_t row = up(s.depth, lanes), out = up(c->channel_out, lanes);
        forward[0] = up(c->groups * c->taps * c->channel_in * out, ALIGNED);
        forward[1] = up((s.rows + 1 + s.positions) * row + (s.positions + 1) * out, ALIGNED);
        forward[2] = up(integers_of_small(c, &s), ALIGNED);
        by_channels(c, threads, parts_of(c->channel_in, lanes), &s);
        backward[0] = up(c->groups * c->batch * volume(c->size_out) * wide, ALIGNED);
        backward[1] = up((2 * (s.rows + 1) + s.positions + 1 + c->taps * (c->channel_out + s.positions + ROWS)) * columns, ALIGNED);
        backward[2] = up(integers_of_small(c, &s), ALIGNED);
        return;
    }
    const int64_t in = up(c->channel_in, ROWS), out = up(c->channel_out, ROWS), out_wide = up(c->channel_out, lanes);
    const int64_t kernels = c->groups * c->taps;
    int64_t ranges, blocks;
    cut(c, threads, lanes, &ranges, &blocks);
    forward[0] = up(kernels * out * c->channel_in, ALIGNED);
    forward[1] = up((in + out) * TILE + lanes, ALIGNED); /* rows of vectors may end behind the last */
    backward[0] = up(kernels * in * c->channel_out, ALIGNED) + (ranges > 1 ? threads : 1) * up(kernels * in * out_wide, ALIGNED);
    backward[1] = up((2 * in + c->channel_out + out_wide) * TILE + (c->terms_per_tap + 1) * lanes, ALIGNED);
    forward[2] = backward[2] = up(c->terms_per_tap * (1 + 3 * runs_per_term(c)), ALIGNED);
    if (!in_lines(c)) return;
    const lines l = lines_of(c, terms, lanes);
    const int64_t copied = up(copies_of(&l, smaller(c->channel_in, DEPTH), l.slots) + c->terms + 2 * lanes, ALIGNED);
    forward[1] += copied;
    backward[1] += 2 * copied;
    forward[2] = backward[2] = up(integers_of_lines(c, &l), ALIGNED);
}

/* What the gradients of the shares and of the bias make of that of the probabilities, or, if there is a temperature, of that
   of the weights of which these are the softmax. grad_shares (threads, shares); of_bias: the same for all branches. */
static void add_up(const conv *c, const int64_t *members, const double *probability, double temperature, int64_t threads,
                   const double *grad_shares, double of_bias, double *grad)
{
    double mean = 0;
    for (int64_t b = 0; b < c->branches; b++) grad[b] = of_bias;
    for (int64_t s = 0; s < c->shares; s++, members += 1 + members[0]) {
        double sum = 0;
        for (int64_t t = 0; t < threads; t++) sum += grad_shares[t * c->shares + s];
        for (int64_t m = 1; m <= members[0]; m++) grad[members[m]] += sum;
    }
    if (!temperature) return;
    for (int64_t b = 0; b < c->branches; b++) mean += probability[b] * grad[b];
    for (int64_t b = 0; b < c->branches; b++) grad[b] = probability[b] * (grad[b] - mean) / temperature;
}

#define REAL float
#define MASK int32_t
#define NAME(name) JOIN(name, _float)
#include "native.c"
#undef REAL
#undef MASK
#undef NAME
#define REAL double
#define MASK int64_t
#define NAME(name) JOIN(name, _double)
#include "native.c"

#else

typedef REAL NAME(vector) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef REAL NAME(half) __attribute__((vector_size(VECTOR_BYTES / 2), aligned(sizeof(REAL)), may_alias));
typedef MASK NAME(mask) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef MASK NAME(half_mask) __attribute__((vector_size(VECTOR_BYTES / 2), aligned(sizeof(REAL)), may_alias));
#define VECTOR NAME(vector)
#define HALF NAME(half)
#define LANES ((int64_t)(VECTOR_BYTES / sizeof(REAL)))
#define LOAD(type, pointer) (*(const type *)(pointer))
#define STORE(type, pointer, value) (*(type *)(pointer) = (value))

/* c (ROWS, columns vectors) = or += a (ROWS, depth) b (depth, columns vectors). Steps are the elements from one row or
   column to the next; those known at compile time make a's panels cheap to read. */
INLINE void NAME(product)(const int columns, int64_t depth, const REAL *a, const int64_t a_row, const int64_t a_column,
                          const REAL *b, int64_t b_row, REAL *c, int64_t c_row, int add)
{
    VECTOR sum[ROWS][COLUMNS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 3
        for (int v = 0; v < columns; v++) {
            sum[r][v] = (VECTOR){0};
            if (add) __builtin_prefetch(c + r * c_row + v * LANES, 1);
        }
    for (int64_t d = 0; d < depth; d++, a += a_column, b += b_row) {
        VECTOR x[COLUMNS];
#pragma GCC unroll 3
        for (int v = 0; v < columns; v++) x[v] = LOAD(VECTOR, b + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const REAL w = a[r * a_row];
#pragma GCC unroll 3
            for (int v = 0; v < columns; v++) sum[r][v] += x[v] * w;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 3
        for (int v = 0; v < columns; v++) {
            REAL *to = c + r * c_row + v * LANES;
            if (add) sum[r][v] += LOAD(VECTOR, to);
            STORE(VECTOR, to, sum[r][v]);
        }
}

/* The same for a width of any number of vectors, in the most equal parts. packed: a lies column by column; else a_row. */
INLINE void NAME(wide_product)(const int packed, int64_t width, int64_t depth, const REAL *a, int64_t a_row, const REAL *b,
                               int64_t b_row, REAL *c, int64_t c_row, int add)
{
    const int64_t row = packed ? 1 : a_row, column = packed ? ROWS : 1;
    int64_t left = width / LANES;
    for (int64_t parts = parts_of(left, COLUMNS); parts > 0; parts--) {
        const int64_t n = parts_of(left, parts);
        if (n == 3)
            NAME(product)(3, depth, a, row, column, b, b_row, c, c_row, add);
        else if (n == 2)
            NAME(product)(2, depth, a, row, column, b, b_row, c, c_row, add);
        else
            NAME(product)(1, depth, a, row, column, b, b_row, c, c_row, add);
        b += n * LANES, c += n * LANES, left -= n;
    }
}

static void NAME(panel_product)(int64_t width, int64_t depth, const REAL *a, const REAL *b, REAL *c, int add)
{
    NAME(wide_product)(1, width, depth, a, 0, b, width, c, width, add);
}

static void NAME(outer_product)(int64_t width, int64_t depth, const REAL *a, int64_t a_row, const REAL *b, REAL *c)
{
    NAME(wide_product)(0, width, depth, a, a_row, b, width, c, width, 1);
}

/* Panels (groups, taps, depth / block, rows / ROWS, block, ROWS) of a weight of the given steps from element to element. */
static void NAME(pack)(const conv *c, const REAL *weight, int64_t rows, int64_t row_step, int64_t depth, int64_t depth_step,
                       int64_t block, REAL *packed)
{
    const int64_t taps = c->taps, panels = parts_of(rows, ROWS), group = rows * depth * taps;
#pragma omp for schedule(static)
    for (int64_t both = 0; both < c->groups * panels; both++) {
        const int64_t g = both / panels, panel = both % panels, filled = smaller(ROWS, rows - panel * ROWS);
        for (int64_t d = 0; d < depth; d++)
            for (int64_t k = 0; k < taps; k++) {
                const int64_t start = d / block * block, length = smaller(block, depth - start);
                REAL *to = packed + (((g * taps + k) * depth + start) * panels + panel * length + d - start) * ROWS;
                const REAL *row = weight + g * group + panel * ROWS * row_step + d * depth_step, *from = row + k;
                /* Of a transpose: the taps of a panel lie together for each d, and far from those of the next. */
                if (row_step == taps) __builtin_prefetch(row + 8 * depth_step + k * ROWS);
                for (int64_t r = 0; r < ROWS; r++) to[r] = r < filled ? from[r * row_step] : 0;
            }
    }
}

/* to += share * from */
INLINE void NAME(mix_run)(REAL *restrict to, const REAL *restrict from, REAL share, int64_t length, int64_t stride)
{
    int64_t j = 0;
    if (stride == 1) {
        for (; j + LANES <= length; j += LANES)
            STORE(VECTOR, to + j, LOAD(VECTOR, to + j) + LOAD(VECTOR, from + j) * share);
        for (; j + LANES / 2 <= length; j += LANES / 2)
            STORE(HALF, to + j, LOAD(HALF, to + j) + LOAD(HALF, from + j) * share);
    }
    for (; j < length; j++) to[j] += share * from[j * stride];
}

/* to += share * x, grad_x += share * u (each unless null), and the LANES sums in dots += x * u. */
INLINE void NAME(meet_run)(REAL *restrict to, const REAL *restrict x, const REAL *restrict u, REAL *restrict grad_x,
                           REAL *restrict dots, REAL share, int64_t length, int64_t stride)
{
    int64_t j = 0;
    if (stride == 1) {
        VECTOR sum = LOAD(VECTOR, dots);
        for (; j + LANES <= length; j += LANES) {
            const VECTOR a = LOAD(VECTOR, x + j), b = LOAD(VECTOR, u + j);
            if (to) STORE(VECTOR, to + j, LOAD(VECTOR, to + j) + a * share);
            if (grad_x) STORE(VECTOR, grad_x + j, LOAD(VECTOR, grad_x + j) + b * share);
            sum += a * b;
        }
        STORE(VECTOR, dots, sum);
        for (; j + LANES / 2 <= length; j += LANES / 2) {
            const HALF a = LOAD(HALF, x + j), b = LOAD(HALF, u + j);
            if (to) STORE(HALF, to + j, LOAD(HALF, to + j) + a * share);
            if (grad_x) STORE(HALF, grad_x + j, LOAD(HALF, grad_x + j) + b * share);
            STORE(HALF, dots, LOAD(HALF, dots) + a * b);
        }
    }
    for (; j < length; j++) {
        if (to) to[j] += share * x[j * stride];
        if (grad_x) grad_x[j * stride] += share * u[j];
        dots[0] += x[j * stride] * u[j];
    }
}

static const MASK NAME(ones)[2 * VECTOR_BYTES / sizeof(REAL)] = {[0 ... VECTOR_BYTES / sizeof(REAL) - 1] = -1};

/* For a piece of a row, number terms: to = or += sum of share * x; and unless u is null, dots += x * u. */
#define MIX_LINE(name, TYPE, MASKS)                                                                                      \
    INLINE void name(const int number, const int64_t *offset, const REAL *share, const REAL *x, REAL *to, int add,       \
                     const REAL *u, int64_t length, VECTOR *dots)                                                        \
    {                                                                                                                    \
        const int64_t lanes = sizeof(TYPE) / sizeof(REAL);                                                               \
        const MASKS mask = LOAD(MASKS, NAME(ones) + LANES - smaller(length, lanes));                                     \
        const TYPE of_u = u ? (TYPE)(LOAD(MASKS, u) & mask) : (TYPE){0};                                                 \
        TYPE sum = add ? LOAD(TYPE, to) : (TYPE){0};                                                                     \
        for (int t = 0; t < number; t++) {                                                                               \
            const TYPE a = (TYPE)(LOAD(MASKS, x + offset[t]) & mask);                                                    \
            sum += a * share[t];                                                                                         \
            if (u) *(TYPE *)(dots + t) += a * of_u;                                                                      \
        }                                                                                                                \
        STORE(TYPE, to, sum);                                                                                            \
    }
MIX_LINE(NAME(mix_line), VECTOR, NAME(mask))
MIX_LINE(NAME(mix_line_half), HALF, NAME(half_mask))

/* The same for all pieces of a tile. offset (segments, terms). */
INLINE void NAME(mix_pieces)(const int number, const reading *r, const int64_t *offset, int64_t terms, const REAL *share,
                             const REAL *x, REAL *to, int add, const REAL *u, REAL *dots)
{
    VECTOR sums[TERMS];
    for (int t = 0; t < number && u; t++) sums[t] = LOAD(VECTOR, dots + t * LANES);
    for (int64_t s = 0; s < r->segments; s++, offset += terms) {
        const int64_t length = r->length[s], at = r->to[s];
        int64_t j = 0;
        for (; j + LANES / 2 < length; j += LANES)
            NAME(mix_line)(number, offset, share, x + j, to + at + j, add, u ? u + at + j : 0, length - j, sums);
        if (j < length)
            NAME(mix_line_half)(number, offset, share, x + j, to + at + j, add, u ? u + at + j : 0, length - j, sums);
    }
    for (int t = 0; t < number && u; t++) STORE(VECTOR, dots + t * LANES, sums[t]);
}

static void NAME(mix_lines)(int64_t number, const reading *r, const int64_t *offset, int64_t terms, const REAL *share,
                            const REAL *x, REAL *to)
{
    for (int64_t t = 0, n; t < number; t += n, offset += n, share += n) {
        n = smaller(number - t, TERMS);
        if (n == 4) NAME(mix_pieces)(4, r, offset, terms, share, x, to, t > 0, 0, 0);
        if (n == 3) NAME(mix_pieces)(3, r, offset, terms, share, x, to, t > 0, 0, 0);
        if (n == 2) NAME(mix_pieces)(2, r, offset, terms, share, x, to, t > 0, 0, 0);
        if (n == 1) NAME(mix_pieces)(1, r, offset, terms, share, x, to, t > 0, 0, 0);
    }
}

static void NAME(meet_lines)(int64_t number, const reading *r, const int64_t *offset, int64_t terms, const REAL *share,
                             const REAL *x, REAL *to, const REAL *u, REAL *dots)
{
    for (int64_t t = 0, n; t < number; t += n, offset += n, share += n, dots += n * LANES) {
        n = smaller(number - t, TERMS);
        if (n == 4) NAME(mix_pieces)(4, r, offset, terms, share, x, to, t > 0, u, dots);
        if (n == 3) NAME(mix_pieces)(3, r, offset, terms, share, x, to, t > 0, u, dots);
        if (n == 2) NAME(mix_pieces)(2, r, offset, terms, share, x, to, t > 0, u, dots);
        if (n == 1) NAME(mix_pieces)(1, r, offset, terms, share, x, to, t > 0, u, dots);
    }
}

/* x += share * u, where a term reads x. */
static void NAME(add_line)(const reading *r, const int64_t *offset, int64_t terms, REAL share, const REAL *u, REAL *x)
{
    for (int64_t s = 0; s < r->segments; s++, offset += terms) {
        const int64_t length = r->length[s];
        const REAL *from = u + r->to[s];
        REAL *to = x + *offset;
        int64_t j = 0;
        for (; j + LANES / 2 < length; j += LANES) {
            const NAME(mask) mask = LOAD(NAME(mask), NAME(ones) + LANES - smaller(length - j, LANES));
            STORE(VECTOR, to + j, LOAD(VECTOR, to + j) + (VECTOR)(LOAD(NAME(mask), from + j) & mask) * share);
        }
        if (j < length) {
            const NAME(half_mask) mask = LOAD(NAME(half_mask), NAME(ones) + LANES - (length - j));
            STORE(HALF, to + j, LOAD(HALF, to + j) + (HALF)(LOAD(NAME(half_mask), from + j) & mask) * share);
        }
    }
}

/* Copy rows of channels of x (batch, groups, channel_in, *size_in), from an offset on, into their slots; or add these. */
static void NAME(copy_lines)(const conv *c, const lines *l, const reading *r, int64_t offset, int64_t channels, REAL *x,
                             REAL *slots, int add)
{
    const int64_t length = c->size_in[2], stride = c->stride[2], rows = c->size_in[0] * c->size_in[1];
    for (int64_t i = 0; i < channels; i++, slots += r->slots * l->size) {
        if (!add) memset(slots + l->before, 0, l->size * sizeof(REAL));
        for (int64_t s = 1; s < r->slots; s++) {
            const int64_t n = r->first_sample + r->row[s] / rows;
            REAL *row = x + offset + ((n * c->groups * c->channel_in + i) * rows + r->row[s] % rows) * length;
            for (int64_t phase = 0; phase < stride; phase++) {
                REAL *slot = slots + l->before + s * l->size + phase * l->pitch;
                if (add)
                    for (int64_t j = phase, k = 0; j < length; j += stride, k++) row[j] += slot[k];
                else if (stride == 1)
                    memcpy(slot, row, length * sizeof(REAL));
                else
                    for (int64_t j = phase, k = 0; j < length; j += stride, k++) slot[k] = row[j];
            }
        }
    }
}

/* Returns the threads that the other functions are to be given, of those wanted. */
int64_t NAME(space)(const conv *c, const term *terms, int64_t *forward, int64_t *backward, int64_t wanted)
{
    const int64_t threads = most_threads(c, wanted, LANES);
    space(c, terms, threads, LANES, forward, backward);
    return threads;
}

/* Put a plane of the given size into its frame; the zeros around it are there already. */
static void NAME(into_frame)(const REAL *plane, const int64_t *size, const frame *f, REAL *framed)
{
    if (!size[2]) return; /* there may be no plane at all */
    for (int64_t d = 0; d < size[0]; d++)
        for (int64_t h = 0; h < size[1]; h++) {
            const int64_t row = (d + f->start[0]) * f->size[1] + h + f->start[1];
            memcpy(framed + row * f->size[2] + f->start[2], plane + (d * size[1] + h) * size[2], size[2] * sizeof(REAL));
        }
}

/* to (rows, columns vectors of that type) = start + sum over terms of factor * from moved by offset */
#define SUM_SHIFTED(name, TYPE)                                                                                          \
    INLINE void name(const int rows, const int columns, int64_t terms, const int64_t *offset, const REAL *factor,       \
                     const REAL *from, int64_t from_row, REAL start, REAL *to, int64_t to_row)                          \
    {                                                                                                                    \
        const int64_t lanes = sizeof(TYPE) / sizeof(REAL);                                                               \
        TYPE sum[TOGETHER][COLUMNS];                                                                                     \
        for (int r = 0; r < rows; r++)                                                                                   \
            for (int v = 0; v < columns; v++) sum[r][v] = (TYPE){0} + start;                                             \
        for (int64_t t = 0; t < terms; t++) {                                                                            \
            const REAL *shifted = from + offset[t], share = factor[t];                                                   \
            for (int r = 0; r < rows; r++)                                                                               \
                for (int v = 0; v < columns; v++) sum[r][v] += LOAD(TYPE, shifted + r * from_row + v * lanes) * share;   \
        }                                                                                                                \
        for (int r = 0; r < rows; r++)                                                                                   \
            for (int v = 0; v < columns; v++) STORE(TYPE, to + r * to_row + v * lanes, sum[r][v]);                       \
    }
SUM_SHIFTED(NAME(sum_shifted), VECTOR)
SUM_SHIFTED(NAME(sum_shifted_half), HALF)

/* The same for a row of any width, of which more may be written, up to whole vectors. */
INLINE void NAME(sum_rows)(const int rows, int64_t width, int64_t terms, const int64_t *offset, const REAL *factor,
                           const REAL *from, int64_t from_row, REAL start, REAL *to, int64_t to_row)
{
    const int64_t rest = width % LANES, half = rest > 0 && rest <= LANES / 2;
    int64_t left = width / LANES + (rest > 0 && !half), n;
    for (int64_t parts = parts_of(left, COLUMNS); parts > 0; parts--, left -= n, from += n * LANES, to += n * LANES) {
        n = parts_of(left, parts);
        if (n == 3)
            NAME(sum_shifted)(rows, 3, terms, offset, factor, from, from_row, start, to, to_row);
        else if (n == 2)
            NAME(sum_shifted)(rows, 2, terms, offset, factor, from, from_row, start, to, to_row);
        else
            NAME(sum_shifted)(rows, 1, terms, offset, factor, from, from_row, start, to, to_row);
    }
    if (half) NAME(sum_shifted_half)(rows, 1, terms, offset, factor, from, from_row, start, to, to_row);
}

/* plane (size) = start + sum over terms of factor * framed moved by offset. rows: space for TOGETHER rows. */
static void NAME(sum_plane)(const int64_t *size, int64_t terms, const int64_t *offset, const REAL *factor,
                            const REAL *framed, const frame *f, REAL start, REAL *plane, REAL *rows)
{
    const int64_t width = size[2], row = up(width, LANES), pitch = f->size[2];
    for (int64_t d = 0; d < size[0]; d++)
        for (int64_t next = 0; next < size[1];) {
            /* The last ones overlap those before rather than going one by one. */
            const int64_t h = size[1] < TOGETHER ? next : smaller(next, size[1] - TOGETHER);
            const REAL *from = framed + (d * f->size[1] + h) * pitch;
            const int64_t number = size[1] < TOGETHER ? 1 : TOGETHER;
            if (number == 1)
                NAME(sum_rows)(1, width, terms, offset, factor, from, pitch, start, rows, row);
            else
                NAME(sum_rows)(TOGETHER, width, terms, offset, factor, from, pitch, start, rows, row);
            for (int64_t r = 0; r < number; r++)
                memcpy(plane + (d * size[1] + h + r) * width, rows + r * row, width * sizeof(REAL));
            next = h + number;
        }
}

static void NAME(forward_depthwise)(const conv *c, const term *terms, const REAL *shares, const REAL *x,
                                    const REAL *weight, const REAL *bias, REAL total, REAL *y, REAL *scratch,
                                    int64_t *integers, int64_t threads)
{
    const int64_t size_in = volume(c->size_in), size_out = volume(c->size_out);
    const frame f = frame_of(c, terms, 0);
    int64_t need[4], unused[4];
    space(c, terms, threads, LANES, need, unused);
#pragma omp parallel num_threads(threads)
    {
        int64_t *offset = integers + omp_get_thread_num() * need[2];
        REAL *factor = scratch + omp_get_thread_num() * need[1], *rows = factor + up(c->terms, DOTS);
        REAL *framed = rows + TOGETHER * larger(up(c->size_in[2], LANES), up(c->size_out[2], LANES));
        for (int64_t t = 0; t < c->terms; t++) offset[t] = offset_of(&f, terms + t, 0);
        memset(framed, 0, (volume(f.size) + COLUMNS * LANES) * sizeof(REAL));
#pragma omp for schedule(static)
        for (int64_t both = 0; both < c->batch * c->groups; both++) {
            const int64_t channel = both % c->groups;
            for (int64_t t = 0; t < c->terms; t++)
                factor[t] = shares[terms[t].share] * weight[channel * c->taps + terms[t].tap];
            NAME(into_frame)(x + both * size_in, c->size_in, &f, framed);
            NAME(sum_plane)(c->size_out, c->terms, offset, factor, framed, &f, bias ? bias[channel] * total : 0,
                            y + both * size_out, rows);
        }
    }
}

/* dots (terms, LANES) += framed moved by offset * g (rows of whole vectors, zeros behind the plane). DOTS divides terms. */
static void NAME(add_dots)(const int64_t *size, int64_t terms, const int64_t *offset, const REAL *framed, const frame *f,
                           const REAL *g, REAL *dots)
{
    const int64_t row = up(size[2], LANES);
    for (int64_t t = 0; t < terms; t += DOTS) {
        VECTOR sum[DOTS];
        for (int k = 0; k < DOTS; k++) sum[k] = LOAD(VECTOR, dots + (t + k) * LANES);
        for (int64_t d = 0; d < size[0]; d++)
            for (int64_t h = 0; h < size[1]; h++) {
                const REAL *from = framed + (d * f->size[1] + h) * f->size[2], *of_row = g + (d * size[1] + h) * row;
                for (int64_t j = 0; j < size[2]; j += LANES) {
                    const VECTOR one = LOAD(VECTOR, of_row + j);
                    for (int k = 0; k < DOTS; k++) sum[k] += one * LOAD(VECTOR, from + offset[t + k] + j);
                }
            }
        for (int k = 0; k < DOTS; k++) STORE(VECTOR, dots + (t + k) * LANES, sum[k]);
    }
}

static void NAME(backward_depthwise)(const conv *c, const term *terms, const REAL *shares, const REAL *grad_y, const REAL *x,
                                     const REAL *weight, REAL *grad_x, REAL *grad_weight, double *grad_shares,
                                     REAL *scratch, int64_t *integers, int64_t threads)
{
    const int64_t size_in = volume(c->size_in), size_out = volume(c->size_out), all_terms = up(c->terms, DOTS);
    const int64_t row = up(c->size_out[2], LANES), rows_out = c->size_out[0] * c->size_out[1];
    const int64_t widest = larger(up(c->size_in[2], LANES), row);
    const frame f = frame_of(c, terms, 0), b = frame_of(c, terms, 1);
    int64_t need[4], unused[4];
    space(c, terms, threads, LANES, unused, need);
#pragma omp parallel num_threads(threads)
    {
        int64_t *offset = integers + omp_get_thread_num() * need[2], *mirrored = offset + all_terms;
        REAL *factor = scratch + omp_get_thread_num() * need[1], *rows = factor + all_terms;
        REAL *framed = rows + TOGETHER * widest, *g_framed = framed + volume(f.size) + COLUMNS * LANES;
        REAL *g_rows = g_framed + volume(b.size) + COLUMNS * LANES, *dots = g_rows + rows_out * widest;
        for (int64_t t = 0; t < all_terms; t++) {
            offset[t] = t < c->terms ? offset_of(&f, terms + t, 0) : 0;
            mirrored[t] = t < c->terms ? offset_of(&b, terms + t, 1) : 0;
        }
        memset(framed, 0, (volume(f.size) + COLUMNS * LANES) * sizeof(REAL));
        memset(g_framed, 0, (volume(b.size) + COLUMNS * LANES) * sizeof(REAL));
        memset(g_rows, 0, rows_out * row * sizeof(REAL));
#pragma omp for schedule(static)
        for (int64_t channel = 0; channel < c->groups; channel++) {
            const REAL *kernel = weight + channel * c->taps;
            for (int64_t t = 0; t < c->terms; t++) factor[t] = shares[terms[t].share] * kernel[terms[t].tap];
            memset(dots, 0, all_terms * LANES * sizeof(REAL));
            for (int64_t n = 0; n < c->batch; n++) {
                const int64_t plane = n * c->groups + channel;
                const REAL *g = grad_y + plane * size_out;
                if (grad_x) {
                    NAME(into_frame)(g, c->size_out, &b, g_framed);
                    NAME(sum_plane)(c->size_in, c->terms, mirrored, factor, g_framed, &b, 0, grad_x + plane * size_in, rows);
                }
                if (!grad_weight && !grad_shares) continue;
                NAME(into_frame)(x + plane * size_in, c->size_in, &f, framed);
                for (int64_t r = 0; r < rows_out; r++)
                    memcpy(g_rows + r * row, g + r * c->size_out[2], c->size_out[2] * sizeof(REAL));
                NAME(add_dots)(c->size_out, all_terms, offset, framed, &f, g_rows, dots);
            }
            if (grad_weight) memset(grad_weight + channel * c->taps, 0, c->taps * sizeof(REAL));
            for (int64_t t = 0; t < c->terms; t++) {
                REAL dot = 0;
                for (int64_t l = 0; l < LANES; l++) dot += dots[t * LANES + l];
                if (grad_weight) grad_weight[channel * c->taps + terms[t].tap] += shares[terms[t].share] * dot;
                if (grad_shares)
                    grad_shares[omp_get_thread_num() * c->shares + terms[t].share] += (double)dot * kernel[terms[t].tap];
            }
        }
    }
}

/* A switch, so that each number is known to the compiler. */
#ifndef BY_NUMBER
#define BY_NUMBER(number, function, ...)                                                                                 \
    switch (number) {                                                                                                    \
    case 1: function(1, __VA_ARGS__); break;                                                                             \
    case 2: function(2, __VA_ARGS__); break;                                                                             \
    case 3: function(3, __VA_ARGS__); break;                                                                             \
    case 4: function(4, __VA_ARGS__); break;                                                                             \
    case 5: function(5, __VA_ARGS__); break;                                                                             \
    case 6: function(6, __VA_ARGS__); break;                                                                             \
    case 7: function(7, __VA_ARGS__); break;                                                                             \
    case NUMBER: function(NUMBER, __VA_ARGS__); break;                                                                   \
    }
#endif

/* Copy a block of filled channels of a plane (size, channels) between the zeros of a frame (size, LANES). */
static void NAME(between_zeros)(const REAL *plane, const int64_t *size, int64_t channels, int64_t filled, const frame *f,
                                REAL *framed)
{
    for (int64_t row = 0; row < size[0] * size[1]; row++) {
        REAL *to = framed + (row * f->size[2] + f->start[2]) * LANES;
        if (filled == LANES)
            for (int64_t j = 0; j < size[2]; j++, to += LANES, plane += channels) STORE(VECTOR, to, LOAD(VECTOR, plane));
        else
            for (int64_t j = 0; j < size[2]; j++, to += LANES, plane += channels)
                memcpy(to, plane, filled * sizeof(REAL));
    }
}

/* factor (terms, LANES) = share * weight, for filled channels of weight (channels, taps) */
static void NAME(factors)(const conv *c, const term *terms, const REAL *shares, const REAL *weight, int64_t filled,
                          REAL *factor)
{
    memset(factor, 0, c->terms * LANES * sizeof(REAL));
    for (int64_t t = 0; t < c->terms; t++)
        for (int64_t l = 0; l < filled; l++)
            factor[t * LANES + l] = shares[terms[t].share] * weight[l * c->taps + terms[t].tap];
}

/* Positions that follow each other: to (number, channels) = start + sum over pieces of terms of factor * from moved. */
INLINE void NAME(sum_positions)(const int number, const int64_t *pieces, const int64_t *offset, const REAL *factor,
                                const REAL *from, VECTOR start, REAL *to, int64_t channels, int64_t filled)
{
    VECTOR sum[NUMBER];
#pragma GCC unroll 8
    for (int p = 0; p < number; p++) sum[p] = start;
    for (int64_t piece = 0; piece < pieces[0]; piece++)
        for (int64_t t = pieces[1 + 2 * piece]; t < pieces[2 + 2 * piece]; t++) {
            const VECTOR one = LOAD(VECTOR, factor + t * LANES);
            const REAL *shifted = from + offset[t];
#pragma GCC unroll 8
            for (int p = 0; p < number; p++) sum[p] += LOAD(VECTOR, shifted + p * LANES) * one;
        }
#pragma GCC unroll 8
    for (int p = 0; p < number; p++)
        if (filled == LANES)
            STORE(VECTOR, to + p * channels, sum[p]);
        else
            memcpy(to + p * channels, sum + p, filled * sizeof(REAL));
}

/* The same for a block of channels of a plane of that size. */
static void NAME(sum_block)(const int64_t *size, const int64_t *table, int64_t entries, const int64_t *offset,
                            const REAL *factor, const REAL *framed, const frame *f, VECTOR start, REAL *plane,
                            int64_t channels, int64_t filled)
{
    for (int64_t row = 0; row < size[0] * size[1]; row++, table += entries) {
        const REAL *from = framed + (row / size[1] * f->size[1] + row % size[1]) * f->size[2] * LANES;
        int64_t left = size[2], n;
        for (int64_t parts = parts_of(left, NUMBER); parts > 0; parts--) {
            n = parts_of(left, parts);
            BY_NUMBER(n, NAME(sum_positions), table, offset, factor, from, start, plane, channels, filled)
            left -= n, from += n * LANES, plane += n * channels;
        }
    }
}

static void NAME(forward_last)(const conv *c, const term *terms, const REAL *shares, const REAL *x, const REAL *weight,
                               const REAL *bias, REAL total, REAL *y, REAL *scratch, int64_t *integers, int64_t threads)
{
    const int64_t channels = c->groups, blocks = parts_of(channels, LANES), entries = entries_of(c, terms);
    const frame f = between_zeros(c, terms, 0);
    int64_t need[4], unused[4];
    space(c, terms, threads, LANES, need, unused);
#pragma omp parallel num_threads(threads)
    {
        int64_t *offset = integers + omp_get_thread_num() * need[2], *table = offset + c->terms, now = -1;
        REAL *factor = scratch + omp_get_thread_num() * need[1], *framed = factor + c->terms * LANES;
        for (int64_t t = 0; t < c->terms; t++) offset[t] = offset_of(&f, terms + t, 0) * LANES;
        find_terms(c, terms, 0, table);
        memset(framed, 0, volume(f.size) * LANES * sizeof(REAL));
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < blocks * c->batch; unit++) {
            const int64_t first = unit / c->batch * LANES, n = unit % c->batch, filled = smaller(LANES, channels - first);
            VECTOR start = {0};
            if (first != now) NAME(factors)(c, terms, shares, weight + first * c->taps, filled, factor);
            now = first;
            for (int64_t l = 0; l < filled && bias; l++) start[l] = bias[first + l] * total;
            NAME(between_zeros)(x + n * volume(c->size_in) * channels + first, c->size_in, channels, filled, &f, framed);
            NAME(sum_block)(c->size_out, table, entries, offset, factor, framed, &f, start,
                            y + n * volume(c->size_out) * channels + first, channels, filled);
        }
    }
}

/* Terms that read the same row: dots (number, LANES) += x moved by offset * g, for rows of positions. Steps are those from
   one row to the next. */
INLINE void NAME(add_dots_last)(const int number, int64_t rows, int64_t length, const int64_t *offset, const REAL *x,
                                int64_t x_step, const REAL *g, int64_t g_step, REAL *dots)
{
    const int chains = number > NUMBER / 2 ? 1 : 2; /* of sums that do not wait for each other */
    VECTOR sum[2][NUMBER];
#pragma GCC unroll 8
    for (int k = 0; k < number; k++) sum[0][k] = sum[1][k] = (VECTOR){0};
    for (int64_t row = 0; row < rows; row++, x += x_step, g += g_step) {
        int64_t p = 0;
        for (; p + chains <= length; p += chains)
            for (int chain = 0; chain < chains; chain++) {
                const VECTOR one = LOAD(VECTOR, g + (p + chain) * LANES);
#pragma GCC unroll 8
                for (int k = 0; k < number; k++) sum[chain][k] += LOAD(VECTOR, x + offset[k] + (p + chain) * LANES) * one;
            }
        for (; p < length; p++)
#pragma GCC unroll 8
            for (int k = 0; k < number; k++) sum[0][k] += LOAD(VECTOR, x + offset[k] + p * LANES) * LOAD(VECTOR, g + p * LANES);
    }
#pragma GCC unroll 8
    for (int k = 0; k < number; k++)
        STORE(VECTOR, dots + k * LANES, LOAD(VECTOR, dots + k * LANES) + (sum[0][k] + sum[1][k]));
}

/* The same for all terms, unless framed is null, and behind them the sum of g. */
static void NAME(all_dots_last)(const conv *c, const term *terms, const int64_t *offset, const REAL *framed, const frame *f,
                                const REAL *g_framed, const frame *b, REAL *dots)
{
    const int64_t *in = c->size_in, *out = c->size_out, x_step = f->size[2] * LANES, g_step = b->size[2] * LANES;
    const int64_t together = larger(1, SUMMED / larger(out[2], 1));
    for (int64_t both = 0, h_last; both < out[0] * out[1]; both = h_last) {
        const int64_t d = both / out[1], h_first = both;
        h_last = smaller(both + together, (d + 1) * out[1]);
        for (int64_t j = 0, length; j < out[2]; j += length) {
            length = smaller(SUMMED, out[2] - j);
            const REAL *x = framed + j * LANES, *g = g_framed + (b->start[2] + j) * LANES;
            for (int64_t t = 0, n; t < c->terms && framed; t += n) {
                const int64_t *shift = terms[t].shift, number = terms_of_row(c, terms, t);
                const int64_t first = larger(h_first - d * out[1], -shift[1]);
                const int64_t rows = smaller(h_last - d * out[1], in[1] - shift[1]) - first;
                n = parts_of(number, parts_of(number, NUMBER));
                if (d + shift[0] < 0 || d + shift[0] >= in[0] || rows <= 0) continue;
                BY_NUMBER(n, NAME(add_dots_last), rows, length, offset + t, x + (d * in[1] + first) * x_step, x_step,
                          g + (d * out[1] + first) * g_step, g_step, dots + t * LANES)
            }
            VECTOR sum = {0};
            for (int64_t row = h_first; row < h_last; row++)
                for (int64_t p = 0; p < length * LANES; p += LANES) sum += LOAD(VECTOR, g + row * g_step + p);
            STORE(VECTOR, dots + c->terms * LANES, LOAD(VECTOR, dots + c->terms * LANES) + sum);
        }
    }
}

/* sums (channels) of grad_y. */
static void NAME(backward_last)(const conv *c, const term *terms, const REAL *shares, const REAL *grad_y, const REAL *x,
                                const REAL *weight, REAL *grad_x, REAL *grad_weight, double *grad_shares, double *sums,
                                REAL *scratch, int64_t *integers, int64_t threads)
{
    const int64_t channels = c->groups, blocks = parts_of(channels, LANES), entries = entries_of(c, terms);
    const int64_t ranges = ranges_of_samples(c, threads, LANES), size = (c->terms + 1) * LANES;
    const frame f = between_zeros(c, terms, 0), b = between_zeros(c, terms, 1);
    int64_t need[4], unused[4];
    space(c, terms, threads, LANES, unused, need);
#pragma omp parallel num_threads(threads)
    {
        const int64_t me = omp_get_thread_num();
        int64_t *offset = integers + me * need[2], *mirrored = offset + c->terms, *table = mirrored + c->terms;
        REAL *factor = scratch + need[0] + me * need[1], *framed = factor + c->terms * LANES;
        REAL *g_framed = framed + volume(f.size) * LANES;
        for (int64_t t = 0; t < c->terms; t++) {
            offset[t] = offset_of(&f, terms + t, 0) * LANES;
            mirrored[t] = offset_of(&b, terms + t, 1) * LANES;
        }
        find_terms(c, terms, 1, table);
        memset(framed, 0, (volume(f.size) + volume(b.size)) * LANES * sizeof(REAL));
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < blocks * ranges; unit++) {
            const int64_t first = unit / ranges * LANES, range = unit % ranges, filled = smaller(LANES, channels - first);
            REAL *dots = scratch + unit * size;
            memset(dots, 0, size * sizeof(REAL));
            if (grad_x) NAME(factors)(c, terms, shares, weight + first * c->taps, filled, factor);
            for (int64_t n = c->batch * range / ranges; n < c->batch * (range + 1) / ranges; n++) {
                const int64_t in = n * volume(c->size_in) * channels + first, out = n * volume(c->size_out) * channels + first;
                const int need_x = grad_weight || grad_shares;
                NAME(between_zeros)(grad_y + out, c->size_out, channels, filled, &b, g_framed);
                if (grad_x)
                    NAME(sum_block)(c->size_in, table, entries, mirrored, factor, g_framed, &b, (VECTOR){0}, grad_x + in,
                                    channels, filled);
                if (need_x) NAME(between_zeros)(x + in, c->size_in, channels, filled, &f, framed);
                NAME(all_dots_last)(c, terms, offset, need_x ? framed : 0, &f, g_framed, &b, dots);
            }
        }
#pragma omp for schedule(static)
        for (int64_t channel = 0; channel < channels; channel++) {
            const REAL *dots = scratch + channel / LANES * ranges * size + channel % LANES;
            if (grad_weight) memset(grad_weight + channel * c->taps, 0, c->taps * sizeof(REAL));
            for (int64_t t = 0; t <= c->terms; t++) {
                REAL dot = 0;
                for (int64_t range = 0; range < ranges; range++) dot += dots[range * size + t * LANES];
                if (t == c->terms) {
                    sums[channel] = dot;
                    break;
                }
                const int64_t share = terms[t].share, at = channel * c->taps + terms[t].tap;
                if (grad_weight) grad_weight[at] += shares[share] * dot;
                if (grad_shares) grad_shares[me * c->shares + share] += (double)dot * weight[at];
            }
        }
    }
}

/* Before the first tile: zeros beside the rows, and the shares of all terms. */
static void NAME(clear_lines)(const conv *c, const lines *l, const term *terms, const REAL *shares, REAL *of_terms, REAL *slots)
{
    for (int64_t t = 0; t < c->terms; t++) of_terms[t] = shares[terms[t].share];
    memset(slots, 0, (copies_of(l, smaller(c->channel_in, DEPTH), l->slots) + LANES) * sizeof(REAL));
}

static void NAME(forward_products)(const conv *c, const term *terms, const REAL *shares, const REAL *x, const REAL *weight,
                                   const REAL *bias, REAL total, REAL *y, REAL *scratch, int64_t *integers,
                                   int64_t threads)
{
    const int64_t in = c->channel_in, out = c->channel_out, out_rows = up(out, ROWS);
    const int64_t size_in = volume(c->size_in), size_out = volume(c->size_out), stride = c->stride[2];
    const int64_t positions = c->batch * size_out, tile = tile_size(positions, threads, LANES);
    const int64_t tiles = parts_of(positions, tile);
    const int lined = in_lines(c);
    const lines l = lined ? lines_of(c, terms, LANES) : (lines){0};
    const int64_t depth = lined ? DEPTH : in;
    int64_t need[4], unused[4];
    space(c, terms, threads, LANES, need, unused);
#pragma omp parallel num_threads(threads)
    {
        REAL *packed = scratch, *mixed = scratch + need[0] + omp_get_thread_num() * need[1];
        REAL *sum = mixed + up(in, ROWS) * TILE + LANES, *of_terms = sum + out_rows * TILE, *slots = of_terms + c->terms;
        int64_t *counts = integers + omp_get_thread_num() * need[2];
        const run *runs = (const run *)(counts + c->terms_per_tap);
        reading r = reading_in(c, &l, integers + omp_get_thread_num() * need[2]);
        if (lined) NAME(clear_lines)(c, &l, terms, shares, of_terms, slots);
        NAME(pack)(c, weight, out, in * c->taps, in, c->taps, depth, packed);
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < c->groups * tiles; unit++) {
            const int64_t g = unit / tiles, first = unit % tiles * tile, last = smaller(first + tile, positions);
            const int64_t width = up(last - first, LANES);
            const REAL *source = x + g * in * size_in;
            int add = 0;
            if (lined) find_lines(c, &l, terms, first, last, &r);
            for (int64_t i_first = 0; i_first < in; i_first += depth) {
                const int64_t channels = smaller(depth, in - i_first);
                if (lined) NAME(copy_lines)(c, &l, &r, (g * in + i_first) * size_in, channels, (REAL *)x, slots, 0);
                for (int64_t t = 0, number; t < c->terms; t += number) {
                    number = terms_of_tap(c, terms, t);
                    if (lined ? !is_used(&r, t, number) : !find_all(c, terms + t, number, first, last, counts)) continue;
                    for (int64_t i = 0; i < channels; i++) {
                        REAL *row = mixed + i * width;
                        if (lined) {
                            NAME(mix_lines)(number, &r, r.offset + t, c->terms, of_terms + t, slots + i * r.slots * l.size, row);
                            continue;
                        }
                        memset(row, 0, width * sizeof(REAL));
                        for (int64_t n = 0; n < number; n++) {
                            const run *piece = runs + n * runs_per_term(c);
                            const REAL share = shares[terms[t + n].share];
                            for (int64_t k = 0; k < counts[n]; k++)
                                NAME(mix_run)(row + piece[k].to, source + i * size_in + piece[k].from, share,
                                              piece[k].length, stride);
                        }
                    }
                    const REAL *kernel = packed + (g * c->taps + terms[t].tap) * out_rows * in + i_first * out_rows;
                    for (int64_t o = 0; o < out_rows; o += ROWS)
                        NAME(panel_product)(width, channels, kernel + o * channels, mixed, sum + o * width, add);
                    add = 1;
                }
            }
            if (!add) memset(sum, 0, out_rows * width * sizeof(REAL));
            for (int64_t q = first, length; q < last; q += length) {
                length = smaller(size_out - q % size_out, last - q);
                REAL *to = y + (q / size_out * c->groups + g) * out * size_out + q % size_out;
                for (int64_t o = 0; o < out; o++) {
                    const REAL *from = sum + o * width + q - first, start = bias ? bias[g * out + o] * total : 0;
                    for (int64_t j = 0; j < length; j++) to[o * size_out + j] = from[j] + start;
                }
            }
        }
    }
}

/* grad_shares (threads, shares) is zero before. Without grad_weight there must be grad_x or grad_shares. */
static void NAME(backward_products)(const conv *c, const term *terms, const REAL *shares, const REAL *grad_y, const REAL *x,
                                    const REAL *weight, REAL *grad_x, REAL *grad_weight, double *grad_shares,
                                    REAL *scratch, int64_t *integers, int64_t threads)
{
    const int64_t in = c->channel_in, out = c->channel_out, in_rows = up(in, ROWS), out_wide = up(out, LANES);
    const int64_t size_in = volume(c->size_in), size_out = volume(c->size_out), stride = c->stride[2];
    const int64_t kernel_size = in_rows * out_wide, all_kernels = up(c->groups * c->taps * kernel_size, ALIGNED);
    const int need_u = grad_x || grad_shares, lined = in_lines(c);
    const lines l = lined ? lines_of(c, terms, LANES) : (lines){0};
    int64_t need[4], unused[4], ranges, blocks;
    space(c, terms, threads, LANES, unused, need);
    cut(c, threads, LANES, &ranges, &blocks);
    const int64_t block = up(parts_of(in, blocks), ROWS);
    blocks = parts_of(in, block);
    /* (groups, taps, channel_in, channel_out): each block has rows of its own, but ranges share them. */
    REAL *packed = scratch, *first_kernels = scratch + up(c->groups * c->taps * in_rows * out, ALIGNED);
#pragma omp parallel num_threads(threads)
    {
        const int64_t me = omp_get_thread_num(), copies = ranges > 1 ? omp_get_num_threads() : 1;
        REAL *grad_kernels = first_kernels + (ranges > 1 ? me : 0) * all_kernels;
        REAL *mixed = scratch + need[0] + me * need[1], *u = mixed + in_rows * TILE + LANES; /* (channel_in, positions) */
        REAL *g_tile = u + in_rows * TILE, *g_columns = g_tile + out * TILE;         /* and its transpose */
        REAL *dots = g_columns + out_wide * TILE, *of_terms = dots + c->terms_per_tap * LANES;
        REAL *slots = of_terms + c->terms, *grads = slots + copies_of(&l, smaller(in, DEPTH), l.slots) + LANES;
        reading r = reading_in(c, &l, integers + me * need[2]);
        if (lined) NAME(clear_lines)(c, &l, terms, shares, of_terms, slots);
        int64_t *counts = integers + me * need[2];
        const run *runs = (const run *)(counts + c->terms_per_tap);
        if (need_u) NAME(pack)(c, weight, in, c->taps, out, in * c->taps, out, packed);
        if (grad_weight) memset(g_columns, 0, out_wide * TILE * sizeof(REAL));
        if (grad_weight && ranges > 1) memset(grad_kernels, 0, all_kernels * sizeof(REAL));
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < ranges * c->groups * blocks; unit++) {
            const int64_t g = unit / blocks % c->groups, range = unit / blocks / c->groups;
            const int64_t i_first = unit % blocks * block, rows = smaller(block, in - i_first);
            const int64_t n_first = c->batch * range / ranges, n_last = c->batch * (range + 1) / ranges;
            const int64_t offset = (g * in + i_first) * size_in;
            for (int64_t k = 0; k < c->taps && grad_weight && ranges == 1; k++)
                memset(grad_kernels + (g * c->taps + k) * kernel_size + i_first * out_wide, 0,
                       up(rows, ROWS) * out_wide * sizeof(REAL));
            if (grad_x)
                for (int64_t n = n_first; n < n_last; n++)
                    memset(grad_x + offset + n * c->groups * in * size_in, 0, rows * size_in * sizeof(REAL));
            const int64_t end = n_last * size_out, tile = tile_size(end - n_first * size_out, 1, LANES);
            for (int64_t first = n_first * size_out; first < end; first += tile) {
                const int64_t last = smaller(first + tile, end), width = up(last - first, LANES);
                for (int64_t q = first, length; q < last; q += length) {
                    length = smaller(size_out - q % size_out, last - q);
                    const REAL *from = grad_y + (q / size_out * c->groups + g) * out * size_out + q % size_out;
                    for (int64_t o = 0; o < out; o++)
                        memcpy(g_tile + o * width + q - first, from + o * size_out, length * sizeof(REAL));
                }
                for (int64_t o = 0; o < out; o++)
                    for (int64_t j = last - first; j < width; j++) g_tile[o * width + j] = 0;
                if (grad_weight)
                    for (int64_t o = 0; o < out; o += ROWS)
                        for (int64_t j = 0; j < last - first; j++)
                            for (int64_t r = o; r < smaller(o + ROWS, out); r++)
                                g_columns[j * out_wide + r] = g_tile[r * width + j];
                if (lined) find_lines(c, &l, terms, first, last, &r);
                const int64_t depth = lined ? DEPTH : rows;
                for (int64_t i_part = 0; i_part < rows; i_part += depth) {
                    const int64_t channels = smaller(depth, rows - i_part), from_part = offset + i_part * size_in;
                    if (lined) {
                        NAME(copy_lines)(c, &l, &r, from_part, channels, (REAL *)x, slots, 0);
                        if (grad_x) memset(grads, 0, (copies_of(&l, channels, r.slots) + LANES) * sizeof(REAL));
                    }
                    for (int64_t t = 0, number; t < c->terms; t += number) {
                        number = terms_of_tap(c, terms, t);
                        if (lined ? !is_used(&r, t, number) : !find_all(c, terms + t, number, first, last, counts)) continue;
                        const int64_t kernel = g * c->taps + terms[t].tap;
                        if (need_u)
                            for (int64_t i = 0; i < channels; i += ROWS)
                                NAME(panel_product)(width, out, packed + (kernel * in_rows + i_first + i_part + i) * out,
                                                    g_tile, u + i * width, 0);
                        memset(dots, 0, number * LANES * sizeof(REAL));
                        for (int64_t i = 0; i < channels; i++) {
                            REAL *row = grad_weight || lined ? mixed + i * width : 0;
                            if (lined) {
                                const REAL *of_u = u + i * width;
                                if (need_u)
                                    NAME(meet_lines)(number, &r, r.offset + t, c->terms, of_terms + t, slots + i * r.slots * l.size,
                                                     row, of_u, dots);
                                else
                                    NAME(mix_lines)(number, &r, r.offset + t, c->terms, of_terms + t, slots + i * r.slots * l.size,
                                                    row);
                                for (int64_t n = t; n < t + number && grad_x; n++)
                                    NAME(add_line)(&r, r.offset + n, c->terms, of_terms[n], of_u, grads + i * r.slots * l.size);
                                continue;
                            }
                            if (row) memset(row, 0, width * sizeof(REAL));
                            for (int64_t n = 0; n < number; n++) {
                                const run *piece = runs + n * runs_per_term(c);
                                const REAL share = shares[terms[t + n].share];
                                for (int64_t k = 0; k < counts[n]; k++) {
                                    const int64_t from = from_part + i * size_in + piece[k].from, to = piece[k].to;
                                    if (need_u)
                                        NAME(meet_run)(row ? row + to : 0, x + from, u + i * width + to,
                                                       grad_x ? grad_x + from : 0, dots + n * LANES, share,
                                                       piece[k].length, stride);
                                    else
                                        NAME(mix_run)(row + to, x + from, share, piece[k].length, stride);
                                }
                            }
                        }
                        for (int64_t n = 0; n < number * LANES && grad_shares; n++)
                            grad_shares[me * c->shares + terms[t + n / LANES].share] += dots[n];
                        if (grad_weight)
                            for (int64_t i = 0; i < channels; i += ROWS)
                                NAME(outer_product)(out_wide, last - first, mixed + i * width, width, g_columns,
                                                    grad_kernels + kernel * kernel_size + (i_first + i_part + i) * out_wide);
                    }
                    if (lined && grad_x) NAME(copy_lines)(c, &l, &r, from_part, channels, grad_x, grads, 1);
                }
            }
        }
        if (grad_weight) {
#pragma omp for schedule(static)
            for (int64_t column = 0; column < c->groups * out_wide; column += LANES) {
                const int64_t g = column / out_wide, o = column % out_wide;
                for (int64_t i = 0; i < in; i++)
                    for (int64_t k = 0; k < c->taps; k++) {
                        const REAL *from = first_kernels + (g * c->taps + k) * kernel_size + i * out_wide + o;
                        __builtin_prefetch(from + 8 * out_wide);
                        VECTOR sum = LOAD(VECTOR, from);
                        for (int64_t copy = 1; copy < copies; copy++) sum += LOAD(VECTOR, from + copy * all_kernels);
                        REAL *to = grad_weight + ((g * out + o) * in + i) * c->taps + k;
                        for (int64_t l = 0; l < smaller(LANES, out - o); l++) to[l * in * c->taps] = sum[l];
                    }
            }
        }
    }
}

/* Small planes of many channels: what a tap reads for a position is a row of channels, in vectors of these. The positions for
   which all terms of a tap read padding are left out, in all three products. */

/* to (positions, row) = the transpose of from (channels, positions), zeros behind the channels. */
static void NAME(rows_from)(const REAL *from, int64_t channels, int64_t positions, int64_t step, REAL *to, int64_t row)
{
    for (int64_t first = 0; first < row; first += LANES) {
        const int64_t filled = smaller(LANES, channels - first);
        for (int64_t p = 0; p < positions; p++) {
            REAL *one = to + p * row + first;
            if (filled == LANES)
                for (int64_t l = 0; l < LANES; l++) one[l] = from[(first + l) * step + p];
            else
                for (int64_t l = 0; l < LANES; l++) one[l] = l < filled ? from[(first + l) * step + p] : 0;
        }
    }
}

/* c[r] (columns vectors) = or += a[r] (depth) b (depth, columns vectors), for ROWS rows r. */
INLINE void NAME(rows_product)(const int columns, int64_t depth, const REAL *const *a, const REAL *b, REAL *const *c, int add)
{
    VECTOR sum[ROWS][COLUMNS];
    const REAL *row[ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
        row[r] = a[r];
#pragma GCC unroll 3
        for (int v = 0; v < columns; v++) {
            sum[r][v] = (VECTOR){0};
            if (add) __builtin_prefetch(c[r] + v * LANES, 1);
        }
    }
    for (int64_t d = 0; d < depth; d++, b += columns * LANES) {
        VECTOR x[COLUMNS];
#pragma GCC unroll 3
        for (int v = 0; v < columns; v++) x[v] = LOAD(VECTOR, b + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const REAL w = row[r][d];
#pragma GCC unroll 3
            for (int v = 0; v < columns; v++) sum[r][v] += x[v] * w;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 3
        for (int v = 0; v < columns; v++) {
            if (add) sum[r][v] += LOAD(VECTOR, c[r] + v * LANES);
            STORE(VECTOR, c[r] + v * LANES, sum[r][v]);
        }
}

/* For all positions of a list: sums[c_at[v]] = or += rows[a_at[v]] kernel (depth, columns vectors); no list: 0, 1, 2, ... */
INLINE void NAME(list_product)(const int columns, int64_t number, int64_t depth, const REAL *rows, int64_t row,
                               const int64_t *a_at, const REAL *kernel, REAL *sums, int64_t sums_row, const int64_t *c_at,
                               REAL *unused, int add)
{
    for (int64_t v = 0; v < number; v += ROWS) {
        const REAL *a[ROWS];
        REAL *c[ROWS];
        for (int64_t r = 0; r < ROWS; r++) {
            const int64_t i = smaller(v + r, number - 1);
            a[r] = rows + (a_at ? a_at[i] : i) * row;
            c[r] = v + r < number ? sums + (c_at ? c_at[i] : i) * sums_row : unused;
        }
        NAME(rows_product)(columns, depth, a, kernel, c, add);
    }
}

/* c (ROWS, columns vectors) = sum over a list of positions of g[at[v]] (ROWS) * mixed[v] (columns vectors). */
INLINE void NAME(position_product)(const int columns, int64_t number, const int64_t *at, const REAL *g, int64_t g_row,
                                   const REAL *mixed, REAL *c)
{
    VECTOR sum[ROWS][COLUMNS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 3
        for (int v = 0; v < columns; v++) sum[r][v] = (VECTOR){0};
    for (int64_t n = 0; n < number; n++, mixed += columns * LANES) {
        const REAL *a = g + at[n] * g_row;
        VECTOR x[COLUMNS];
#pragma GCC unroll 3
        for (int v = 0; v < columns; v++) x[v] = LOAD(VECTOR, mixed + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const REAL w = a[r];
#pragma GCC unroll 3
            for (int v = 0; v < columns; v++) sum[r][v] += x[v] * w;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 3
        for (int v = 0; v < columns; v++) STORE(VECTOR, c + (r * columns + v) * LANES, sum[r][v]);
}

#ifndef BY_COLUMNS
#define BY_COLUMNS(columns, function, ...)                                                                               \
    switch (columns) {                                                                                                   \
    case 1: function(1, __VA_ARGS__); break;                                                                             \
    case 2: function(2, __VA_ARGS__); break;                                                                             \
    case 3: function(3, __VA_ARGS__); break;                                                                             \
    }
#endif

/* Per block of channels and panel of columns vectors of outputs: packed (groups, taps, blocks, panels, channels, columns). */
static void NAME(pack_rows)(const conv *c, const small *s, const REAL *weight, REAL *packed)
{
    const int64_t in = c->channel_in, out = c->channel_out, taps = c->taps, wide = up(out, LANES), vectors = wide / LANES;
    const int64_t panels = s->ranges * s->panels;
#pragma omp for schedule(static)
    for (int64_t both = 0; both < c->groups * panels; both++) {
        const int64_t g = both / panels, p = both % panels, first = panel_start(s, vectors, p), last = panel_start(s, vectors, p + 1);
        for (int64_t v = first; v < last; v++)
            for (int64_t i = 0; i < in; i++) {
                const int64_t start = i / s->depth * s->depth, channels = smaller(s->depth, in - start);
                const int64_t filled = smaller(LANES, out - v * LANES);
                const REAL *from = weight + ((g * out + v * LANES) * in + i) * taps;
                REAL *to = packed + (g * taps * in + start) * wide + first * LANES * channels +
                           ((i - start) * (last - first) + v - first) * LANES;
                for (int64_t l = 0; l < filled; l++) __builtin_prefetch(from + (l * in + 8) * taps);
                for (int64_t k = 0; k < taps; k++, to += in * wide)
                    for (int64_t l = 0; l < LANES; l++) to[l] = l < filled ? from[l * in * taps + k] : 0;
            }
    }
}

static void NAME(forward_small)(const conv *c, const term *terms, const REAL *shares, const REAL *x, const REAL *weight,
                                const REAL *bias, REAL total, REAL *y, REAL *scratch, int64_t *integers, int64_t threads)
{
    const int64_t in = c->channel_in, out = c->channel_out, wide = up(out, LANES), vectors = wide / LANES;
    const int64_t size_in = volume(c->size_in), size_out = volume(c->size_out);
    const small s = small_of(c, threads, vectors);
    int64_t need[4], unused[4];
    space(c, terms, threads, LANES, need, unused);
#pragma omp parallel num_threads(threads)
    {
        const int64_t row = up(s.depth, LANES), me = omp_get_thread_num();
        REAL *rows = scratch + need[0] + me * need[1], *mixed = rows + (s.rows + 1) * row;
        REAL *sums = mixed + s.positions * row, *nowhere = sums + s.positions * wide;
        const reads r = find_reads(c, &s, terms, integers + me * need[2]);
        memset(rows + s.rows * row, 0, row * sizeof(REAL));
        NAME(pack_rows)(c, &s, weight, scratch);
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < c->groups * s.tiles * s.ranges; unit++) {
            const int64_t range = unit % s.ranges, tile = unit / s.ranges % s.tiles, g = unit / s.ranges / s.tiles;
            const int64_t n_first = tile * s.samples, samples = smaller(s.samples, c->batch - n_first);
            const int64_t p_first = range * s.panels, first = panel_start(&s, vectors, p_first) * LANES;
            const int64_t last = panel_start(&s, vectors, p_first + s.panels) * LANES;
            for (int64_t q = 0; q < samples * size_out; q++)
                for (int64_t o = first; o < last; o++) sums[q * wide + o] = bias && o < out ? bias[g * out + o] * total : 0;
            for (int64_t i_first = 0; i_first < in; i_first += s.depth) {
                const int64_t channels = smaller(s.depth, in - i_first);
                for (int64_t n = 0; n < samples; n++)
                    NAME(rows_from)(x + (((n_first + n) * c->groups + g) * in + i_first) * size_in, channels, size_in, size_in,
                                    rows + n * size_in * row, row);
                for (int64_t t = 0, number; t < c->terms; t += number) {
                    const int64_t k = terms[t].tap, positions = r.number[k] * samples, *at = r.at + k * s.positions;
                    number = terms_of_tap(c, terms, t);
                    for (int64_t v = 0; v < positions; v++)
                        for (int64_t j = 0; j < channels; j += LANES) {
                            VECTOR sum = {0};
                            for (int64_t n = t; n < t + number; n++)
                                sum += LOAD(VECTOR, rows + r.from[n * s.positions + v] * row + j) * shares[terms[n].share];
                            STORE(VECTOR, mixed + v * row + j, sum);
                        }
                    for (int64_t p = p_first; p < p_first + s.panels; p++) {
                        const int64_t column = panel_start(&s, vectors, p), columns = panel_start(&s, vectors, p + 1) - column;
                        const REAL *kernel = scratch + ((g * c->taps + k) * in + i_first) * wide + column * LANES * channels;
                        BY_COLUMNS(columns, NAME(list_product), positions, channels, mixed, row, 0, kernel,
                                   sums + column * LANES, wide, at, nowhere, 1)
                    }
                }
            }
            for (int64_t n = 0; n < samples; n++)
                for (int64_t o = first; o < smaller(last, out); o++) {
                    REAL *to = y + (((n_first + n) * c->groups + g) * out + o) * size_out;
                    for (int64_t j = 0; j < size_out; j++) to[j] = sums[(n * size_out + j) * wide + o];
                }
        }
    }
}

/* For a panel of channels: packed (taps, channel_out, row) of the weight (channel_out, channel_in, taps) of a group. */
static void NAME(pack_panel)(const conv *c, const REAL *weight, int64_t first, int64_t row, REAL *packed)
{
    const int64_t filled = smaller(row, c->channel_in - first), taps = c->taps, out = c->channel_out;
    for (int64_t o = 0; o < out; o++) {
        const REAL *from = weight + (o * c->channel_in + first) * taps;
        for (int64_t j = 0; j < filled * taps; j += 64 / sizeof(REAL)) __builtin_prefetch(from + c->channel_in * taps + j);
        for (int64_t k = 0; k < taps; k++) {
            REAL *to = packed + (k * out + o) * row;
            for (int64_t l = 0; l < filled; l++) to[l] = from[l * taps + k];
            for (int64_t l = filled; l < row; l++) to[l] = 0;
        }
    }
}

/* grad_weight (channel_out, channel_in, taps) of a group, for a panel of channels = or += the products of g and mixed. */
static void NAME(small_grad_weight)(const conv *c, const small *s, const reads *r, const REAL *g, int64_t wide,
                                    const REAL *mixed, int64_t samples, int64_t first, int64_t columns, REAL *part,
                                    REAL *grad_weight, int add)
{
    const int64_t taps = c->taps, row = columns * LANES, filled = smaller(row, c->channel_in - first);
    for (int64_t o = 0; o < c->channel_out; o += ROWS) {
        for (int64_t n = 0; n < smaller(ROWS, c->channel_out - o); n++)
            for (int64_t j = 0; j < filled * taps; j += 64 / sizeof(REAL))
                __builtin_prefetch(grad_weight + ((o + n) * c->channel_in + first) * taps + j, 1, 2);
        for (int64_t k = 0; k < taps; k++)
            BY_COLUMNS(columns, NAME(position_product), r->number[k] * samples, r->at + k * s->positions, g + o, wide,
                       mixed + k * s->positions * row, part + k * ROWS * row)
        for (int64_t n = 0; n < smaller(ROWS, c->channel_out - o); n++) {
            REAL *to = grad_weight + ((o + n) * c->channel_in + first) * taps;
            for (int64_t l = 0; l < filled; l++, to += taps)
                for (int64_t k = 0; k < taps; k++) to[k] = part[(k * ROWS + n) * row + l] + (add ? to[k] : 0);
        }
    }
}

/* As backward_products(). */
static void NAME(backward_small)(const conv *c, const term *terms, const REAL *shares, const REAL *grad_y, const REAL *x,
                                 const REAL *weight, REAL *grad_x, REAL *grad_weight, double *grad_shares, REAL *scratch,
                                 int64_t *integers, int64_t threads)
{
    const int64_t in = c->channel_in, out = c->channel_out, wide = up(out, larger(LANES, ROWS)), vectors = parts_of(in, LANES);
    const int64_t size_in = volume(c->size_in), size_out = volume(c->size_out), all = c->batch * size_out;
    const int need_u = grad_x || grad_shares;
    small s = small_of(c, threads, vectors);
    int64_t need[4], unused[4];
    space(c, terms, threads, LANES, unused, need);
    by_channels(c, threads, vectors, &s);
#pragma omp parallel num_threads(threads)
    {
        const int64_t most = COLUMNS * LANES, me = omp_get_thread_num();
        REAL *packed = scratch + need[0] + me * need[1], *rows = packed + c->taps * out * most;
        REAL *grads = rows + (s.rows + 1) * most, *u = grads + (s.rows + 1) * most, *nowhere = u + s.positions * most;
        REAL *mixed = nowhere + most, *part = mixed + c->taps * s.positions * most;
        const reads r = find_reads(c, &s, terms, integers + me * need[2]);
#pragma omp for schedule(static)
        for (int64_t both = 0; both < c->groups * c->batch; both++) /* g of a group: (batch, positions, wide) */
            NAME(rows_from)(grad_y + both * out * size_out, out, size_out, size_out,
                            scratch + (both % c->groups * c->batch + both / c->groups) * size_out * wide, wide);
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < c->groups * s.ranges * s.panels; unit++) {
            const int64_t g = unit / (s.ranges * s.panels), p = unit % (s.ranges * s.panels);
            const int64_t column = panel_start(&s, vectors, p), columns = panel_start(&s, vectors, p + 1) - column;
            const int64_t first = column * LANES, row = columns * LANES, filled = smaller(row, in - first);
            if (need_u) NAME(pack_panel)(c, weight + g * out * in * c->taps, first, row, packed);
            for (int64_t tile = 0; tile < s.tiles; tile++) {
                const int64_t n_first = tile * s.samples, samples = smaller(s.samples, c->batch - n_first);
                const int64_t offset = ((n_first * c->groups + g) * in + first) * size_in, step = c->groups * in * size_in;
                const REAL *g_rows = scratch + (g * all + n_first * size_out) * wide;
                for (int64_t n = 0; n < samples; n++)
                    NAME(rows_from)(x + offset + n * step, filled, size_in, size_in, rows + n * size_in * row, row);
                memset(rows + s.rows * row, 0, row * sizeof(REAL));
                if (grad_x) memset(grads, 0, samples * size_in * row * sizeof(REAL));
                for (int64_t t = 0, number; t < c->terms; t += number) {
                    const int64_t k = terms[t].tap, positions = r.number[k] * samples;
                    number = terms_of_tap(c, terms, t);
                    if (need_u)
                        BY_COLUMNS(columns, NAME(list_product), positions, out, g_rows, wide, r.at + k * s.positions,
                                   packed + k * out * row, u, row, 0, nowhere, 0)
                    for (int64_t n = t; n < t + number; n++) {
                        const int64_t *from = r.from + n * s.positions;
                        const REAL share = shares[terms[n].share];
                        VECTOR dot = {0};
                        for (int64_t v = 0; v < positions; v++) {
                            const REAL *of_x = rows + from[v] * row, *of_u = u + v * row;
                            REAL *to = mixed + (k * s.positions + v) * row, *of_grad = grads + from[v] * row;
                            for (int64_t j = 0; j < row; j += LANES) {
                                const VECTOR one = LOAD(VECTOR, of_x + j);
                                if (grad_weight) STORE(VECTOR, to + j, one * share + (n > t ? LOAD(VECTOR, to + j) : (VECTOR){0}));
                                if (need_u) dot += one * LOAD(VECTOR, of_u + j);
                                if (grad_x) STORE(VECTOR, of_grad + j, LOAD(VECTOR, of_grad + j) + LOAD(VECTOR, of_u + j) * share);
                            }
                        }
                        for (int64_t l = 0; l < LANES && grad_shares; l++)
                            grad_shares[me * c->shares + terms[n].share] += dot[l];
                    }
                }
                if (grad_weight)
                    NAME(small_grad_weight)(c, &s, &r, g_rows, wide, mixed, samples, first, columns, part,
                                            grad_weight + g * out * in * c->taps, tile > 0);
                for (int64_t i = 0; i < filled && grad_x; i++)
                    for (int64_t n = 0; n < samples; n++) {
                        REAL *to = grad_x + offset + n * step + i * size_in;
                        for (int64_t j = 0; j < size_in; j++) to[j] = grads[(n * size_in + j) * row + i];
                    }
            }
        }
    }
}

/* shares: of each, the sum of the probabilities of its branches. members: how many these are, and which, share by share.
   Returns the sum of all probabilities. */
static double NAME(sum_shares)(const conv *c, const int64_t *members, const double *probability, REAL *shares)
{
    double total = 0;
    for (int64_t b = 0; b < c->branches; b++) total += probability[b];
    for (int64_t s = 0; s < c->shares; s++, members += 1 + members[0]) {
        double sum = 0;
        for (int64_t m = 1; m <= members[0]; m++) sum += probability[members[m]];
        shares[s] = (REAL)sum;
    }
    return total;
}

/* sums (groups, channel_out) of grad_y, in parts of a row that are short enough to be summed up in low precision. */
static void NAME(sum_channels)(const conv *c, const REAL *grad_y, double *sums, int64_t threads)
{
    const int64_t size = volume(c->size_out), channels = c->groups * c->channel_out;
#pragma omp parallel for schedule(static) num_threads(threads) if (c->batch * channels * size > 1 << 14)
    for (int64_t channel = 0; channel < channels; channel++) {
        sums[channel] = 0;
        for (int64_t n = 0; n < c->batch; n++) {
            const REAL *from = grad_y + (n * channels + channel) * size;
            for (int64_t first = 0, last; first < size; first = last) {
                VECTOR part = {0};
                double rest = 0;
                int64_t j = first;
                last = smaller(first + 16 * LANES, size);
                for (; j + LANES <= last; j += LANES) part += LOAD(VECTOR, from + j);
                for (; j < last; j++) rest += from[j];
                for (int64_t l = 0; l < LANES; l++) rest += part[l];
                sums[channel] += rest;
            }
        }
    }
}

/* x (batch, groups, channel_in, *size_in), weight (groups, channel_out, channel_in, taps), bias (groups, channel_out) or null,
   probability (branches) -> y (batch, groups, channel_out, *size_out). terms lie in the order of their taps. If c->last is set:
   x (batch, *size_in, groups), y (batch, *size_out, groups), and terms in the order of the rows that they read. */
void NAME(forward)(const conv *c, const term *terms, const int64_t *members, const double *probability, const REAL *x,
                   const REAL *weight, const REAL *bias, REAL *y, REAL *scratch, int64_t *integers, double *doubles,
                   int64_t threads)
{
    REAL *shares = (REAL *)doubles;
    const REAL total = NAME(sum_shares)(c, members, probability, shares);
    if (c->last)
        NAME(forward_last)(c, terms, shares, x, weight, bias, total, y, scratch, integers, threads);
    else if (is_depthwise(c))
        NAME(forward_depthwise)(c, terms, shares, x, weight, bias, total, y, scratch, integers, threads);
    else if (is_small(c, threads, LANES))
        NAME(forward_small)(c, terms, shares, x, weight, bias, total, y, scratch, integers, threads);
    else
        NAME(forward_products)(c, terms, shares, x, weight, bias, total, y, scratch, integers, threads);
}

/* The gradient grad_y of y -> those of x, weight, bias and the probabilities, each unless null; or, if there is a temperature,
   of the weights of which the probabilities are the softmax. wide: grad_probability holds doubles, else floats. */
void NAME(backward)(const conv *c, const term *terms, const int64_t *members, const double *probability, double temperature,
                    int64_t wide, const REAL *grad_y, const REAL *x, const REAL *weight, const REAL *bias, REAL *grad_x,
                    REAL *grad_weight, REAL *grad_bias, void *grad_probability, REAL *scratch, int64_t *integers,
                    double *doubles, int64_t threads)
{
    const int64_t channels = c->groups * c->channel_out, all_shares = threads * c->shares;
    double *grad_shares = grad_probability ? doubles : 0, *sums = doubles + all_shares, *grad = sums + channels;
    REAL *shares = (REAL *)(grad + c->branches);
    const REAL total = NAME(sum_shares)(c, members, probability, shares);
    double of_bias = 0;
    memset(doubles, 0, all_shares * sizeof(double));
    if (c->last)
        NAME(backward_last)(c, terms, shares, grad_y, x, weight, grad_x, grad_weight, grad_shares, sums, scratch, integers,
                            threads);
    if (bias && (grad_bias || grad_probability)) {
        if (!c->last) NAME(sum_channels)(c, grad_y, sums, threads);
        for (int64_t o = 0; o < channels; o++) {
            of_bias += sums[o] * bias[o];
            if (grad_bias) grad_bias[o] = (REAL)sums[o] * total;
        }
    }
    if (!c->last && (grad_x || grad_weight || grad_shares)) {
        if (is_depthwise(c))
            NAME(backward_depthwise)(c, terms, shares, grad_y, x, weight, grad_x, grad_weight, grad_shares, scratch,
                                     integers, threads);
        else if (is_small(c, threads, LANES))
            NAME(backward_small)(c, terms, shares, grad_y, x, weight, grad_x, grad_weight, grad_shares, scratch, integers,
                                 threads);
        else
            NAME(backward_products)(c, terms, shares, grad_y, x, weight, grad_x, grad_weight, grad_shares, scratch,
                                    integers, threads);
    }
    if (!grad_probability) return;
    add_up(c, members, probability, temperature, threads, grad_shares, of_bias, grad);
    for (int64_t b = 0; b < c->branches; b++)
        if (wide)
            ((double *)grad_probability)[b] = grad[b];
        else
            ((float *)grad_probability)[b] = (float)grad[b];
}

#undef VECTOR
#undef HALF
#undef LANES
#undef LOAD
#undef STORE

#endif
