/* The scan, written once over the vector operations that an ISA file defines before including it:
 *
 *   vec                       a vector of WIDTH dwords, integer-typed
 *   WIDTH                     dwords per vector
 *   TILE, CODE_TILE           rows scored together, float and int8: what the registers hold
 *   FEW, FEW_PHASES           rows scored together for few probes, those with as many phases: memory
 *                             binds, and fewer streams of rows are fetched better, unless rows are
 *                             so short that folding a tile costs more than reading it
 *   load(p) store(p, v) zero()
 *   spread(p, phases)         the `phases` dwords at p, repeated across the vector
 *   spread_codes(p, phases)   the same for int8 codes, as the kernel multiplies them
 *   madd(acc, w, x)           float lanes: acc + w * x
 *   dot4(acc, w, x)           int32 lanes: acc + the four products of int8 codes
 *   plus(a, b) plus_int(a, b) sums lane by lane, float and int32
 *   fold(a, b) fold_int(a, b) sums of adjacent lanes of a, then of b
 *   scaled(v, s)              int32 lanes as float, times the float lanes s
 *   repeat(p, times)          the floats at p, each repeated `times` (dividing WIDTH)
 *   reach(v, t)               bit mask of the float lanes with v >= t
 *   halves(p)                 WIDTH float16 at p as float
 *   SCAN                      the function's name
 *   REGISTERS                 how many vectors the processor holds
 *   SETS                      sums that FEW rows keep for each lane, so that a multiply-add does
 *                             not wait for the one before
 *   PREFETCH, FEW_PREFETCH    bytes to prefetch ahead, for full tiles and for FEW rows: without it
 *                             the time to read and the time to multiply add up; less than a tile
 *                             of 512 floats is too late for it, and far more than it needs is
 *                             evicted again
 *   NEAR                      bytes of rows that stay in a cache from one search to the next: FEW rows
 *                             at a time, which a memory likes better, only cost there
 *   LEVEL                     where to, as __builtin_prefetch counts: 3 is the first level, 2 the
 *                             second. Where probes and what is to come do not both fit into the
 *                             first level, they push one another out: on a Zen 4 eight probes of 512
 *                             floats took twice the time. A single probe leaves room.
 *
 * One micro-kernel serves 1 to 32 probes: TILE rows against one or two vectors of "probe lanes". A
 * lane is a probe; when there are fewer probes than lanes, a probe gets several adjacent lanes
 * ("phases"), each for every phases-th dword of a row, and the lanes are folded once per tile. One
 * broadcast of a row then feeds two multiply-adds, whatever the number of probes.
 */
#include <math.h>
#include <string.h>

#include "internal.h"

enum { SHORT_ROW = 2 * UNIT, NEAR_PREFETCH = 8192 };

#define INLINE static inline __attribute__((always_inline))
#if defined(EDGEFACE_SANITIZED) /* instrumented code gains nothing and takes minutes to compile */
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Sums the phases of each lane: `sums` are (count, lanes) vectors, afterwards (count, padded) without
 * gaps. Entries past the last are sums of leftovers and never looked at. The compiler knows `n` and
 * `phases`, so that all of it stays in registers. */
INLINE void fold_phases(vec *sums, const int n, const int phases, const int codes) {
#define FOLD(N)                                                                                   \
    UNROLL for (int i = 0; i < ((N) + 1) / 2; i++)                                                \
        sums[i] = codes ? fold_int(sums[2 * i], sums[2 * i + 1]) : fold(sums[2 * i], sums[2 * i + 1])
    const int half = (n + 1) / 2, quarter = (half + 1) / 2, eighth = (quarter + 1) / 2;
    if (phases > 1) FOLD(n);
    if (phases > 2) FOLD(half);
    if (phases > 4) FOLD(quarter);
    if (phases > 8) FOLD(eighth);
#undef FOLD
}

/* int32 (count, padded) to float, each row times its scale, of which `known` may be read. */
INLINE void apply_scale(vec *sums, const int count, const int padded, const float *scale,
                        size_t known) {
    if (padded >= WIDTH) {
        const int per_row = padded / WIDTH;
        UNROLL for (int r = 0; r < count; r++)
            UNROLL for (int v = 0; v < per_row; v++)
                sums[r * per_row + v] =
                    scaled(sums[r * per_row + v], spread((const char *)&scale[r], 1));
    } else {
        const int rows_per_vector = WIDTH / padded;
        float local[MAX_TILE + WIDTH] = {0};
        /* FEW rows come from memory: to touch the next line of factors would wait for it. */
        if (count <= FEW || known < MAX_TILE + WIDTH)
            scale = memcpy(local, scale, (size_t)count * sizeof *scale);
        UNROLL for (int i = 0; i * rows_per_vector < count; i++)
            sums[i] = scaled(sums[i], repeat(&scale[i * rows_per_vector], (unsigned)padded));
    }
}

/* Scores `count` (1, FEW or a full tile of) rows, from `row` on; `out` is (count, padded) scores, of
 * int8 codes without the factor of the probe. The last unit of each row comes from `tail` when that
 * is given (rows * UNIT bytes, zero-padded). */
INLINE void tile(const int count, const int vectors, const int phases, const int codes,
                 const char *rows, size_t stride, size_t units, const char *tail, const panel *p,
                 vec *out, const char *prefetch, const edgeface_matrix *m, size_t row) {
    const int steps = UNIT_FLOATS / phases;
    const int sets = count <= FEW && steps >= SETS ? SETS : 1;
    vec acc[SETS][TILE][2];
    const char *x = (const char *)p->data;
    UNROLL for (int r = 0; r < count; r++)
        UNROLL for (int v = 0; v < vectors; v++)
            UNROLL for (int k = 0; k < sets; k++)
                acc[k][r][v] =
                    codes && k == 0 ? load((const char *)(p->init + v * WIDTH)) : zero();
    /* A base per three rows keeps every address a base plus 0, 1 or 2 strides. */
    const char *base[(TILE + 2) / 3];
    for (int part = 0; part < 2; part++) {
        if (part == 1) {
            if (!tail) break;
            rows = tail;
            stride = UNIT;
            units = 1;
        }
        UNROLL for (int r = 0; r < count; r += 3) base[r / 3] = rows + (size_t)r * stride;
        for (size_t u = 0; u < units; u++) {
            if (prefetch) {
                UNROLL for (int r = 0; r < count; r++)
                    if (vectors == 1 && !codes) /* the builtin wants a constant */
                        __builtin_prefetch(prefetch + r * UNIT, 0, 3);
                    else
                        __builtin_prefetch(prefetch + r * UNIT, 0, LEVEL);
                prefetch += count * UNIT;
            }
            UNROLL for (int s = 0; s < steps; s++) {
                vec x0 = load(x), x1 = vectors == 2 ? load(x + 4 * WIDTH) : x0;
                x += 4 * WIDTH * vectors;
                UNROLL for (int r = 0; r < count; r++) {
                    const char *at = base[r / 3] + (size_t)(r % 3) * stride + 4 * phases * s;
                    vec w = codes ? spread_codes(at, phases) : spread(at, phases);
                    vec *a = acc[s % sets][r];
                    a[0] = codes ? dot4(a[0], w, x0) : madd(a[0], w, x0);
                    if (vectors == 2) a[1] = codes ? dot4(a[1], w, x1) : madd(a[1], w, x1);
                }
            }
            UNROLL for (int r = 0; r < count; r += 3) base[r / 3] += UNIT;
        }
    }
    /* Folded in the registers where they are enough. Where they are not, a compiler that mixes the
     * folding with the loop above spills there, and it does FEW rows of codes from memory no good. */
    const int held = vectors == 1 ? !codes || count != FEW
                                  : REGISTERS >= 32 && !codes && phases > 1;
    const int padded = WIDTH * vectors / phases;
    vec local[2 * TILE + 1], *sums = held ? local : out;
    UNROLL for (int r = 0; r < count; r++)
        UNROLL for (int v = 0; v < vectors; v++) {
            vec sum = acc[0][r][v];
            UNROLL for (int k = 1; k < sets; k++)
                sum = codes ? plus_int(sum, acc[k][r][v]) : plus(sum, acc[k][r][v]);
            sums[r * vectors + v] = sum;
        }
    sums[count * vectors] = zero();
    if (!held) __asm__ volatile("" ::: "memory");
    fold_phases(sums, count * vectors, phases, codes);
    if (codes) apply_scale(sums, count, padded, m->scale + row, m->rows - row);
    if (held)
        UNROLL for (int i = 0; i * WIDTH < count * padded; i++) out[i] = local[i];
}

typedef void tile_function(const char *rows, size_t stride, size_t units, const char *tail,
                           const panel *p, vec *out, const char *prefetch,
                           const edgeface_matrix *m, size_t row);

#define DEFINE_TILE(NAME, COUNT, VECTORS, PHASES, CODES)                                          \
    static void NAME(const char *rows, size_t stride, size_t units, const char *tail,             \
                     const panel *p, vec *out, const char *prefetch, const edgeface_matrix *m,    \
                     size_t row) {                                                                \
        tile(COUNT, VECTORS, PHASES, CODES, rows, stride, units, tail, p, out, prefetch, m, row); \
    }
#define DEFINE_TILES(PHASES)                                                                      \
    DEFINE_TILE(full_float_##PHASES, TILE, 2, PHASES, 0)                                          \
    DEFINE_TILE(full_codes_##PHASES, CODE_TILE, 2, PHASES, 1)                                          \
    DEFINE_TILE(few_float_##PHASES, FEW, 2, PHASES, 0)                                            \
    DEFINE_TILE(few_codes_##PHASES, FEW, 2, PHASES, 1)                                            \
    DEFINE_TILE(last_float_##PHASES, 1, 2, PHASES, 0)                                             \
    DEFINE_TILE(last_codes_##PHASES, 1, 2, PHASES, 1)

DEFINE_TILES(1)
DEFINE_TILES(2)
DEFINE_TILES(4)
#if WIDTH >= 8
DEFINE_TILES(8)
#endif
#if WIDTH >= 16
DEFINE_TILES(16)
#endif
DEFINE_TILE(full_float_single, TILE, 1, WIDTH, 0)
DEFINE_TILE(full_codes_single, CODE_TILE, 1, WIDTH, 1)
DEFINE_TILE(few_float_single, FEW, 1, WIDTH, 0)
DEFINE_TILE(few_codes_single, FEW, 1, WIDTH, 1)
DEFINE_TILE(last_float_single, 1, 1, WIDTH, 0)
DEFINE_TILE(last_codes_single, 1, 1, WIDTH, 1)

static tile_function *choose(const panel *p, size_t count, int codes) {
#define PICK(SUFFIX)                                                                              \
    (count == 1 ? (codes ? last_codes_##SUFFIX : last_float_##SUFFIX)                             \
     : count == FEW ? (codes ? few_codes_##SUFFIX : few_float_##SUFFIX)                           \
                    : (codes ? full_codes_##SUFFIX : full_float_##SUFFIX))
    if (p->vectors == 1) return PICK(single);
    switch (p->phases) {
    case 1: return PICK(1);
    case 2: return PICK(2);
#if WIDTH >= 16
    case 16: return PICK(16);
#endif
#if WIDTH >= 8
    case 8: return PICK(8);
#endif
    default: return PICK(4);
    }
#undef PICK
}

INLINE void report(panel *p, const vec *scores, size_t count, size_t row) {
    const size_t total = count * p->padded;
    for (size_t i = 0; i < total; i += WIDTH) {
        unsigned mask = reach(scores[i / WIDTH], load((const char *)&p->threshold[i % PANEL]));
        for (; __builtin_expect(mask != 0, 0); mask &= mask - 1) {
            size_t at = i + (size_t)__builtin_ctz(mask);
            if (at >= total) break;
            edgeface_hit(p, (unsigned)(at % p->padded), row + at / p->padded,
                         ((const float *)scores)[at]);
        }
    }
}

/* exp(x) for |x| <= 80: 2^n times a degree-6 polynomial (Taylor, |r| <= ln 2 / 2), error 2 ulp. The
 * addition of 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits. */
INLINE float exponential(float x) {
    float t = x * 1.44269504f, shifted = t + 12582912.0f, n = shifted - 12582912.0f;
    float r = (t - n) * 0.693147181f;
    float y = 1.0f + r * (1.0f + r * (0.5f + r * (1.66666667e-1f + r * (4.16666667e-2f
            + r * (8.33333333e-3f + r * 1.38888889e-3f)))));
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000u;
    float power;
    memcpy(&power, &bits, sizeof power);
    return y * power;
}

static void accumulate(panel *p, const float *scores, size_t count, size_t row, float scale) {
    float powers[MAX_TILE * PANEL];
    const size_t total = count * p->padded, padded = p->padded;
    for (size_t i = 0; i < total; i++) {
        float x = scores[i] * scale;
        x = x > 80.0f ? 80.0f : x < -80.0f ? -80.0f : x;
        powers[i] = exponential(x);
    }
    for (size_t r = 0; r < count; r++)
        for (size_t j = 0; j < padded; j++) {
            float s = scores[r * padded + j];
            p->sum[j] += powers[r * padded + j];
            p->argmax[j] = s > p->maximum[j] ? (uint32_t)(row + r) : p->argmax[j];
            p->maximum[j] = s > p->maximum[j] ? s : p->maximum[j];
        }
}

INLINE void widen(const uint16_t *from, size_t count, size_t dim, size_t padded, float *to) {
    for (size_t r = 0; r < count; r++, from += dim, to += padded) {
        size_t i = 0;
        for (; i + WIDTH <= dim; i += WIDTH) {
            __builtin_prefetch((const char *)(from + i) + PREFETCH, 0, 3);
            store((char *)(to + i), halves(from + i));
        }
        for (; i < dim; i++) to[i] = edgeface_half(from[i]);
        for (; i < padded; i++) to[i] = 0;
    }
}

/* One tile of rows against one panel: score, fold, report. The first `skip` rows were seen. */
INLINE void score_tile(const edgeface_matrix *m, tile_function *score, panel *p, size_t row,
                       size_t count, size_t skip, const char *rows, size_t stride, size_t units,
                       const char *tail, const char *prefetch, const float *softmax_scale) {
    vec scores[2 * TILE + 1];
    score(rows, stride, units, tail, p, scores, prefetch, m, row);
    float *flat = (float *)scores;
    if (softmax_scale)
        accumulate(p, flat + skip * p->padded, count - skip, row + skip, *softmax_scale);
    for (size_t i = 0; i < skip * p->padded; i++) flat[i] = NAN;
    if (p->tops) report(p, scores, count, row);
}

void SCAN(const edgeface_matrix *m, size_t begin, size_t end, panel *panels, size_t panel_count,
          float *scratch, const float *softmax_scale) {
    const int codes = m->storage == EDGEFACE_INT8, half = m->storage == EDGEFACE_FLOAT16;
    const size_t padded = padded_dim(m->dim, UNIT_FLOATS);
    const size_t stride = codes ? padded_dim(m->dim, UNIT) : half ? 2 * m->dim : 4 * m->dim;
    size_t units = codes ? stride / UNIT : half ? padded / UNIT_FLOATS : m->dim / UNIT_FLOATS;
    const size_t rest = codes || half ? 0 : m->dim % UNIT_FLOATS;
    const int small = panel_count == 1 && panels[0].phases >= FEW_PHASES;
    const int near = m->rows * stride <= NEAR, few = small && !near && stride > SHORT_ROW;
    const size_t ahead = few ? FEW_PREFETCH : small && near ? NEAR_PREFETCH : PREFETCH;
    const size_t full = few ? FEW : codes ? CODE_TILE : TILE;
    char tail[TILE * UNIT];
    memset(tail, 0, sizeof tail);
    for (size_t row = begin; row < end;) {
        size_t count = full, skip = 0, at = row;
        if (row + full > end) {
            /* The last rows: a full tile that overlaps the one before, or one by one. */
            if (end - begin >= full) {
                at = end - full;
                skip = row - at;
            } else
                count = 1;
        }
        const char *rows = (const char *)m->scan + at * stride, *source = rows;
        for (size_t r = 0; rest && r < count; r++)
            memcpy(tail + r * UNIT, rows + r * stride + units * UNIT, rest * sizeof(float));
        if (half) {
            widen((const uint16_t *)rows, count, m->dim, padded, scratch);
            rows = (const char *)scratch;
        }
        for (size_t j = 0; j < panel_count; j++) {
            panel *p = &panels[j];
            score_tile(m, choose(p, count, codes), p, at, count, skip, rows,
                       half ? 4 * padded : stride, units, rest ? tail : NULL,
                       j == 0 && !half ? source + ahead : NULL, softmax_scale);
        }
        row = at + count;
    }
}
