/* libFuzzer harness: shapes, storages and packed bytes of any content, on every kernel. A sanitizer
 * or an answer outside its range is the only failure: rows of noise have no right answer, but the
 * float storages, whose answers are checked in test_score.c, must agree between kernels. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../score/score.h"

static const uint8_t *input;
static size_t left;

static unsigned byte(void) {
    if (!left) return 0;
    left--;
    return *input++;
}

static void *filled(size_t bytes) {
    uint8_t *p = malloc(bytes ? bytes : 1);
    if (!p) abort();
    for (size_t i = 0; i < bytes; i++) p[i] = (uint8_t)byte();
    return p;
}

static float *floats(size_t count, float limit) {
    float *p = malloc((count ? count : 1) * sizeof *p);
    if (!p) abort();
    for (size_t i = 0; i < count; i++) p[i] = ((float)byte() - 127.5f) / 127.5f * limit;
    return p;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input = data;
    left = size;
    const size_t n = 1 + byte() % 64, dim = 1 + byte() % 140, q = 1 + byte() % 40;
    const size_t k = 1 + byte() % 9, submodels = byte() % 5, wide = (dim + 63) / 64 * 64;
    const edgeface_storage storage = (edgeface_storage)(byte() % 3);
    const int half = byte() & 1, threads = 1 + (int)(byte() & 1);
    float *exact = floats(n * dim, 1), *probes = floats(q * dim, 1);
    uint16_t *halves = filled(2 * n * dim); /* NaN and infinities included */
    uint8_t *codes = filled(n * wide);
    float *scale = floats(n, 0.01f), *error = floats(n, 0.1f);
    int64_t *offsets = calloc(submodels + 1, 8);
    for (size_t i = 1; i < submodels; i++) offsets[i] = (int64_t)(byte() % (n + 1));
    if (submodels) offsets[submodels] = (int64_t)n;
    edgeface_matrix m = {.rows = n, .dim = dim, .storage = storage, .norm = 2, .error_max = 0.1f};
    m.exact_storage = storage == EDGEFACE_FLOAT32 ? storage
                      : storage == EDGEFACE_FLOAT16 || half ? EDGEFACE_FLOAT16 : EDGEFACE_FLOAT32;
    m.exact = m.exact_storage == EDGEFACE_FLOAT16 ? (void *)halves : (void *)exact;
    m.scan = storage == EDGEFACE_INT8 ? (void *)codes : m.exact;
    m.scale = scale;
    m.error = error;
    int64_t *ids = malloc(q * k * 8), *classes = malloc(q * 16);
    int64_t *argmax = malloc((q * submodels + 1) * 8);
    float *out = malloc(q * k * 4), *scores = malloc(q * 16), *first = malloc(q * k * 4);
    float *maximum = malloc((q * submodels + 1) * 4);
    double *lse = malloc((q * submodels + 1) * 8);
    size_t bytes = edgeface_workspace(q, dim, k, 0, threads);
    const size_t more = edgeface_workspace(q, dim, 1, submodels, threads);
    if (more > bytes) bytes = more;
    void *work = malloc(bytes);
    const char *name;
    int seen = 0;
    for (size_t i = 0; (name = edgeface_compiled_kernel(i)); i++) {
        const edgeface_kernel *kernel = edgeface_find_kernel(name);
        edgeface_cost cost = {0, 0};
        if (!kernel) continue;
        if (edgeface_topk(kernel, &m, probes, q, k, threads, work, ids, out, &cost)) abort();
        for (size_t j = 0; j < q * k; j++)
            if (ids[j] < -1 || ids[j] >= (int64_t)n) abort();
        if (storage == EDGEFACE_FLOAT32 && dim <= 16) { /* norms within `norm`: must be equal */
            if (seen && memcmp(first, out, q * k * 4)) abort();
            memcpy(first, out, q * k * 4);
            seen = 1;
        }
        edgeface_submodels s = {offsets, submodels, 1.0f, maximum, argmax, lse};
        /* Descending offsets, and submodels of int8 rows, are refused and leave no answer. */
        if (edgeface_mixmaxsim(kernel, &m, &m, probes, q, threads, work, classes, scores,
                               submodels ? &s : NULL, &cost))
            continue;
        for (size_t j = 0; j < q * 2; j++)
            if (classes[j] < -1 || classes[j] >= (int64_t)n) abort();
    }
    void *all[] = {exact, probes, halves, codes, scale, error, offsets, ids, classes,
                   argmax, out, scores, first, maximum, lse, work};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    return 0;
}
