/* Every kernel this machine runs against a double-precision oracle written here, over shapes that
 * leave remainders everywhere. Prints what was executed; exits 1 at the first wrong answer. */
#include <math.h>
#include <string.h>

#include "../score/score.h"
#include "check.h"

static float *unit_rows(size_t n, size_t dim) {
    float *rows = must(malloc(n * dim * sizeof *rows));
    for (size_t r = 0; r < n; r++) {
        double norm = 0;
        for (size_t i = 0; i < dim; i++) {
            double v = 0;
            for (int j = 0; j < 4; j++) v += uniform() - 0.5;
            rows[r * dim + i] = (float)v;
            norm += v * v;
        }
        for (size_t i = 0; i < dim; i++) rows[r * dim + i] /= (float)sqrt(norm);
    }
    return rows;
}

/* Round to nearest even, normal range only: enough for components of unit vectors. */
static uint16_t to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    int exponent = (int)(bits >> 23 & 255) - 112;
    if (exponent <= 0) return (uint16_t)(bits >> 16 & 0x8000);
    uint32_t mantissa = bits & 0x7fffff, half = (uint32_t)exponent << 10 | mantissa >> 13;
    half += (mantissa & 0x1fff) > 0x1000 || ((mantissa & 0x1fff) == 0x1000 && (half & 1));
    return (uint16_t)((bits >> 16 & 0x8000) | half);
}

static float from_half(uint16_t half) {
    int exponent = half >> 10 & 31;
    float value = exponent ? ldexpf((float)(1024 + (half & 1023)), exponent - 25)
                           : ldexpf((float)(half & 1023), -24);
    return half & 0x8000 ? -value : value;
}

typedef struct {
    edgeface_matrix matrix;
    void *owned[4];
} stored;

/* float32 rows in another storage; `rows` is overwritten with the values that define the answer. */
static stored store(float *rows, size_t n, size_t dim, edgeface_storage storage, int half) {
    stored s = {.matrix = {.rows = n, .dim = dim, .storage = storage, .norm = 1.01f}};
    s.matrix.exact = s.matrix.scan = rows;
    if (half || storage == EDGEFACE_FLOAT16) {
        uint16_t *halves = s.owned[0] = must(malloc(n * dim * 2));
        for (size_t i = 0; i < n * dim; i++) {
            halves[i] = to_half(rows[i]);
            rows[i] = from_half(halves[i]);
        }
        s.matrix.exact = s.matrix.scan = halves;
        s.matrix.exact_storage = EDGEFACE_FLOAT16;
    }
    if (storage != EDGEFACE_INT8) return s;
    const size_t wide = (dim + 63) / 64 * 64;
    uint8_t *codes = s.owned[1] = must(malloc(n * wide));
    float *scale = s.owned[2] = must(malloc(n * 4)), *error = s.owned[3] = must(malloc(n * 4));
    memset(codes, 128, n * wide);
    for (size_t r = 0; r < n; r++) {
        float most = 1e-30f;
        double sum = 0;
        for (size_t i = 0; i < dim; i++) most = fmaxf(most, fabsf(rows[r * dim + i]));
        scale[r] = most / 127;
        for (size_t i = 0; i < dim; i++) {
            float code = fmaxf(fminf(nearbyintf(rows[r * dim + i] / scale[r]), 127), -127);
            codes[r * wide + i] = (uint8_t)(code + 128);
            double rest = (double)rows[r * dim + i] - (double)code * (double)scale[r];
            sum += rest * rest;
        }
        error[r] = (float)(sqrt(sum) * (1 + 1e-6));
        s.matrix.error_max = fmaxf(s.matrix.error_max, error[r]);
    }
    s.matrix.scan = codes;
    s.matrix.scale = scale;
    s.matrix.error = error;
    return s;
}

static void drop(stored *s) {
    for (int i = 0; i < 4; i++) free(s->owned[i]);
}

static double dot(const float *a, const float *b, size_t dim) {
    double sum = 0;
    for (size_t i = 0; i < dim; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

static int descending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void check_topk(const edgeface_kernel *kernel, const stored *s, const float *rows,
                       const float *probes, size_t q, size_t k, int threads) {
    const size_t n = s->matrix.rows, dim = s->matrix.dim;
    int64_t *ids = must(malloc(q * k * 8));
    float *got = must(malloc(q * k * 4));
    double *want = must(malloc(n * 8));
    void *work = must(malloc(edgeface_workspace(q, dim, k, 0, threads)));
    edgeface_cost cost = {0, 0};
    int status = edgeface_topk(kernel, &s->matrix, probes, q, k, threads, work, ids, got, &cost);
    CHECK(status == 0, "status %d", status);
    for (size_t i = 0; i < q; i++) {
        for (size_t r = 0; r < n; r++) want[r] = dot(rows + r * dim, probes + i * dim, dim);
        for (size_t j = 0; j < k && j < n; j++) {
            int64_t id = ids[i * k + j];
            CHECK(id >= 0 && (size_t)id < n, "id %lld", (long long)id);
            CHECK(fabs(want[id] - (double)got[i * k + j]) < 1e-6, "similarity of its own row");
            for (size_t l = 0; l < j; l++) CHECK(ids[i * k + l] != id, "row twice");
        }
        qsort(want, n, sizeof *want, descending);
        for (size_t j = 0; j < k; j++)
            CHECK(j < n ? fabs(want[j] - (double)got[i * k + j]) < 1e-6 : ids[i * k + j] == -1,
                  "%s n %zu dim %zu q %zu k %zu place %zu: %.9g, want %.9g",
                  edgeface_kernel_name(kernel), n, dim, q, k, j, (double)got[i * k + j], want[j]);
    }
    CHECK(cost.rescored >= q, "nothing rescored");
    free(ids);
    free(got);
    free(want);
    free(work);
}

static void check_mixmaxsim(const edgeface_kernel *kernel, const stored *w, const stored *c,
                            const float *rows_w, const float *rows_c, const float *probes,
                            size_t q, size_t submodels, int threads) {
    const size_t n = w->matrix.rows, dim = w->matrix.dim, m = q * (submodels ? submodels : 1);
    int64_t *classes = must(malloc(q * 16)), *argmax = must(malloc(m * 8));
    int64_t *offsets = must(malloc((submodels + 1) * 8));
    float *scores = must(malloc(q * 16)), *maximum = must(malloc(m * 4));
    double *lse = must(malloc(m * 8));
    for (size_t s = 0; s <= submodels; s++)
        offsets[s] = submodels ? (int64_t)(n * s / submodels) : 0;
    if (submodels > 2) offsets[1] = 0; /* an empty one */
    edgeface_submodels out = {offsets, submodels, 32.0f, maximum, argmax, lse};
    void *work = must(malloc(edgeface_workspace(q, dim, 1, submodels, threads)));
    edgeface_cost cost = {0, 0};
    int status = edgeface_mixmaxsim(kernel, &w->matrix, &c->matrix, probes, q, threads, work,
                                    classes, scores, submodels ? &out : NULL, &cost);
    CHECK(status == 0, "status %d", status);
    for (size_t i = 0; i < q; i++) {
        const float *x = probes + i * dim, *s = scores + 4 * i;
        size_t a = (size_t)classes[2 * i], b = (size_t)classes[2 * i + 1];
        for (size_t r = 0; r < n; r++) {
            CHECK(dot(rows_w + r * dim, x, dim) <= (double)s[0] + 1e-6, "a is not the maximum");
            CHECK(dot(rows_c + r * dim, x, dim) <= (double)s[2] + 1e-6, "b is not the maximum");
        }
        CHECK(fabs(dot(rows_w + a * dim, x, dim) - (double)s[0]) < 1e-6, "a");
        CHECK(fabs(dot(rows_w + b * dim, x, dim) - (double)s[1]) < 1e-6, "a'");
        CHECK(fabs(dot(rows_c + b * dim, x, dim) - (double)s[2]) < 1e-6, "b");
        CHECK(fabs(dot(rows_c + a * dim, x, dim) - (double)s[3]) < 1e-6, "b'");
        for (size_t k = 0; k < submodels; k++) {
            double best = -INFINITY, sum = 0;
            for (int64_t r = offsets[k]; r < offsets[k + 1]; r++) {
                double v = dot(rows_w + (size_t)r * dim, x, dim);
                best = fmax(best, v);
                sum += exp(32 * v);
            }
            size_t at = i * submodels + k;
            if (offsets[k] == offsets[k + 1]) {
                CHECK(argmax[at] == -1 && isinf(maximum[at]) && isinf(lse[at]), "empty submodel");
                continue;
            }
            CHECK(fabs(best - (double)maximum[at]) < 1e-5, "maximum of submodel %zu", k);
            CHECK(fabs(log(sum) - lse[at]) < 1e-3, "log-sum-exp %g want %g", lse[at], log(sum));
            CHECK(argmax[at] >= offsets[k] && argmax[at] < offsets[k + 1], "argmax outside");
        }
    }
    free(classes);
    free(argmax);
    free(offsets);
    free(scores);
    free(maximum);
    free(lse);
    free(work);
}

static void check_kernel(const char *name, int rounds) {
    static const size_t dims[] = {1, 2, 15, 16, 17, 48, 64, 100, 128, 130, 512};
    static const size_t counts[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 32, 33, 130};
    const edgeface_kernel *kernel = edgeface_find_kernel(name);
    for (int round = 0; round < rounds; round++) {
        state = (uint64_t)round * 7919 + 1;
        size_t dim = dims[round % 11], q = counts[(round * 5) % 13];
        size_t n = 1 + (size_t)(uniform() * (round % 4 == 3 ? 1700 : 60));
        edgeface_storage storage = (edgeface_storage)(round % 3);
        int half = storage == EDGEFACE_INT8 && round / 3 % 2, threads = 1 + round % 3;
        size_t k = 1 + (size_t)(uniform() * 6);
        float *w = unit_rows(n, dim), *c = unit_rows(n, dim), *probes = unit_rows(q, dim);
        if (round % 5 == 4) /* duplicates: exact ties */
            for (size_t r = 1; r < n; r++) memcpy(w + r * dim, w + r % 3 * dim, dim * 4);
        stored sw = store(w, n, dim, storage, half), sc = store(c, n, dim, storage, half);
        check_topk(kernel, &sw, w, probes, q, k, threads);
        size_t submodels = storage == EDGEFACE_INT8 ? 0 : (size_t)round % 6;
        check_mixmaxsim(kernel, &sw, &sc, w, c, probes, q, submodels, threads);
        drop(&sw);
        drop(&sc);
        free(w);
        free(c);
        free(probes);
    }
    printf("%s: executed, %d rounds\n", name, rounds);
}

/* Arguments that must be refused, not crashed on. */
static void check_refusals(void) {
    const edgeface_kernel *kernel = edgeface_find_kernel(NULL);
    float x[16] = {1}, out[4];
    int64_t ids[4];
    char work[1 << 16];
    edgeface_matrix good = {.scan = x, .exact = x, .rows = 1, .dim = 16, .norm = 1};
    edgeface_matrix bad = good;
    CHECK(edgeface_workspace(1, 16, 1, 0, 1) <= sizeof work, "workspace");
    CHECK(edgeface_topk(NULL, &good, x, 1, 1, 1, work, ids, out, NULL) == EDGEFACE_NO_KERNEL, " ");
    CHECK(edgeface_topk(kernel, &good, x, 1, 0, 1, work, ids, out, NULL) < 0, "k 0");
    CHECK(edgeface_topk(kernel, &good, x, 1, 1, 0, work, ids, out, NULL) < 0, "threads 0");
    bad.rows = 0;
    CHECK(edgeface_topk(kernel, &bad, x, 1, 1, 1, work, ids, out, NULL) < 0, "rows 0");
    bad = good;
    bad.dim = EDGEFACE_MAX_DIM + 1;
    CHECK(edgeface_topk(kernel, &bad, x, 1, 1, 1, work, ids, out, NULL) < 0, "dim");
    bad = good;
    bad.storage = EDGEFACE_INT8;
    CHECK(edgeface_topk(kernel, &bad, x, 1, 1, 1, work, ids, out, NULL) < 0, "no scale");
    CHECK(edgeface_find_kernel("abacus") == NULL, "unknown kernel");
    CHECK(edgeface_topk(kernel, &good, x, 1, 1, 1, work, ids, out, NULL) == 0, "good");
    CHECK(ids[0] == 0 && out[0] == 1.0f, "itself");
}

int main(int argc, char **argv) {
    int rounds = argc > 1 ? atoi(argv[1]) : 60;
    const char *name;
    for (size_t i = 0; (name = edgeface_compiled_kernel(i)); i++) {
        if (edgeface_find_kernel(name))
            check_kernel(name, rounds);
        else
            printf("%s: compiled, NOT executed: this processor lacks its instructions\n", name);
    }
    check_refusals();
    printf("ok\n");
    return 0;
}
