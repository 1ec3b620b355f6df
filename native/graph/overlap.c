/* The definition in plain C, which kernel runs, and the look-up of an edge's other direction. */
#include "overlap.h"

void edgeface_overlap_scalar(const edgeface_graph *graph, int64_t m, const int32_t *nodes,
                             const int32_t *targets, edgeface_overlap_kind kind, float *out) {
    const int64_t k = graph->k;
    for (int64_t r = 0; r < m; r++) {
        const int64_t i = nodes[r];
        for (int64_t e = r * k; e < (r + 1) * k; e++) {
            const int64_t j = targets[e];
            float sums[EDGEFACE_GRAPH_CHANNELS] = {0};
            if (j >= 0) merge(graph, i * k, (i + 1) * k, j * k, (j + 1) * k, kind, sums);
            put(graph, m, e, sums, out);
        }
    }
}

/* Wider x86-64 sets contain AVX2, and this step gains nothing from them; NEON has no kernel yet. */
edgeface_instructions edgeface_overlap_instructions(edgeface_instructions set) {
    return set <= EDGEFACE_AVX2 ? EDGEFACE_AVX2 : EDGEFACE_SCALAR;
}

int edgeface_overlap(edgeface_instructions set, const edgeface_graph *graph, int64_t m,
                     const int32_t *nodes, const int32_t *targets, edgeface_overlap_kind kind,
                     float *out) {
    if (!edgeface_usable(set)) return -1;
#if defined(__x86_64__)
    if (edgeface_overlap_instructions(set) == EDGEFACE_AVX2) {
        edgeface_overlap_avx2(graph, m, nodes, targets, kind, out);
        return 0;
    }
#endif
    edgeface_overlap_scalar(graph, m, nodes, targets, kind, out);
    return 0;
}

void edgeface_lookup(const edgeface_graph *graph, int64_t m, const int32_t *nodes,
                     const int32_t *targets, float absent, float *out) {
    const int64_t k = graph->k;
    for (int64_t r = 0; r < m; r++) {
        for (int64_t e = r * k; e < (r + 1) * k; e++) {
            const int64_t j = targets[e];
            out[e] = absent;
            if (j < 0) continue;
            int64_t low = j * k, high = (j + 1) * k;
            while (low < high) {
                const int64_t middle = low + (high - low) / 2;
                if (graph->ids[middle] < nodes[r])
                    low = middle + 1;
                else
                    high = middle;
            }
            if (low < (j + 1) * k && graph->ids[low] == nodes[r]) out[e] = graph->amounts[low];
        }
    }
}
