/* Shared by the overlap kernels; nothing here is public. */
#ifndef EDGEFACE_OVERLAP_H
#define EDGEFACE_OVERLAP_H

#include "graph.h"

typedef void edgeface_overlap_kernel(const edgeface_graph *graph, int64_t m, const int32_t *nodes,
                                     const int32_t *targets, edgeface_overlap_kind kind,
                                     float *out);

edgeface_overlap_kernel edgeface_overlap_scalar, edgeface_overlap_avx2;

/* Adds what the places p of row i and q of row j have in common to every channel. */
static inline void join(const edgeface_graph *graph, int64_t p, int64_t q,
                        edgeface_overlap_kind kind, float *sums) {
    const int64_t plane = graph->n * graph->k;
    for (int64_t c = 0; c < graph->channels; c++) {
        const float a = graph->amounts[c * plane + p], b = graph->amounts[c * plane + q];
        sums[c] += kind == EDGEFACE_OVERLAP_MEAN ? 0.5f * (a + b) : a * b;
    }
}

/* Places run from p and q to the ends of their rows. */
static inline void merge(const edgeface_graph *graph, int64_t p, int64_t p_end, int64_t q,
                         int64_t q_end, edgeface_overlap_kind kind, float *sums) {
    const int32_t *ids = graph->ids;
    while (p < p_end && q < q_end) {
        if (ids[p] == ids[q]) {
            if (ids[p] == EDGEFACE_GRAPH_PAD) return;
            join(graph, p++, q++, kind, sums);
        } else if (ids[p] < ids[q]) {
            p++;
        } else {
            q++;
        }
    }
}

static inline void put(const edgeface_graph *graph, int64_t m, int64_t edge, const float *sums,
                       float *out) {
    for (int64_t c = 0; c < graph->channels; c++) out[c * m * graph->k + edge] = sums[c];
}

#endif
