/* Fuzz harness: kNN graphs of any shape and amounts of any bits through overlap and lookup on every
 * instruction set, which must agree to the bit; then a graph of edges through the partition, whose
 * labels must be numbered by their first node. Ids, nodes and targets are made valid: the C code
 * trusts them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../graph/graph.h"

static const uint8_t *input;
static size_t left;

static unsigned byte(void) {
    if (!left) return 0;
    left--;
    return *input++;
}

static void *room(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (!p) abort();
    return p;
}

static float any_float(void) {
    uint32_t bits = byte() | byte() << 8 | byte() << 16 | (uint32_t)byte() << 24;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Bitwise, but any NaN equals any other: their payloads may differ. */
static void must_agree(const float *a, const float *b, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (memcmp(a + i, b + i, 4) && !(isnan(a[i]) && isnan(b[i]))) abort();
}

static void overlaps(void) {
    const int64_t n = 1 + byte() % 32, k = 1 + byte() % 40, channels = 1 + byte() % 8;
    const int64_t m = byte() % 4;
    const edgeface_overlap_kind kind = (edgeface_overlap_kind)(byte() & 1);
    int32_t *ids = room((size_t)(n * k) * 4), *nodes = room((size_t)m * 4);
    int32_t *targets = room((size_t)(m * k) * 4);
    float *amounts = room((size_t)(n * k * channels) * 4);
    float *out = room((size_t)(m * k * channels) * 4), *first = room((size_t)(m * k * channels) * 4);
    for (int64_t i = 0; i < n; i++) {
        int64_t kept = 0;
        for (int64_t id = 0; id < n && kept < k; id++)
            if (byte() & 1) ids[i * k + kept++] = (int32_t)id;
        while (kept < k) ids[i * k + kept++] = EDGEFACE_GRAPH_PAD;
    }
    for (int64_t r = 0; r < m; r++) nodes[r] = (int32_t)(byte() % n);
    for (int64_t e = 0; e < m * k; e++) targets[e] = (int32_t)(byte() % (n + 1)) - 1;
    for (int64_t a = 0; a < n * k * channels; a++) amounts[a] = any_float();
    const edgeface_graph g = {n, k, channels, ids, amounts};
    if (edgeface_overlap(EDGEFACE_SCALAR, &g, m, nodes, targets, kind, first)) abort();
    for (edgeface_instructions s = 0; s < EDGEFACE_INSTRUCTION_SETS; s++)
        if (!edgeface_overlap(s, &g, m, nodes, targets, kind, out))
            must_agree(first, out, (size_t)(m * k * channels));
    edgeface_lookup(&g, m, nodes, targets, -1.0f, out);
    free(ids);
    free(nodes);
    free(targets);
    free(amounts);
    free(out);
    free(first);
}

static void partition(void) {
    enum { MOST = 48 };
    static float weights[MOST][MOST];
    const int64_t n = 1 + byte() % MOST, pairs = byte();
    int64_t start[MOST + 1] = {0};
    int32_t targets[MOST * MOST], labels[MOST];
    float values[MOST * MOST];
    double length = NAN;
    memset(weights, 0, sizeof weights);
    for (int64_t p = 0; p < pairs; p++) {
        const unsigned i = byte() % n, j = byte() % n;
        const float weight = ldexpf((float)(1 + byte()), (int)(byte() % 200) - 100);
        if (i != j) weights[i][j] = weights[j][i] = weight;
    }
    for (int64_t i = 0, e = 0; i < n; i++) {
        for (int64_t j = 0; j < n; j++)
            if (weights[i][j] > 0) {
                targets[e] = (int32_t)j;
                values[e++] = weights[i][j];
            }
        start[i + 1] = e;
    }
    if (edgeface_partition(n, start, targets, values, labels, &length)) abort();
    if (!isfinite(length)) abort();
    int32_t next = 0;
    for (int64_t i = 0; i < n; i++) {
        if (labels[i] < 0 || labels[i] > next) abort();
        next += labels[i] == next;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input = data;
    left = size;
    if (byte() & 1)
        overlaps();
    else
        partition();
    return 0;
}
