/* Shared by the search driver and the kernels; nothing here is public. */
#ifndef EDGEFACE_INTERNAL_H
#define EDGEFACE_INTERNAL_H

#include "../dispatch.h"
#include "score.h"

#define UNIT 64            /* bytes of a row a kernel step consumes: one cache line */
#define UNIT_FLOATS 16
#define PANEL 32           /* probes scored together at most */
#define BLOCK 128          /* probes per pass over the rows */
#define SPARE 64           /* candidates kept beyond 2k before they must be resolved */
#define MAX_TILE 16        /* rows scored together at most */

/* A row that may belong to the k best of a probe. `upper` is an upper bound of its score, or the
 * score itself once it was computed in double. */
typedef struct {
    double upper;
    uint32_t row;
    uint32_t exact;
} candidate;

/* The k best of one probe over the rows seen so far. */
typedef struct {
    const edgeface_matrix *matrix;
    const float *probe;
    double floor;          /* k-th best lower bound: rows bounded below it are out */
    double probe_norm, probe_error; /* |x|, |x - quantised x| */
    double slack;          /* bound of the pass's error, the part that is common to all rows */
    double slack_row;      /* its factor of error[row] (int8) */
    double slack_max;      /* the bound over all rows */
    double *lower;         /* min-heap of the k greatest lower bounds */
    candidate *candidates;
    size_t k, count, capacity;
    edgeface_cost *cost;
} top;

/* Up to PANEL probes packed for the vector lanes: lane l of step s holds dwords
 * s * phases + l % phases of probe l / phases. A dword is one float or four int8. */
typedef struct {
    unsigned probes;       /* real ones */
    unsigned padded;       /* with zero probes up to a power of two */
    unsigned phases, vectors;
    const void *data;
    int32_t init[PANEL];   /* int8: -128 * the sum of the lane's codes, or 0 for signed products */
    float threshold[PANEL];/* raw score that could still matter, repeated with period `padded` */
    float unit[PANEL];     /* raw score * unit = cosine */
    top *tops;             /* (probes,), NULL when only statistics are wanted */
    /* statistics of the current submodel, one lane per probe */
    float maximum[PANEL];
    float sum[PANEL];
    uint32_t argmax[PANEL];
} panel;

/* Statistics of one submodel and probe, as one thread saw them. */
typedef struct {
    float maximum;
    uint32_t row;
    double sum;
} statistic;

/* Scores rows begin .. end-1 against every panel; reports scores that reach a panel's threshold by
 * `edgeface_hit`. `scratch` holds MAX_TILE rows of floats. Given `softmax_scale`, it also updates
 * the panels' statistics; float32 and float16 only. */
typedef void scan_function(const edgeface_matrix *matrix, size_t begin, size_t end, panel *panels,
                           size_t panel_count, float *scratch, const float *softmax_scale);

struct edgeface_kernel {
    edgeface_instructions instructions;
    scan_function *scan;
    unsigned width;        /* dwords per vector */
    int code_limit;        /* greatest |int8 probe code| that cannot saturate */
    int signed_codes;      /* the kernel removes the 128 of the codes itself */
};

double edgeface_exact(const edgeface_matrix *matrix, size_t row, const float *probe);
float edgeface_half(uint16_t half);
void edgeface_hit(panel *p, unsigned probe, size_t row, float raw);
void edgeface_top_init(top *t, const edgeface_matrix *matrix, const float *probe, size_t k,
                       edgeface_cost *cost);
void edgeface_top_resolve(top *t);
void edgeface_statistics_flush(statistic *entries, panel *panels, size_t panel_count);

static inline size_t padded_dim(size_t dim, size_t multiple) {
    return (dim + multiple - 1) / multiple * multiple;
}

#endif
