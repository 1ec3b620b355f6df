/* The graph steps on every instruction set this machine has, against definitions written here.
 * Prints what was executed; exits 1 at the first wrong answer. */
#include <math.h>
#include <string.h>

#include "../graph/graph.h"
#include "check.h"

static int64_t below(int64_t n) { return (int64_t)(uniform() * (double)n); }

/* A random kNN graph: every row has 0 to k distinct neighbours, ascending, then padding. */
static edgeface_graph random_graph(int64_t n, int64_t k, int64_t channels) {
    int32_t *ids = must(malloc((size_t)(n * k) * sizeof *ids));
    float *amounts = must(malloc((size_t)(n * k * channels) * sizeof *amounts));
    for (int64_t i = 0; i < n; i++) {
        const int64_t wanted = below((n < k ? n : k) + 1);
        int64_t kept = 0;
        for (int64_t id = 0; id < n && kept < wanted; id++) /* a sample without replacement */
            if (below(n - id) < wanted - kept) ids[i * k + kept++] = (int32_t)id;
        while (kept < k) ids[i * k + kept++] = EDGEFACE_GRAPH_PAD;
    }
    for (int64_t a = 0; a < n * k * channels; a++) amounts[a] = (float)uniform();
    return (edgeface_graph){n, k, channels, ids, amounts};
}

static void drop(const edgeface_graph *g) {
    free((void *)g->ids);
    free((void *)g->amounts);
}

/* The place at which row i lists node c, or -1: a linear search. */
static int64_t find(const edgeface_graph *g, int64_t i, int32_t c) {
    for (int64_t p = i * g->k; p < (i + 1) * g->k; p++)
        if (g->ids[p] == c) return p;
    return -1;
}

static float wanted_overlap(const edgeface_graph *g, int64_t channel, int64_t i, int64_t j,
                            edgeface_overlap_kind kind) {
    float sum = 0;
    for (int64_t p = i * g->k; j >= 0 && p < (i + 1) * g->k; p++) {
        const int64_t q = g->ids[p] == EDGEFACE_GRAPH_PAD ? -1 : find(g, j, g->ids[p]);
        if (q < 0) continue;
        const float a = g->amounts[channel * g->n * g->k + p];
        const float b = g->amounts[channel * g->n * g->k + q];
        sum += kind == EDGEFACE_OVERLAP_MEAN ? 0.5f * (a + b) : a * b;
    }
    return sum;
}

static void check_overlap(edgeface_instructions set, int rounds) {
    for (int round = 0; round < rounds; round++) {
        state = (uint64_t)round * 7919 + 1;
        const int64_t n = 1 + below(round % 4 == 3 ? 200 : 40), k = 1 + below(50);
        const int64_t channels = 1 + round % EDGEFACE_GRAPH_CHANNELS, m = below(7);
        const edgeface_overlap_kind kind = (edgeface_overlap_kind)(round & 1);
        edgeface_graph g = random_graph(n, k, channels);
        /* One more than needed: malloc(0) may be NULL. */
        int32_t *nodes = must(malloc((size_t)(m + 1) * sizeof *nodes));
        int32_t *targets = must(malloc((size_t)(m * k + 1) * sizeof *targets));
        float *out = must(malloc((size_t)(m * k * channels + 1) * sizeof *out));
        for (int64_t r = 0; r < m; r++) nodes[r] = (int32_t)below(n);
        for (int64_t e = 0; e < m * k; e++) targets[e] = (int32_t)(below(n + 1) - 1);
        CHECK(edgeface_overlap(set, &g, m, nodes, targets, kind, out) == 0, "status");
        for (int64_t c = 0; c < channels; c++)
            for (int64_t e = 0; e < m * k; e++) {
                const float want = wanted_overlap(&g, c, nodes[e / k], targets[e], kind);
                CHECK(out[c * m * k + e] == want, "round %d channel %lld edge %lld: %.9g, want %.9g",
                      round, (long long)c, (long long)e, (double)out[c * m * k + e], (double)want);
            }
        edgeface_lookup(&g, m, nodes, targets, 9.0f, out);
        for (int64_t e = 0; e < m * k; e++) {
            const int64_t p = targets[e] < 0 ? -1 : find(&g, targets[e], nodes[e / k]);
            CHECK(out[e] == (p < 0 ? 9.0f : g.amounts[p]), "lookup of edge %lld", (long long)e);
        }
        free(nodes);
        free(targets);
        free(out);
        drop(&g);
    }
    printf("%s: executed, %d rounds\n", edgeface_instructions_name(set), rounds);
}

/* Bits per step straight from the map equation, on the dense matrix of weights. */
static double map_equation(int64_t n, const double *weights, const int32_t *labels) {
    double total = 0, bits = 0, leaving = 0;
    for (int64_t i = 0; i < n * n; i++) total += weights[i];
    for (int64_t i = 0; i < n; i++) {
        double visit = 0;
        for (int64_t j = 0; j < n; j++) visit += weights[i * n + j] / total;
        if (visit > 0) bits -= visit * log2(visit);
    }
    for (int32_t label = 0; label < n; label++) {
        double visit = 0, out = 0;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; labels[i] == label && j < n; j++) {
                visit += weights[i * n + j] / total;
                if (labels[j] != label) out += weights[i * n + j] / total;
            }
        leaving += out;
        if (out > 0) bits -= 2 * out * log2(out);
        if (out + visit > 0) bits += (out + visit) * log2(out + visit);
    }
    return bits + (leaving > 0 ? leaving * log2(leaving) : 0);
}

/* Partitions the graph of a dense symmetric matrix without diagonal; labels (n). */
static double partition(int64_t n, const double *weights, int32_t *labels) {
    int64_t *start = must(malloc((size_t)(n + 1) * sizeof *start));
    int32_t *targets = must(malloc((size_t)(n * n + 1) * sizeof *targets));
    float *values = must(malloc((size_t)(n * n + 1) * sizeof *values));
    double length = -1;
    start[0] = 0;
    for (int64_t i = 0, e = 0; i < n; i++) {
        for (int64_t j = 0; j < n; j++)
            if (weights[i * n + j] > 0) {
                targets[e] = (int32_t)j;
                values[e++] = (float)weights[i * n + j];
            }
        start[i + 1] = e;
    }
    CHECK(edgeface_partition(n, start, targets, values, labels, &length) == 0, "memory");
    free(start);
    free(targets);
    free(values);
    return length;
}

static void check_partition(int rounds) {
    int32_t labels[64], alone[64];
    double *weights = must(malloc(64 * 64 * sizeof *weights));
    for (int32_t i = 0; i < 64; i++) alone[i] = i;
    for (int round = 0; round < rounds; round++) {
        state = (uint64_t)round * 104729 + 1;
        const int64_t n = 1 + below(60), groups = 1 + below(6), edges = below(4 * n);
        memset(weights, 0, 64 * 64 * sizeof *weights);
        for (int64_t e = 0; e < edges; e++) {
            const int64_t i = below(n), j = uniform() < 0.8 ? (i + groups * below(n)) % n : below(n);
            if (i != j) weights[i * n + j] = weights[j * n + i] = (float)(0.01 + uniform());
        }
        const double length = partition(n, weights, labels);
        int32_t next = 0;
        double linked = 0;
        for (int64_t i = 0; i < n; i++) {
            CHECK(labels[i] >= 0 && labels[i] <= next, "not numbered by first node");
            next += labels[i] == next;
        }
        for (int64_t i = 0; i < n * n; i++) linked += weights[i];
        if (linked == 0) {
            CHECK(length == 0 && next == n, "a graph without edges");
            continue;
        }
        const double want = map_equation(n, weights, labels);
        CHECK(fabs(length - want) < 1e-6, "round %d: says %.9g bits, takes %.9g", round, length,
              want);
        CHECK(length <= map_equation(n, weights, alone) + 1e-9, "longer than everyone alone");
        /* Fine tuning ended, so that no node alone shortens the code by going to a neighbour. */
        for (int64_t i = 0; n <= 20 && i < n; i++)
            for (int64_t j = 0; j < n; j++) {
                const int32_t own = labels[i];
                if (weights[i * n + j] == 0 || labels[j] == own) continue;
                labels[i] = labels[j];
                CHECK(length <= map_equation(n, weights, labels) + 1e-8, "round %d: %lld to %lld",
                      round, (long long)i, (long long)j);
                labels[i] = own;
            }
    }
    /* Four cliques of eight in a ring, neighbours joined by one edge: four modules. */
    memset(weights, 0, 64 * 64 * sizeof *weights);
    for (int64_t i = 0; i < 32; i++)
        for (int64_t j = 0; j < 32; j++)
            if (i != j && (i / 8 == j / 8 || (i + 1) % 32 == j || (j + 1) % 32 == i))
                weights[i * 32 + j] = 1;
    partition(32, weights, labels);
    for (int32_t i = 0; i < 32; i++) CHECK(labels[i] == i / 8, "node %d in %d", i, labels[i]);
    free(weights);
    printf("partition: executed, %d rounds\n", rounds);
}

int main(int argc, char **argv) {
    const int rounds = argc > 1 ? atoi(argv[1]) : 60;
    int executed = 0;
    for (edgeface_instructions s = 0; s < EDGEFACE_INSTRUCTION_SETS; s++) {
        if (edgeface_usable(s)) {
            CHECK(edgeface_find_instructions(edgeface_instructions_name(s)) == s, "by its name");
            CHECK(executed++ || edgeface_find_instructions(NULL) == s, "the first is the best");
            check_overlap(s, rounds);
        } else if (edgeface_compiled(s)) {
            printf("%s: compiled, NOT executed: this processor lacks its instructions\n",
                   edgeface_instructions_name(s));
        }
        if (!edgeface_usable(s)) {
            const edgeface_graph none = {1, 1, 1, NULL, NULL};
            CHECK(edgeface_overlap(s, &none, 0, NULL, NULL, 0, NULL) == -1, "must be refused");
        }
    }
    CHECK(edgeface_find_instructions("abacus") == EDGEFACE_INSTRUCTION_SETS, "unknown name");
    CHECK(edgeface_usable(EDGEFACE_SCALAR), "plain C runs everywhere");
    check_partition(rounds);
    printf("ok\n");
    return 0;
}
