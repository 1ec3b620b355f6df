#include "overlap.h"

#include <immintrin.h>

/* All 8 x 8 pairs of two blocks by eight rotations of the second. Ids in a row are unique, so an
 * id of the first block matches at most one of the second, at the place its rotation tells.
 * Matches come out in ascending order of id, the order of the scalar merge, hence the same sums. */
static void intersect(const edgeface_graph *graph, int64_t p, int64_t p_end, int64_t q,
                      int64_t q_end, edgeface_overlap_kind kind, float *sums) {
    const __m256i turn = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0);
    const int32_t *ids = graph->ids;
    while (p + 8 <= p_end && q + 8 <= q_end) {
        const int32_t p_last = ids[p + 7], q_last = ids[q + 7];
        if (p_last == EDGEFACE_GRAPH_PAD || q_last == EDGEFACE_GRAPH_PAD) break;
        if (p_last >= ids[q] && q_last >= ids[p]) {
            const __m256i p_i32x8 = _mm256_loadu_si256((const __m256i *)(ids + p));
            __m256i q_i32x8 = _mm256_loadu_si256((const __m256i *)(ids + q));
            __m256i where = _mm256_setzero_si256(); /* 1 + rotation that matched, 0 = none */
            for (int turned = 1; turned <= 8; turned++) {
                const __m256i same = _mm256_cmpeq_epi32(p_i32x8, q_i32x8);
                where = _mm256_or_si256(where, _mm256_and_si256(same, _mm256_set1_epi32(turned)));
                q_i32x8 = _mm256_permutevar8x32_epi32(q_i32x8, turn);
            }
            int32_t rotation[8];
            _mm256_storeu_si256((__m256i *)rotation, where);
            const __m256i none = _mm256_cmpeq_epi32(where, _mm256_setzero_si256());
            unsigned hits = 0xFFu & ~(unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(none));
            while (hits) {
                const int lane = __builtin_ctz(hits);
                join(graph, p + lane, q + ((lane + rotation[lane] - 1) & 7), kind, sums);
                hits &= hits - 1;
            }
        }
        p += p_last <= q_last ? 8 : 0;
        q += q_last <= p_last ? 8 : 0;
    }
    merge(graph, p, p_end, q, q_end, kind, sums);
}

void edgeface_overlap_avx2(const edgeface_graph *graph, int64_t m, const int32_t *nodes,
                           const int32_t *targets, edgeface_overlap_kind kind, float *out) {
    const int64_t k = graph->k;
    for (int64_t r = 0; r < m; r++) {
        const int64_t i = nodes[r];
        for (int64_t e = r * k; e < (r + 1) * k; e++) {
            const int64_t j = targets[e];
            float sums[EDGEFACE_GRAPH_CHANNELS] = {0};
            /* The rows of the targets lie anywhere: ask for one a few edges ahead. */
            if (e + 4 < m * k && targets[e + 4] >= 0)
                for (int64_t c = 0; c < k; c += 16)
                    __builtin_prefetch(graph->ids + (int64_t)targets[e + 4] * k + c);
            if (j >= 0) intersect(graph, i * k, (i + 1) * k, j * k, (j + 1) * k, kind, sums);
            put(graph, m, e, sums, out);
        }
    }
}
