/* edgeface: steps of clustering on a kNN graph: neighbourhood overlap and a two-level map-equation
 * partition.
 *
 * Nothing here knows Python. Results depend on the arguments alone: the vector kernels find the
 * same matches in the same order as the scalar one and add them in the same order, so every machine
 * that rounds as IEEE 754 says gives the same bits. Values are trusted: ids, nodes and targets are
 * below n, the caller's arrays as long as stated.
 */
#ifndef EDGEFACE_GRAPH_H
#define EDGEFACE_GRAPH_H

#include <stdint.h>

#include "../dispatch.h"

/* Padding of a sorted row that has fewer than k neighbours; equal paddings never match. */
#define EDGEFACE_GRAPH_PAD INT32_MAX

typedef enum {
    EDGEFACE_OVERLAP_MEAN = 0,   /* sum over common c of (a_ic + a_jc) / 2 */
    EDGEFACE_OVERLAP_PRODUCT = 1 /* sum over common c of a_ic * a_jc */
} edgeface_overlap_kind;

/* A kNN graph: row i lists the neighbours of node i, sorted by id.
 *
 * ids       (n, k) node numbers, strictly ascending in a row, EDGEFACE_GRAPH_PAD at its end
 * amounts   (channels, n, k) float32, the amounts at the same places of ids
 * channels  how many amounts every place has, 1 .. EDGEFACE_GRAPH_CHANNELS */
enum { EDGEFACE_GRAPH_CHANNELS = 8 };

typedef struct {
    int64_t n, k, channels;
    const int32_t *ids;
    const float *amounts;
} edgeface_graph;

/* Overlap of the neighbourhoods at both ends of edges.
 *
 * set      the instructions to use, from edgeface_find_instructions
 * nodes    (m) the nodes whose edges are weighed
 * targets  (m, k) the other ends, any order; a negative target gets overlap 0
 * out      (channels, m, k) float32
 *
 * Returns 0, or -1 when this machine lacks the instructions. Re-entrant, allocates nothing: call it
 * from several threads with outputs of their own. */
int edgeface_overlap(edgeface_instructions set, const edgeface_graph *graph, int64_t m,
                     const int32_t *nodes, const int32_t *targets, edgeface_overlap_kind kind,
                     float *out);

/* The set whose kernel edgeface_overlap runs for another set: AVX2 or scalar. */
edgeface_instructions edgeface_overlap_instructions(edgeface_instructions set);

/* What the other end of an edge says of this one: out (m, k) is the amount (channel 0) at which
 * row targets[r][e] lists nodes[r], `absent` where it does not list it. */
void edgeface_lookup(const edgeface_graph *graph, int64_t m, const int32_t *nodes,
                     const int32_t *targets, float absent, float *out);

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
int edgeface_partition(int64_t n, const int64_t *start, const int32_t *targets,
                       const float *weights, int32_t *labels, double *codelength);

#endif
