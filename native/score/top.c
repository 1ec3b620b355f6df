/* The candidates of one probe: the rare path, taken about k log(rows / k) times per probe. */
#include "internal.h"

#include <math.h>
#include <string.h>

float edgeface_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = (half >> 10) & 31u;
    uint32_t mantissa = half & 1023u, bits;
    if (exponent == 31)
        bits = sign | 0x7f800000u | mantissa << 13;
    else if (exponent != 0)
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    else {
        float value = (float)mantissa * 0x1p-24f;
        return sign ? -value : value;
    }
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Products of two floats are exact in double and the order of the sums is fixed, so the result has
 * the same bits on every machine, with or without fused multiply-add. */
double edgeface_exact(const edgeface_matrix *matrix, size_t row, const float *probe) {
    double lane[8] = {0};
    size_t dim = matrix->dim, i = 0;
    if (matrix->exact_storage == EDGEFACE_FLOAT32) {
        const float *w = (const float *)matrix->exact + row * dim;
        for (; i + 8 <= dim; i += 8)
            for (int j = 0; j < 8; j++) lane[j] += (double)w[i + j] * (double)probe[i + j];
        for (; i < dim; i++) lane[i & 7] += (double)w[i] * (double)probe[i];
    } else {
        const uint16_t *w = (const uint16_t *)matrix->exact + row * dim;
        for (; i < dim; i++) lane[i & 7] += (double)edgeface_half(w[i]) * (double)probe[i];
    }
    return ((lane[0] + lane[4]) + (lane[1] + lane[5])) + ((lane[2] + lane[6]) + (lane[3] + lane[7]));
}

/* `lower` and `candidates` are the caller's and stay. */
void edgeface_top_init(top *t, const edgeface_matrix *matrix, const float *probe, size_t k,
                       edgeface_cost *cost) {
    *t = (top){.matrix = matrix, .probe = probe, .floor = -INFINITY, .lower = t->lower,
               .candidates = t->candidates, .k = k, .capacity = 2 * k + SPARE, .cost = cost};
    for (size_t i = 0; i < k; i++) t->lower[i] = -INFINITY;
}

static int64_t id_of(const edgeface_matrix *matrix, uint32_t row) {
    return matrix->ids ? matrix->ids[row] : (int64_t)row;
}

/* Whether a is a better answer than b: the greater score, then the smaller id. */
static int better(const edgeface_matrix *matrix, const candidate *a, const candidate *b) {
    if (a->upper != b->upper) return a->upper > b->upper;
    return id_of(matrix, a->row) < id_of(matrix, b->row);
}

static void sink_candidate(const edgeface_matrix *m, candidate *heap, size_t count, size_t i) {
    for (;;) {
        size_t worst = i, left = 2 * i + 1;
        if (left < count && better(m, &heap[worst], &heap[left])) worst = left;
        if (left + 1 < count && better(m, &heap[worst], &heap[left + 1])) worst = left + 1;
        if (worst == i) return;
        candidate swap = heap[i];
        heap[i] = heap[worst];
        heap[worst] = swap;
        i = worst;
    }
}

/* Heap sort, best first. */
static void sort(const edgeface_matrix *m, candidate *items, size_t count) {
    for (size_t i = count / 2; i-- > 0;) sink_candidate(m, items, count, i);
    for (size_t end = count; end > 1; end--) {
        candidate swap = items[0];
        items[0] = items[end - 1];
        items[end - 1] = swap;
        sink_candidate(m, items, end - 1, 0);
    }
}

static void sink_lower(double *heap, size_t count) {
    size_t i = 0;
    for (;;) {
        size_t least = i, left = 2 * i + 1;
        if (left < count && heap[left] < heap[least]) least = left;
        if (left + 1 < count && heap[left + 1] < heap[least]) least = left + 1;
        if (least == i) return;
        double swap = heap[i];
        heap[i] = heap[least];
        heap[least] = swap;
        i = least;
    }
}

static void drop_below_floor(top *t) {
    size_t kept = 0;
    for (size_t i = 0; i < t->count; i++)
        if (t->candidates[i].upper >= t->floor) t->candidates[kept++] = t->candidates[i];
    t->count = kept;
}

/* Rows to be rescored lie anywhere; fetching the next one hides behind computing this one. */
static void fetch(const edgeface_matrix *m, size_t row) {
    const size_t size = m->dim * (m->exact_storage == EDGEFACE_FLOAT32 ? 4 : 2);
    const char *at = (const char *)m->exact + row * size;
    for (size_t i = 0; i < size; i += 64) __builtin_prefetch(at + i);
}

/* The score of a row's codes for the probe as it is, not as it was rounded. */
static double decoded(const edgeface_matrix *m, size_t row, const float *probe) {
    const uint8_t *code = (const uint8_t *)m->scan + row * padded_dim(m->dim, UNIT);
    double lane[4] = {0};
    for (size_t i = 0; i < m->dim; i++)
        lane[i & 3] += (double)((int)code[i] - 128) * (double)probe[i];
    return (double)m->scale[row] * ((lane[0] + lane[1]) + (lane[2] + lane[3]));
}

/* int8: bounds that know the probe exactly are half as wide, and most candidates fall without their
 * exact rows being read, which may lie on a disk. Every candidate is another row, so their k-th
 * greatest lower bound is a floor. */
static void refine(top *t) {
    const edgeface_matrix *m = t->matrix;
    if (m->storage != EDGEFACE_INT8 || t->count <= t->k) return;
    for (size_t i = 0; i < t->k; i++) t->lower[i] = -INFINITY;
    for (size_t i = 0; i < t->count; i++) {
        candidate *c = &t->candidates[i];
        double lower = c->upper;
        if (!c->exact) {
            /* The small terms cover the rounding of the sums in double. */
            const double score = decoded(m, c->row, t->probe);
            const double slack = t->probe_norm * ((double)m->error[c->row] * (1 + 1e-9)
                                                  + (double)m->norm * 1e-9);
            c->upper = fmin(c->upper, score + slack);
            lower = score - slack;
        }
        if (lower > t->lower[0]) {
            t->lower[0] = lower;
            sink_lower(t->lower, t->k);
        }
    }
    t->floor = fmax(t->floor, t->lower[0]);
    drop_below_floor(t);
}

/* Leaves the k best of the candidates, exact and sorted, best first. */
void edgeface_top_resolve(top *t) {
    drop_below_floor(t);
    refine(t);
    for (size_t i = 0; i < t->count; i++) {
        candidate *c = &t->candidates[i];
        if (i + 1 < t->count && !c[1].exact) fetch(t->matrix, c[1].row);
        if (c->exact) continue;
        c->upper = edgeface_exact(t->matrix, c->row, t->probe);
        c->exact = 1;
        t->cost->rescored++;
    }
    sort(t->matrix, t->candidates, t->count);
    if (t->count > t->k) t->count = t->k;
    if (t->count < t->k) return;
    /* Ascending, which is a heap: the exact scores are the k greatest lower bounds now. */
    for (size_t i = 0; i < t->k; i++) t->lower[i] = t->candidates[t->k - 1 - i].upper;
    t->floor = t->lower[0];
}

static void push(top *t, size_t row, double score) {
    double slack = t->slack;
    if (t->slack_row > 0) slack += t->slack_row * (double)t->matrix->error[row];
    if (!(score + slack >= t->floor)) return;
    if (t->count == t->capacity) {
        drop_below_floor(t);
        if (t->count > t->capacity / 2) {
            edgeface_top_resolve(t);
            t->cost->overflows++;
        }
    }
    t->candidates[t->count++] = (candidate){score + slack, (uint32_t)row, 0};
    if (score - slack > t->lower[0]) {
        t->lower[0] = score - slack;
        sink_lower(t->lower, t->k);
        t->floor = t->lower[0];
    }
}

void edgeface_hit(panel *p, unsigned probe, size_t row, float raw) {
    if (probe >= p->probes) return;
    top *t = &p->tops[probe];
    push(t, row, (double)raw * (double)p->unit[probe]);
    /* One step down, so that rounding cannot hide a row that ties with the floor. */
    double reach = (t->floor - t->slack_max) / (double)p->unit[probe];
    float threshold = nextafterf((float)reach, -INFINITY);
    for (unsigned i = probe; i < PANEL; i += p->padded) p->threshold[i] = threshold;
}

void edgeface_statistics_flush(statistic *entries, panel *panels, size_t panel_count) {
    for (size_t j = 0; j < panel_count; j++) {
        panel *p = &panels[j];
        for (unsigned i = 0; i < p->probes; i++, entries++) {
            const float maximum = p->maximum[i];
            if (maximum > entries->maximum) {
                entries->maximum = maximum;
                entries->row = p->argmax[i];
            } else if (maximum == entries->maximum && p->argmax[i] < entries->row)
                entries->row = p->argmax[i];
            entries->sum += (double)p->sum[i];
        }
        for (unsigned i = 0; i < PANEL; i++) {
            p->maximum[i] = -INFINITY;
            p->argmax[i] = UINT32_MAX;
            p->sum[i] = 0;
        }
    }
}
