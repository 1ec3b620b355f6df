/* Graph steps of clustering: neighbourhood overlap and a two-level map-equation partition.
 *
 * Nothing here knows Python. Results depend on the arguments alone: the vector paths find the same
 * matches in the same order as the scalar ones and add them in the same order, so every machine
 * that rounds as IEEE 754 says gives the same bits.
 */
#ifndef EDGEFACE_GRAPH_H
#define EDGEFACE_GRAPH_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Padding of a sorted row that has fewer than k neighbours; equal paddings never match. */
#define EF_GRAPH_PAD INT32_MAX

enum ef_overlap {
    EF_OVERLAP_MEAN = 0,   /* sum over common c of (a_ic + a_jc) / 2 */
    EF_OVERLAP_PRODUCT = 1 /* sum over common c of a_ic * a_jc */
};

/* A kNN graph: row i lists the neighbours of node i in any fixed way; here sorted by id.
 *
 * ids       (n, k) node numbers, strictly ascending in a row, EF_GRAPH_PAD at its end
 * amounts   (channels, n, k) float32, the amounts at the same places of ids
 * channels  how many amounts every place has, 1 .. EF_GRAPH_CHANNELS */
enum { EF_GRAPH_CHANNELS = 8 };

typedef struct {
    int64_t n, k, channels;
    const int32_t *ids;
    const float *amounts;
} ef_graph_rows;

/* Overlap of the neighbourhoods at both ends of edges.
 *
 * nodes    (m) the nodes whose edges are weighed
 * targets  (m, k) the other ends, any order; a negative target gets overlap 0
 * out      (channels, m, k) float32
 *
 * Re-entrant, allocates nothing: call it from several threads with outputs of their own. */
void ef_graph_overlap(const ef_graph_rows *rows, int64_t m, const int32_t *nodes,
                      const int32_t *targets, enum ef_overlap kind, float *out);

/* The scalar definition of ef_graph_overlap. */
void ef_graph_overlap_scalar(const ef_graph_rows *rows, int64_t m, const int32_t *nodes,
                             const int32_t *targets, enum ef_overlap kind, float *out);

/* What the other end of an edge says of this one: out (m, k) is the amount (channel 0) at which
 * row targets[r][e] lists nodes[r], `absent` where it does not list it. */
void ef_graph_lookup(const ef_graph_rows *rows, int64_t m, const int32_t *nodes,
                     const int32_t *targets, float absent, float *out);

/* "avx2" or "scalar": what ef_graph_overlap runs on this machine. */
const char *ef_graph_overlap_path(void);

/* Two-level map-equation partition (Rosvall and Bergstrom 2008; Rosvall, Axelsson and Bergstrom
 * 2009) of an undirected weighted graph: greedy moves of nodes between modules, aggregation, and
 * repeated fine tuning from the leaves.
 *
 * start    (n + 1) first edge of every node; targets, weights (start[n]) the edges, each stored
 *          from both of its ends with the same weight > 0, without self-loops
 * labels   (n) written: modules numbered by their first node
 * codelength  written: bits per step
 *
 * Returns 0, or -1 when memory ran out. Allocates about 60 n + 24 edges bytes. */
int ef_graph_partition(int64_t n, const int64_t *start, const int32_t *targets,
                       const float *weights, int32_t *labels, double *codelength);

#ifdef __cplusplus
}
#endif
#endif
