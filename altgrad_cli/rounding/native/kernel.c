/* Rounding and counting in one pass: the arithmetic of rounding/kernel.py, rounding/stochastic.py and
   rounding/statistics.py, bit for bit. What the names of a plan mean stands in rounding/constants.py.
   At the end: the largest magnitudes of tiles, from which the scales of blocks are made.

   A tensor is cut into slices, a slice into one chunk a thread, a chunk into blocks that stay in the first
   cache; each stage of the rounding is a short loop over a block, which the compiler turns into vectors.

   Slices and chunks are those of torch's own sums, and so is the order in which a chunk is summed: the sums
   of a row have torch's digits. LANES is the number of floats that torch sums side by side (8 on x86, 4 on
   ARM); build.py says which and has the result compared with torch's before anything relies on it. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef LANES
#define LANES 8
#endif

enum { WIDTH = 4 * LANES, ROWS = 16, BLOCK = WIDTH * ROWS, GRAIN = 32768, LEVELS = 4, DIMENSIONS = 8 };
enum { INTEGERS, FLOAT32, FLOAT64 };           /* carriers */
enum { NOTHING, EXTREMES, ALL };               /* what is counted */
enum { AMAX, COUNT, NONZERO, OVERFLOWN, CLIPPED, UNDERFLOWN, SUBNORMAL, NONFINITE, ERROR_SUM, ABS_SUM, COLUMNS };
enum { INPUT_FLOAT32, INPUT_BFLOAT16 };
enum { DONE = 0, NOT_MINE = 1 };               /* NOT_MINE: out holds the result, the row does not */

typedef struct {
    int32_t carrier, mantissa, saturates, negative_zero;
    int32_t parity;                            /* of even binades where mantissa is 0, else -1 */
    int32_t divides;                           /* the divisor is no power of two, or its inverse no normal float */
    int32_t reciprocal;                        /* 2^M / gap is a normal float for every binade */
    float divisor, factor;                     /* 1 where there is none */
    float limit, overflow_value;
    double lowest, highest;                    /* binades */
    float scale, maximum, threshold;           /* in the format's own units */
    float min_normal;                          /* times the scale; -1: nothing is subnormal */
    double safe;
} Plan;

typedef struct {                               /* a scale for each value, as what broadcasts */
    int64_t dimensions, sizes[DIMENSIONS], strides[DIMENSIONS];
    const double *scales;                      /* each a float: nobody has to copy them */
} Blocks;

typedef struct {
    const Plan *plan;
    const Blocks *blocks;                      /* NULL: one scale */
    const void *x;
    int32_t input, counted;
    float *out;
    int64_t size, slice;
    const int32_t *bits;                       /* random ones, or NULL */
    int32_t stochastic, rescale;
    uint32_t key[2];
    double *row;
    int32_t threads;
    struct Part *parts;
    int32_t chunks, parallel;
} Job;

typedef struct {
    int32_t top;                               /* bits of the largest magnitude */
    int64_t zeros, lost, small, clipped, overflow;  /* before; and after the rounding */
} Count;

/* What one chunk adds to a row. */
typedef struct Part {
    float sums[3];                             /* x, |x| and the result; with blocks the error in place of x */
    int64_t nonfinite;
    Count own, scaled;                         /* of x and the result; with blocks also of x / s and its rounding */
} Part;

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);
static Parallel run_parallel;
static int (*thread_number)(void), (*thread_count)(void);

/* Those of the OpenMP runtime that torch uses: a second one would keep threads of its own. */
void altgrad_use_threads(void *parallel, void *number, void *count)
{
    run_parallel = (Parallel)parallel;
    thread_number = (int (*)(void))number;
    thread_count = (int (*)(void))count;
}

static inline int32_t bits_of(float x) { int32_t b; memcpy(&b, &x, 4); return b; }
static inline float float_of(int32_t b) { float x; memcpy(&x, &b, 4); return x; }
static inline int64_t bits_of64(double x) { int64_t b; memcpy(&b, &x, 8); return b; }
static inline double float_of64(int64_t b) { double x; memcpy(&x, &b, 8); return x; }
static inline int32_t magnitude_bits(float x) { return bits_of(x) & 0x7fffffff; }

/* Nearest integer, ties to even, sign of zero kept, for |k| < 2^22. Beyond lies only what has overflowed. */
static inline float nearest(float k) {
    const float magic = 12582912.0f;
    float r = (k + magic) - magic;
    return float_of(bits_of(r) | (bits_of(k) & INT32_MIN));
}
static inline double nearest64(double k) {
    const double magic = 6755399441055744.0;
    double r = (k + magic) - magic;
    return float_of64(bits_of64(r) | (bits_of64(k) & INT64_MIN));
}
/* Away from zero with the probability of the place between two integers; `noise` in [0, 1). */
static inline float either(float k, float noise, float most) {
    float size = float_of(magnitude_bits(k));
    size = size > most ? most : size;
    float whole = floorf(size);
    float r = floorf((size - whole) + noise) + whole;
    return float_of(bits_of(r) | (bits_of(k) & INT32_MIN));
}

#define INLINE static inline __attribute__((always_inline))

/* v becomes round(v / u) * u with u the gap of the grid at v. The flags are constants where this is called. */
INLINE void round_float32(
    const Plan *p, float *restrict v, const float *restrict noise, int n,
    const int stochastic, const int by_code, const int reciprocal)
{
    const int32_t lowest = bits_of((float)p->lowest);
    const int32_t highest = p->saturates ? INT32_MAX : bits_of((float)p->highest);
    const int32_t turned = (254 + p->mantissa) << 23;
    const float up = ldexpf(1.0f, p->mantissa), down = ldexpf(1.0f, -p->mantissa);
    const float most = p->saturates ? INFINITY : 8388608.0f;
    const int32_t flip = p->parity == 0;
    for (int i = 0; i < n; i++) {
        int32_t u = bits_of(v[i]) & 0x7f800000;
        u = u < lowest ? lowest : u;
        u = u > highest ? highest : u;
        float k = reciprocal ? v[i] * float_of(turned - u) : v[i] / float_of(u) * up;
        if (by_code)                           /* a tie whose lower code is even is sent down */
            k = float_of(bits_of(k) - (((u >> 23) & 1) ^ flip));
        k = stochastic ? either(k, noise[i], most) : nearest(k);
        v[i] = k * down * float_of(u);
    }
}

INLINE void round_float64(
    const Plan *p, float *restrict v, const float *restrict noise, int n,
    const int stochastic, const int by_code)
{
    const int64_t lowest = bits_of64(p->lowest), highest = bits_of64(p->highest);
    const double up = ldexp(1.0, p->mantissa), down = ldexp(1.0, -p->mantissa);
    const float most = p->saturates ? INFINITY : 8388608.0f;
    const int64_t flip = p->parity == 0;
    for (int i = 0; i < n; i++) {
        double x = v[i];
        int64_t u = bits_of64(x) & 0x7ff0000000000000;
        u = u < lowest ? lowest : u;
        u = u > highest ? highest : u;
        double k = x * up / float_of64(u);
        if (by_code)
            k = float_of64(bits_of64(k) - (((u >> 52) & 1) ^ flip));
        k = stochastic ? (double)either((float)k, noise[i], most) : nearest64(k);
        v[i] = (float)(k * down * float_of64(u));
    }
}

static void round_block(const Plan *p, float *restrict v, const float *restrict noise, int n)
{
    const int by_code = noise == NULL && p->parity >= 0;
    if (p->carrier == INTEGERS) {
        const float most = p->saturates ? INFINITY : 8388608.0f;
        if (noise) for (int i = 0; i < n; i++) v[i] = either(v[i], noise[i], most);
        else for (int i = 0; i < n; i++) v[i] = nearest(v[i]);
    } else if (p->carrier == FLOAT32) {
        if (p->reciprocal) {
            if (noise) round_float32(p, v, noise, n, 1, 0, 1);
            else if (by_code) round_float32(p, v, noise, n, 0, 1, 1);
            else round_float32(p, v, noise, n, 0, 0, 1);
        } else {
            if (noise) round_float32(p, v, noise, n, 1, 0, 0);
            else if (by_code) round_float32(p, v, noise, n, 0, 1, 0);
            else round_float32(p, v, noise, n, 0, 0, 0);
        }
    } else {
        if (noise) round_float64(p, v, noise, n, 1, 0);
        else if (by_code) round_float64(p, v, noise, n, 0, 1);
        else round_float64(p, v, noise, n, 0, 0);
    }
}

static void mark_overflow(const Plan *p, float *q, int n)
{
    const int32_t beyond = bits_of(p->limit), becomes = bits_of(p->overflow_value);
    for (int i = 0; i < n; i++) {
        const int32_t b = bits_of(q[i]), size = b & 0x7fffffff;
        q[i] = float_of(size > beyond && size <= 0x7f800000 ? becomes | (b & INT32_MIN) : b);
    }
}

/* The hash of a value's flat index and the key, as stochastic.py spells it. */
static void draw_noise(const Job *job, int64_t start, float *restrict noise, int n)
{
    if (job->bits) {
        const int32_t *bits = job->bits + start;
        for (int i = 0; i < n; i++) noise[i] = (float)bits[i] * 0x1p-24f;
        return;
    }
    const uint32_t first = (uint32_t)start * 0x9E3779B1u + job->key[0], second = job->key[1];
    for (int i = 0; i < n; i++) {
        uint32_t h = (uint32_t)i * 0x9E3779B1u + first;
        h = ((h ^ (h >> 16)) * 0x7feb352du) ^ second;
        h = (h ^ (h >> 15)) * 0x846ca68bu;
        noise[i] = (float)(int32_t)(h >> 8) * 0x1p-24f;
    }
}

/* `runs` scales, each for `length` values. Returns 0 where each is a power of two with a normal inverse. */
INLINE int32_t spread_runs(const double *from, int64_t step, float *restrict s, int64_t runs, const int64_t length)
{
    int32_t odd = 0;
    for (int64_t r = 0; r < runs; r++) {
        const float scale = (float)from[r * step];
        for (int64_t j = 0; j < length; j++) s[r * length + j] = scale;
        odd |= (bits_of(scale) & 0x7fffff) | (bits_of(scale) >= 254 << 23);
    }
    return odd;
}

/* The scale of each value from `start` on. Returns whether each is a power of two with a normal inverse. */
static int spread_scales(const Blocks *b, int64_t start, float *restrict s, int n)
{
    int64_t at[DIMENSIONS], rest = start, offset = 0;
    const int last = (int)b->dimensions - 1;
    int32_t odd = 0;
    for (int d = last; d >= 0; d--) {
        at[d] = rest % b->sizes[d];
        rest /= b->sizes[d];
        offset += at[d] * b->strides[d];
    }
    for (int i = 0; i < n;) {
        const double *from = b->scales + offset;
        int64_t run = b->sizes[last] - at[last], runs = 0;
        if (run > n - i) run = n - i;
        if (last && b->strides[last] == 0 && run == b->sizes[last]) {  /* whole blocks, one after the other */
            runs = b->sizes[last - 1] - at[last - 1];
            if (runs > (n - i) / run) runs = (n - i) / run;
        }
        if (runs && run == 32) odd |= spread_runs(from, b->strides[last - 1], s + i, runs, 32);
        else if (runs && run == 16) odd |= spread_runs(from, b->strides[last - 1], s + i, runs, 16);
        else if (runs) odd |= spread_runs(from, b->strides[last - 1], s + i, runs, run);
        else if (b->strides[last] == 0) odd |= spread_runs(from, 0, s + i, 1, run);
        else odd |= spread_runs(from, b->strides[last], s + i, run, 1);
        const int moved = runs ? last - 1 : last;
        const int64_t by = runs ? runs : run;
        i += (int)(runs ? runs * run : run);
        at[moved] += by;
        offset += by * b->strides[moved];
        for (int d = moved; d > 0 && at[d] == b->sizes[d]; d--) {
            offset += b->strides[d - 1] - at[d] * b->strides[d];
            at[d] = 0;
            at[d - 1]++;
        }
    }
    return odd == 0;
}

/* Sums as torch takes them: WIDTH running sums, in LEVELS so that few values are added to a large one. */
typedef struct { float level[LEVELS][WIDTH]; } Sum;

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));

static void add_rows(Sum *sum, const float *v, int rows)
{
    Lanes a[4], x[4];
    memcpy(a, sum->level[0], sizeof a);
    for (int r = 0; r < rows; r++) {
        memcpy(x, v + r * WIDTH, sizeof x);
        a[0] += x[0], a[1] += x[1], a[2] += x[2], a[3] += x[3];
    }
    memcpy(sum->level[0], a, sizeof a);
}

/* After block number `block`, from 1; a slice holds so few blocks that a level takes sixteen of the one below. */
static void carry(Sum *sum, int64_t block)
{
    for (int j = 1; j < LEVELS; j++) {
        for (int k = 0; k < WIDTH; k++) {
            sum->level[j][k] += sum->level[j - 1][k];
            sum->level[j - 1][k] = 0;
        }
        if (block & (15LL << 4 * (j - 1))) break;
    }
}

/* Fewer than LANES values are summed four side by side. */
static float sum_few(const float *v, int n)
{
    float a[4] = {0, 0, 0, 0};
    int i = 0;
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++) a[k] += v[i + k];
    for (; i < n; i++) a[0] += v[i];
    return a[0] + a[1] + a[2] + a[3];
}

/* With the values that fill no block: `n` of them, fewer than BLOCK. */
static float finish_sum(Sum *sum, const float *v, int n)
{
    float *a = sum->level[0], total = 0;
    int rows = n / WIDTH, i = rows * WIDTH;
    add_rows(sum, v, rows);
    for (int j = 1; j < LEVELS; j++)
        for (int k = 0; k < WIDTH; k++) a[k] += sum->level[j][k];
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) a[k] += v[i + k];
    for (int m = 1; m < 4; m++)
        for (int k = 0; k < LANES; k++) a[k] += a[m * LANES + k];
    for (; i < n; i++) total += v[i];
    for (int k = 0; k < LANES; k++) total += a[k];
    return total;
}

static float sum_all(const float *v, int n)
{
    Sum sum;
    if (n < LANES) return sum_few(v, n);
    memset(&sum, 0, sizeof sum);
    return finish_sum(&sum, v, n);             /* only ever of the threads' partial sums */
}

/* `x` and what it became. Magnitudes compare as their bits do, nan above all. */
static void count_block(const Plan *p, Count *count, const float *restrict x, const float *restrict q, int n)
{
    int32_t zeros = 0, lost = 0, small = 0, top = 0;
    const int32_t below = magnitude_bits(p->min_normal);
    for (int i = 0; i < n; i++) {
        const int32_t size = magnitude_bits(x[i]), rounded = magnitude_bits(q[i]);
        zeros += size == 0;
        lost += rounded == 0;
        small += rounded < below;
        top = size > top ? size : top;
    }
    count->zeros += zeros;
    count->lost += lost;
    count->small += small;
    count->top = top > count->top ? top : count->top;
    if (float_of(top) <= p->safe) return;
    int32_t clipped = 0, overflow = 0;
    for (int i = 0; i < n; i++) {
        const float scaled = float_of(magnitude_bits(x[i])) / p->scale;
        clipped += scaled > p->maximum;
        overflow += scaled >= p->threshold;
    }
    count->clipped += clipped;
    count->overflow += overflow;
}

static void count_extremes(Part *part, const float *restrict x, int n)
{
    int32_t top = 0, nonfinite = 0, finite = 0;
    for (int i = 0; i < n; i++) {
        const int32_t size = magnitude_bits(x[i]);
        top = size > top ? size : top;
    }
    if (top >= 0x7f800000) {                   /* rare: look again, for the largest finite one */
        for (int i = 0; i < n; i++) {
            const int32_t size = magnitude_bits(x[i]);
            nonfinite += size >= 0x7f800000;
            finite = size < 0x7f800000 && size > finite ? size : finite;
        }
        top = finite;
    }
    part->nonfinite += nonfinite;
    if (top > part->own.top) part->own.top = top;
}

static const float *load(const Job *job, int64_t start, float *restrict given, int n)
{
    if (job->input == INPUT_FLOAT32) return (const float *)job->x + start;
    const uint16_t *x = (const uint16_t *)job->x + start;
    for (int i = 0; i < n; i++) given[i] = float_of((int32_t)((uint32_t)x[i] << 16));
    return given;
}

/* Round `size` values from `start` on; what is counted goes into `part`. */
static void round_chunk(const Job *job, int64_t start, int64_t size, Part *part)
{
    const Plan *p = job->plan;
    _Alignas(64) float given[BLOCK], t[BLOCK], q[BLOCK], noise[BLOCK], s[BLOCK], terms[2][BLOCK];
    const int all = job->counted == ALL, blocks = job->blocks != NULL;
    const float limit = p->limit, divisor = p->divisor, factor = job->rescale ? p->factor : 1.0f;
    Sum sums[3];
    memset(sums, 0, sizeof sums);
    memset(part, 0, sizeof *part);
    for (int64_t i = 0, block = 1;; i += BLOCK, block++) {
        const int n = size - i < BLOCK ? (int)(size - i) : BLOCK;
        const float *x = load(job, start + i, given, n);
        float *out = job->out + start + i;
        if (job->counted == EXTREMES) count_extremes(part, x, n);
        if (blocks) {
            if (spread_scales(job->blocks, start + i, s, n))  /* a product takes a fraction of the time */
                for (int j = 0; j < n; j++) t[j] = x[j] * float_of((254 << 23) - bits_of(s[j]));
            else for (int j = 0; j < n; j++) t[j] = x[j] / s[j];
            if (all) memcpy(q, t, n * sizeof(float));
            if (divisor != 1.0f) for (int j = 0; j < n; j++) t[j] /= divisor;
        } else {
            const float inverse = 1.0f / divisor;
            if (p->divides) for (int j = 0; j < n; j++) t[j] = x[j] / divisor;
            else for (int j = 0; j < n; j++) t[j] = x[j] * inverse;  /* of a power of two: the same */
        }
        if (p->saturates)
            for (int j = 0; j < n; j++) {
                float v = t[j];
                v = v < -limit ? -limit : v;
                t[j] = v > limit ? limit : v;
            }
        if (job->stochastic) draw_noise(job, start + i, noise, n);
        round_block(p, t, job->stochastic ? noise : NULL, n);
        if (!p->saturates) mark_overflow(p, t, n);
        if (!p->negative_zero) for (int j = 0; j < n; j++) t[j] += 0.0f;  /* -0 + 0 is 0 */
        if (blocks && all) for (int j = 0; j < n; j++) out[j] = (t[j] *= factor) * s[j];
        else if (blocks) for (int j = 0; j < n; j++) out[j] = t[j] * factor * s[j];
        else for (int j = 0; j < n; j++) out[j] = t[j] * factor;
        if (all) {
            const float *first = x;
            if (blocks) {
                count_block(p, &part->scaled, q, t, n);
                for (int j = 0; j < n; j++) terms[0][j] = out[j] - x[j];
                first = terms[0];
            }
            for (int j = 0; j < n; j++) terms[1][j] = float_of(magnitude_bits(x[j]));
            count_block(p, &part->own, x, out, n);
            const float *values[3] = {first, terms[1], out};
            for (int m = 0; m < 3; m++) {
                if (size < LANES) part->sums[m] = sum_few(values[m], n);
                else if (n < BLOCK) part->sums[m] = finish_sum(&sums[m], values[m], n);
                else add_rows(&sums[m], values[m], ROWS), carry(&sums[m], block);
            }
        }
        if (n < BLOCK) return;
    }
}

static int chunks_of(const Job *job, int64_t size)
{
    const int64_t grains = (size + GRAIN - 1) / GRAIN;
    return size < GRAIN ? 1 : grains < job->threads ? (int)grains : job->threads;
}

/* This thread's chunks of every slice. */
static void round_share(void *argument)
{
    const Job *job = argument;
    const int mine = job->parallel ? thread_number() : 0, all = job->parallel ? thread_count() : 1;
    int64_t slice = 0;
    for (int64_t start = 0; start < job->size; start += job->slice, slice++) {
        const int64_t size = job->size - start < job->slice ? job->size - start : job->slice;
        const int chunks = chunks_of(job, size);
        const int64_t length = (size + chunks - 1) / chunks;
        for (int c = mine; c < chunks; c += all) {
            const int64_t first = c * length, left = size - first;
            Part *part = &job->parts[slice * job->chunks + c];
            if (left > 0) round_chunk(job, start + first, left < length ? left : length, part);
            else memset(part, 0, sizeof *part);
        }
    }
}

static void add_count(Count *to, const Count *one)
{
    to->zeros += one->zeros;
    to->lost += one->lost;
    to->small += one->small;
    to->clipped += one->clipped;
    to->overflow += one->overflow;
    to->top = one->top > to->top ? one->top : to->top;
}

/* The sums of a slice: torch adds those of its threads, and 0 for each that had nothing to do. */
static void slice_sums(const Job *job, const Part *parts, int chunks, float *partial, float *sums)
{
    for (int m = 0; m < 3; m++) {
        sums[m] = parts[0].sums[m];
        if (chunks == 1) continue;
        for (int c = 0; c < job->threads; c++) partial[c] = c < chunks ? parts[c].sums[m] : 0;
        sums[m] = sum_all(partial, job->threads);
    }
}

static int fill_row(const Job *job, float *partial)
{
    Count own = {0}, scaled = {0};
    double error = 0, magnitude = 0;
    int64_t nonfinite = 0, slice = 0;
    for (int64_t start = 0; start < job->size; start += job->slice, slice++) {
        const int64_t size = job->size - start < job->slice ? job->size - start : job->slice;
        const int chunks = chunks_of(job, size);
        const Part *parts = &job->parts[slice * job->chunks];
        float sums[3];
        for (int c = 0; c < chunks; c++) {
            add_count(&own, &parts[c].own);
            add_count(&scaled, &parts[c].scaled);
            nonfinite += parts[c].nonfinite;
        }
        if (job->counted != ALL) continue;
        slice_sums(job, parts, chunks, partial, sums);
        if (!isfinite(sums[0]) || !isfinite(sums[1])) return NOT_MINE;
        error += job->blocks ? (double)sums[0] : (double)sums[2] - (double)sums[0];
        magnitude += sums[1];
    }
    double *row = job->row;
    if (job->counted == EXTREMES) {
        for (int i = 0; i < COLUMNS; i++) row[i] = NAN;
        row[AMAX] = float_of(own.top);
        row[NONFINITE] = (double)nonfinite;
        return DONE;
    }
    const Count *grid = job->blocks ? &scaled : &own;
    if (grid->top >= 0x7f800000 || (grid->overflow && !job->plan->saturates)) return NOT_MINE;
    row[AMAX] = float_of(own.top);
    row[COUNT] = (double)job->size;
    row[NONZERO] = (double)(job->size - own.zeros);
    row[OVERFLOWN] = (double)grid->overflow;
    row[CLIPPED] = (double)grid->clipped;
    row[UNDERFLOWN] = (double)(own.lost - own.zeros);
    row[SUBNORMAL] = job->plan->min_normal >= 0 ? (double)(grid->small - grid->lost) : 0;
    row[NONFINITE] = 0;
    row[ERROR_SUM] = error;
    row[ABS_SUM] = magnitude;
    return DONE;
}

int altgrad_round(const Plan *plan, const Blocks *blocks, const void *x, int input, float *out, int64_t size,
                  int64_t slice, int stochastic, const int32_t *bits, uint32_t key0, uint32_t key1, int rescale,
                  int counted, double *row, int threads)
{
    Job job = {plan, blocks, x, input, counted, out, size, slice, bits, stochastic, rescale, {key0, key1}, row,
               threads, NULL, 1, 0};
    const int64_t slices = (size + slice - 1) / slice;
    job.chunks = chunks_of(&job, size < slice ? size : slice);
    job.parts = malloc((size_t)(slices * job.chunks) * sizeof(Part) + (size_t)threads * sizeof(float));
    if (!job.parts) return NOT_MINE;
    job.parallel = job.chunks > 1 && run_parallel;
    if (job.parallel) run_parallel(round_share, &job, (unsigned)job.chunks, 0);
    else round_share(&job);
    const int done = counted == NOTHING ? DONE : fill_row(&job, (float *)(job.parts + slices * job.chunks));
    free(job.parts);
    return done;
}

typedef struct {
    const void *x;                             /* a matrix, row after row */
    int32_t input, parallel;
    int64_t height, width, down, along;        /* of the matrix; and of a tile, cut at the ends */
    int64_t tall, wide;                        /* tiles */
    int32_t *found;
} Tiles;

/* Bits of magnitudes are ordered as the magnitudes are, nan on top. */
INLINE int32_t bits_at(const void *x, const int input, int64_t i)
{
    return input == INPUT_FLOAT32 ? ((const int32_t *)x)[i] & 0x7fffffff
                                  : (int32_t)(((const uint16_t *)x)[i] & 0x7fff) << 16;
}

INLINE int32_t largest(const void *x, const int input, int64_t start, int64_t n)
{
    int32_t top = 0;
    for (int64_t i = start; i < start + n; i++) {
        const int32_t size = bits_at(x, input, i);
        top = size > top ? size : top;
    }
    return top;
}

/* One row of the matrix, tiles `first` to `last` along. `along` is a constant where this is called. */
INLINE void look_along(const Tiles *job, int32_t *restrict found, int64_t row, int64_t first, int64_t last,
                       const int input, const int64_t along)
{
    const int64_t start = row * job->width;
    const int64_t whole = last * along <= job->width ? last : job->width / along;
    for (int64_t c = first; c < whole; c++) {
        const int32_t top = largest(job->x, input, start + c * along, along);
        found[c] = top > found[c] ? top : found[c];
    }
    if (whole < last) {
        const int32_t top = largest(job->x, input, start + whole * along, job->width - whole * along);
        found[whole] = top > found[whole] ? top : found[whole];
    }
}

INLINE void look_at(const Tiles *job, int64_t row, int64_t first, int64_t last, const int input)
{
    int32_t *found = job->found + row / job->down * job->wide;
    if (job->along == 1) look_along(job, found, row, first, last, input, 1);
    else if (job->along == 16) look_along(job, found, row, first, last, input, 16);
    else if (job->along == 32) look_along(job, found, row, first, last, input, 32);
    else look_along(job, found, row, first, last, input, job->along);
}

/* Some rows of tiles, or where they are few some columns. */
static void look_share(void *argument)
{
    const Tiles *job = argument;
    const int mine = job->parallel ? thread_number() : 0, all = job->parallel ? thread_count() : 1;
    const int by_rows = job->tall >= all;
    const int64_t of = by_rows ? job->tall : job->wide, first = of * mine / all, last = of * (mine + 1) / all;
    const int64_t end = last * job->down < job->height ? last * job->down : job->height;
    for (int64_t row = by_rows ? first * job->down : 0; row < (by_rows ? end : job->height); row++) {
        if (job->input == INPUT_FLOAT32)
            look_at(job, row, by_rows ? 0 : first, by_rows ? job->wide : last, INPUT_FLOAT32);
        else
            look_at(job, row, by_rows ? 0 : first, by_rows ? job->wide : last, INPUT_BFLOAT16);
    }
}

/* `found`: zeros, one for each tile; becomes the bits of its largest magnitude. */
void altgrad_tile_amax(const void *x, int input, int64_t height, int64_t width, int64_t down, int64_t along,
                       int32_t *found, int threads)
{
    Tiles job = {x, input, 0, height, width, down, along, (height + down - 1) / down,
                 (width + along - 1) / along, found};
    job.parallel = threads > 1 && height * width > GRAIN && run_parallel;
    if (job.parallel) run_parallel(look_share, &job, (unsigned)threads, 0);
    else look_share(&job);
}
