/* The driver: packs probes, hands chunks of rows to threads, merges what they found. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "internal.h"

enum {
    CHUNK = 1536,          /* rows a thread takes at a time: a multiple of every TILE */
    MAX_PANELS = BLOCK / 8 /* the narrowest kernel has 8 lanes */
};
/* Below this many multiply-adds a second thread costs more than it saves. */
static const double THREAD_WORK = 8e6;

typedef struct {
    panel *panels;
    top *tops;
} side;

typedef struct search search;

typedef struct {
    search *shared;
    side sides[2];
    float *scratch;
    statistic *statistics;
    edgeface_cost cost;
} worker;

struct search {
    const edgeface_kernel *kernel;
    const edgeface_matrix *matrices[2];
    size_t matrix_count, k, probe_count, panel_count;
    const float *probes;
    const edgeface_submodels *submodels;
    atomic_size_t next;
    worker *workers;
    int threads;
    int8_t *codes;
    float *floats;
};

/* Hands out 64-byte aligned pieces of the workspace; with a NULL base it only measures. */
typedef struct {
    char *base;
    size_t used;
} arena;

static void *take(arena *a, size_t bytes) {
    void *piece = a->base ? a->base + a->used : NULL;
    a->used += (bytes + 63) / 64 * 64;
    return piece;
}

static void lay_out(search *s, arena *a, size_t block, size_t dim, size_t submodels, int threads) {
    const size_t wide = padded_dim(dim, UNIT), probes = padded_dim(block, PANEL);
    s->floats = take(a, probes * wide * sizeof(float));
    s->codes = take(a, probes * wide);
    s->workers = take(a, (size_t)threads * sizeof(worker));
    for (int t = 0; t < threads; t++) {
        worker local, *w = a->base ? &s->workers[t] : &local;
        memset(w, 0, sizeof *w);
        w->shared = s;
        w->scratch = take(a, MAX_TILE * wide * sizeof(float));
        w->statistics = take(a, submodels * block * sizeof(statistic));
        /* Only MixMaxSim scans two matrices, and it keeps one class of each. */
        for (int side = 0; side < (s->k == 1 ? 2 : 1); side++) {
            w->sides[side].panels = take(a, MAX_PANELS * sizeof(panel));
            top *tops = w->sides[side].tops = take(a, block * sizeof(top));
            for (size_t i = 0; i < block; i++) {
                double *lower = take(a, s->k * sizeof(double));
                candidate *candidates = take(a, (2 * s->k + SPARE) * sizeof(candidate));
                if (a->base) {
                    tops[i].lower = lower;
                    tops[i].candidates = candidates;
                }
            }
        }
    }
}

size_t edgeface_workspace(size_t probes, size_t dim, size_t k, size_t submodels, int threads) {
    search s = {.k = k};
    arena a = {NULL, 64};
    lay_out(&s, &a, probes < BLOCK ? probes : BLOCK, dim, submodels, threads);
    return a.used;
}

static double norm_of(const float *x, size_t dim) {
    double sum = 0;
    for (size_t i = 0; i < dim; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

/* Rounds a probe to int8; returns the scale and leaves |probe - scale * codes| in `error`. Written
 * for processors without a rounding instruction: adding 1.5 * 2^23 rounds to an integer. The order
 * of the comparisons turns NaN into a code. */
static float quantise(const float *x, size_t dim, int limit, int8_t *codes, double *error) {
    const float most = (float)limit, shift = 12582912.0f;
    float greatest = 0;
    for (size_t i = 0; i < dim; i++) {
        const float size = fabsf(x[i]);
        greatest = size > greatest ? size : greatest;
    }
    const float scale = greatest > 1e-30f ? greatest / most : 1.0f;
    double sum = 0;
    for (size_t i = 0; i < dim; i++) {
        float code = x[i] / scale;
        code = code > -most ? code : -most;
        code = code < most ? code : most;
        codes[i] = (int8_t)((code + shift) - shift);
        double rest = (double)x[i] - (double)scale * codes[i];
        sum += rest * rest;
    }
    *error = sqrt(sum) * (1 + 1e-9);
    return scale;
}

/* Where dword `word` of a probe goes in its panel; `phases` is a power of two. */
static size_t slot(const panel *p, unsigned probe, size_t word) {
    const unsigned shift = (unsigned)__builtin_ctz(p->phases);
    return ((word >> shift) * p->padded + probe) * p->phases + (word & (p->phases - 1));
}

static void pack(const search *s, const edgeface_matrix *m, panel *p, unsigned i, top *t) {
    const float *x = t->probe;
    t->probe_norm = norm_of(x, m->dim);
    if (m->storage != EDGEFACE_INT8) {
        for (size_t j = 0; j < m->dim; j++) ((float *)p->data)[slot(p, i, j)] = x[j];
        p->unit[i] = 1.0f;
        return;
    }
    int8_t codes[EDGEFACE_MAX_DIM + 3], *data = (int8_t *)p->data;
    p->unit[i] = quantise(x, m->dim, s->kernel->code_limit, codes, &t->probe_error);
    for (size_t j = m->dim; j % 4; j++) codes[j] = 0;
    for (size_t j = 0; j < m->dim; j += 4) {
        const int8_t *word = codes + j;
        memcpy(data + 4 * slot(p, i, j / 4), word, 4);
        if (!s->kernel->signed_codes)
            p->init[i * p->phases + (j / 4 & (p->phases - 1))] -=
                128 * (word[0] + word[1] + word[2] + word[3]);
    }
}

/* The error bounds that edgeface.h states. */
static void set_slack(top *t) {
    const edgeface_matrix *m = t->matrix;
    const double size = t->probe_norm * (double)m->norm;
    if (m->storage == EDGEFACE_INT8) {
        t->slack = (double)m->norm * t->probe_error + 8 * 0x1p-24 * size;
        t->slack_row = t->probe_norm + t->probe_error;
    } else
        t->slack = ((double)m->dim + 16) * 0x1p-24 * size;
    t->slack_max = t->slack + t->slack_row * (double)m->error_max;
}

/* Lanes for the next probes: as few as hold them all, a power of two. */
static void plan(const edgeface_kernel *kernel, size_t left, panel *p) {
    const unsigned lanes = 2 * kernel->width;
    p->padded = 1;
    while (p->padded < left && p->padded < lanes) p->padded *= 2;
    p->probes = (unsigned)(left < p->padded ? left : p->padded);
    p->vectors = p->padded == 1 ? 1 : 2;
    p->phases = p->vectors * kernel->width / p->padded;
}

/* Packs the probes of a block for one matrix. */
static void prepare(search *s, side *to, const edgeface_matrix *m, edgeface_cost *cost) {
    const int codes = m->storage == EDGEFACE_INT8;
    const size_t wide = padded_dim(m->dim, UNIT) * (codes ? 1 : sizeof(float));
    char *data = codes ? (char *)s->codes : (char *)s->floats;
    size_t j = 0;
    for (size_t done = 0; done < s->probe_count; j++) {
        panel *p = &to->panels[j];
        memset(p, 0, sizeof *p);
        plan(s->kernel, s->probe_count - done, p);
        p->data = data;
        p->tops = to->tops + done;
        memset(data, 0, p->padded * wide);
        data += p->padded * wide;
        for (unsigned i = 0; i < PANEL; i++) {
            p->threshold[i] = i % p->padded < p->probes ? -INFINITY : INFINITY;
            p->maximum[i] = -INFINITY;
            p->argmax[i] = UINT32_MAX;
        }
        for (unsigned i = 0; i < p->probes; i++, done++) {
            edgeface_top_init(&p->tops[i], m, s->probes + done * m->dim, s->k, cost);
            pack(s, m, p, i, &p->tops[i]);
            set_slack(&p->tops[i]);
        }
    }
    s->panel_count = j;
}

/* The same packed probes for another worker, or for another matrix of the same storage. */
static void share(const search *s, const side *from, side *to, const edgeface_matrix *m,
                  edgeface_cost *cost) {
    memcpy(to->panels, from->panels, s->panel_count * sizeof(panel));
    for (size_t j = 0; j < s->panel_count; j++)
        to->panels[j].tops = to->tops + (from->panels[j].tops - from->tops);
    for (size_t i = 0; i < s->probe_count; i++) {
        top *t = &to->tops[i];
        edgeface_top_init(t, m, from->tops[i].probe, s->k, cost);
        t->probe_norm = from->tops[i].probe_norm;
        t->probe_error = from->tops[i].probe_error;
        set_slack(t);
    }
}

static void scan_submodels(worker *w, const edgeface_matrix *m, size_t begin, size_t end) {
    const search *s = w->shared;
    const int64_t *offsets = s->submodels->offsets;
    size_t low = 0, high = s->submodels->submodels;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if ((size_t)offsets[middle] <= begin)
            low = middle;
        else
            high = middle;
    }
    for (size_t submodel = low; begin < end; submodel++) {
        size_t stop = (size_t)offsets[submodel + 1] < end ? (size_t)offsets[submodel + 1] : end;
        if (stop <= begin) continue;
        s->kernel->scan(m, begin, stop, w->sides[0].panels, s->panel_count, w->scratch,
                        &s->submodels->scale);
        edgeface_statistics_flush(w->statistics + submodel * s->probe_count, w->sides[0].panels,
                                  s->panel_count);
        begin = stop;
    }
}

static void *work(void *argument) {
    worker *w = argument;
    search *s = w->shared;
    size_t chunks = (s->matrices[0]->rows + CHUNK - 1) / CHUNK * s->matrix_count;
    for (;;) {
        size_t chunk = atomic_fetch_add(&s->next, 1);
        if (chunk >= chunks) return NULL;
        const size_t which = chunk % s->matrix_count;
        const edgeface_matrix *m = s->matrices[which];
        size_t begin = chunk / s->matrix_count * CHUNK, end = begin + CHUNK;
        if (end > m->rows) end = m->rows;
        if (which == 0 && s->submodels)
            scan_submodels(w, m, begin, end);
        else
            s->kernel->scan(m, begin, end, w->sides[which].panels, s->panel_count, w->scratch,
                            NULL);
    }
}

/* Scans every matrix for one block of probes; the workers' tops hold what each found. */
static void run(search *s, const float *probes, size_t count) {
    s->probes = probes;
    s->probe_count = count;
    atomic_store(&s->next, 0);
    for (int t = 0; t < s->threads; t++) {
        worker *w = &s->workers[t];
        w->cost = (edgeface_cost){0, 0};
        for (size_t which = 0; which < s->matrix_count; which++) {
            const edgeface_matrix *m = s->matrices[which];
            if (t > 0)
                share(s, &s->workers[0].sides[which], &w->sides[which], m, &w->cost);
            else if (which == 1 && m->storage == s->matrices[0]->storage)
                share(s, &w->sides[0], &w->sides[1], m, &w->cost);
            else
                prepare(s, &w->sides[which], m, &w->cost);
        }
        size_t entries = s->submodels ? s->submodels->submodels * count : 0;
        for (size_t i = 0; i < entries; i++)
            w->statistics[i] = (statistic){-INFINITY, UINT32_MAX, 0};
    }
    pthread_t threads[EDGEFACE_MAX_THREADS];
    int started = 0;
    /* A thread that cannot be had is no error: the others take its chunks. */
    while (started < s->threads - 1 &&
           pthread_create(&threads[started], NULL, work, &s->workers[started + 1]) == 0)
        started++;
    work(&s->workers[0]);
    for (int t = 0; t < started; t++) pthread_join(threads[t], NULL);
}

static int64_t id_of(const edgeface_matrix *m, uint32_t row) {
    return m->ids ? m->ids[row] : (int64_t)row;
}

/* The next best exact candidate of one probe over all workers, NULL when none is left. */
static const candidate *next_best(search *s, size_t which, size_t probe, size_t *at) {
    const edgeface_matrix *m = s->matrices[which];
    const candidate *best = NULL;
    int owner = 0;
    for (int t = 0; t < s->threads; t++) {
        const top *part = &s->workers[t].sides[which].tops[probe];
        if (at[t] == part->count) continue;
        const candidate *c = &part->candidates[at[t]];
        if (!best || c->upper > best->upper ||
            (c->upper == best->upper && id_of(m, c->row) < id_of(m, best->row))) {
            best = c;
            owner = t;
        }
    }
    if (best) at[owner]++;
    return best;
}

/* Makes every worker's candidates of one probe exact and sorted. What one worker knows about the
 * k-th best spares the others rescoring. */
static void settle(search *s, size_t which, size_t probe) {
    double floor = -INFINITY;
    for (int t = 0; t < s->threads; t++)
        floor = fmax(floor, s->workers[t].sides[which].tops[probe].floor);
    for (int t = 0; t < s->threads; t++) {
        top *part = &s->workers[t].sides[which].tops[probe];
        part->floor = floor;
        edgeface_top_resolve(part);
        floor = fmax(floor, part->floor);
    }
}

static int valid(const edgeface_matrix *m, size_t dim) {
    if (!m->scan || !m->exact || m->rows == 0 || m->rows >= UINT32_MAX) return 0;
    if (m->dim != dim || dim == 0 || dim > EDGEFACE_MAX_DIM || !(m->norm >= 0)) return 0;
    if (m->exact_storage != EDGEFACE_FLOAT32 && m->exact_storage != EDGEFACE_FLOAT16) return 0;
    if (m->storage == EDGEFACE_INT8) return m->scale && m->error && m->error_max >= 0;
    return m->storage == m->exact_storage && m->scan == m->exact;
}

static int valid_submodels(const edgeface_submodels *s, const edgeface_matrix *m) {
    if (!s) return 1;
    if (m->storage == EDGEFACE_INT8 || !s->offsets || s->submodels == 0) return 0;
    if (s->offsets[0] != 0 || s->offsets[s->submodels] != (int64_t)m->rows) return 0;
    for (size_t i = 0; i < s->submodels; i++)
        if (s->offsets[i] > s->offsets[i + 1]) return 0;
    return isfinite(s->scale) && s->scale > 0 && s->maximum && s->argmax && s->log_sum_exp;
}

static int begin(search *s, size_t probe_count, int threads, void *workspace) {
    const edgeface_matrix *m = s->matrices[0];
    if (!s->kernel) return EDGEFACE_NO_KERNEL;
    if (!valid(m, m->dim) || s->k == 0 || threads < 1 || !workspace) return EDGEFACE_BAD_ARGUMENT;
    if (s->matrix_count == 2 && (!valid(s->matrices[1], m->dim) ||
                                 s->matrices[1]->rows != m->rows))
        return EDGEFACE_BAD_ARGUMENT;
    if (!valid_submodels(s->submodels, m)) return EDGEFACE_BAD_ARGUMENT;
    const size_t block = probe_count < BLOCK ? probe_count : BLOCK;
    arena a = {workspace, (64 - (uintptr_t)workspace % 64) % 64};
    if (threads > EDGEFACE_MAX_THREADS) threads = EDGEFACE_MAX_THREADS;
    lay_out(s, &a, block, m->dim, s->submodels ? s->submodels->submodels : 0, threads);
    double madds = (double)m->rows * (double)m->dim * (double)(s->matrix_count * block);
    s->threads = madds < THREAD_WORK ? 1 : threads;
    return EDGEFACE_OK;
}

static void add_cost(const search *s, edgeface_cost *cost) {
    for (int t = 0; cost && t < s->threads; t++) {
        cost->rescored += s->workers[t].cost.rescored;
        cost->overflows += s->workers[t].cost.overflows;
    }
}

int edgeface_topk(const edgeface_kernel *kernel, const edgeface_matrix *rows, const float *probes,
                  size_t probe_count, size_t k, int threads, void *workspace, int64_t *ids,
                  float *similarities, edgeface_cost *cost) {
    search s = {.kernel = kernel, .matrices = {rows}, .matrix_count = 1, .k = k};
    int status = begin(&s, probe_count, threads, workspace);
    if (status) return status;
    for (size_t done = 0; done < probe_count; done += BLOCK) {
        size_t count = probe_count - done < BLOCK ? probe_count - done : BLOCK;
        run(&s, probes + done * rows->dim, count);
        for (size_t i = 0; i < count; i++) {
            size_t at[EDGEFACE_MAX_THREADS] = {0};
            settle(&s, 0, i);
            for (size_t j = (done + i) * k; j < (done + i + 1) * k; j++) {
                const candidate *c = next_best(&s, 0, i, at);
                ids[j] = c ? id_of(rows, c->row) : -1;
                similarities[j] = c ? (float)c->upper : -INFINITY;
            }
        }
        add_cost(&s, cost);
    }
    return EDGEFACE_OK;
}

static void write_statistics(const search *s, size_t done, size_t count) {
    const edgeface_submodels *out = s->submodels;
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < out->submodels; j++) {
            statistic total = {-INFINITY, UINT32_MAX, 0};
            for (int t = 0; t < s->threads; t++) {
                const statistic *part = &s->workers[t].statistics[j * count + i];
                if (part->maximum > total.maximum ||
                    (part->maximum == total.maximum && part->row < total.row)) {
                    total.maximum = part->maximum;
                    total.row = part->row;
                }
                total.sum += part->sum;
            }
            size_t at = (done + i) * out->submodels + j;
            out->maximum[at] = total.maximum;
            out->argmax[at] = total.row == UINT32_MAX ? -1 : id_of(s->matrices[0], total.row);
            out->log_sum_exp[at] = log(total.sum);
        }
}

int edgeface_mixmaxsim(const edgeface_kernel *kernel, const edgeface_matrix *weights,
                       const edgeface_matrix *centres, const float *probes, size_t probe_count,
                       int threads, void *workspace, int64_t *classes, float *scores,
                       const edgeface_submodels *submodels, edgeface_cost *cost) {
    search s = {.kernel = kernel, .matrices = {weights, centres}, .matrix_count = 2, .k = 1,
                .submodels = submodels};
    int status = begin(&s, probe_count, threads, workspace);
    if (status) return status;
    for (size_t done = 0; done < probe_count; done += BLOCK) {
        size_t count = probe_count - done < BLOCK ? probe_count - done : BLOCK;
        run(&s, probes + done * weights->dim, count);
        for (size_t i = 0; i < count; i++) {
            for (size_t which = 0; which < 2; which++) {
                size_t at[EDGEFACE_MAX_THREADS] = {0};
                settle(&s, which, i);
                const candidate *c = next_best(&s, which, i, at);
                const edgeface_matrix *own = s.matrices[which], *other = s.matrices[1 - which];
                const float *x = probes + (done + i) * weights->dim;
                /* a or b, and the winner's score in the other matrix: b' or a'. */
                classes[2 * (done + i) + which] = c ? id_of(own, c->row) : -1;
                scores[4 * (done + i) + 2 * which] = c ? (float)c->upper : -INFINITY;
                scores[4 * (done + i) + 3 - 2 * which] =
                    c ? (float)edgeface_exact(other, c->row, x) : -INFINITY;
            }
        }
        if (submodels) write_statistics(&s, done, count);
        add_cost(&s, cost);
    }
    return EDGEFACE_OK;
}
