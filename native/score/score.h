/* edgeface: exact similarity search over unit rows, one pass over memory.
 *
 * Answers are those of the float64 dot products of the `exact` rows, equal values ordered by the
 * smaller id, and are the same bits on every kernel and for every number of threads: a fast pass
 * over `scan` finds candidates, every row whose score plus error bound reaches the k-th best lower
 * bound is kept, and what is kept is rescored in double (int8 rows only if they reach it once more
 * by their codes and the unrounded probe, within error[row] |x|).
 *
 * Numeric ranges. Norms of rows <= `norm`; 1 <= dim <= EDGEFACE_MAX_DIM; rows < 2^32 - 1; probes
 * finite. A row with NaN never wins. With u = 2^-24, x a probe, w a row, the pass is within
 *   float32, float16   (dim + 16) u |x| norm                                of the exact score,
 *   int8               error[row] |x| + (norm + error[row]) e_x + 8 u |x| norm,
 * where e_x = |x - quantised x|. The bound is proven (Cauchy-Schwarz; Higham 2002, eq. 3.5), so no
 * winner is lost. Sums of int8 products are exact in int32: 255 * 127 * dim < 2^31.
 * Log-sum-exp: scale |x| norm <= 80, relative error of the sum <= 1e-4 plus scale
 * times the pass's error, and no maximum is tracked.
 *
 * Nothing here allocates, or stores rows x probes values, or keeps anything between calls but what
 * the processor can do. Re-entrant.
 */
#ifndef EDGEFACE_SCORE_H
#define EDGEFACE_SCORE_H

#include <stddef.h>
#include <stdint.h>

#define EDGEFACE_MAX_DIM 16384
#define EDGEFACE_MAX_THREADS 64

typedef enum { EDGEFACE_FLOAT32, EDGEFACE_FLOAT16, EDGEFACE_INT8 } edgeface_storage;

/* A matrix of `rows` unit rows. float32 and float16 rows are dense (rows, dim); int8 codes are
 * dense (rows, dim rounded up to 64), value = (code - 128) * scale[row], padding code 128. */
typedef struct {
    const void *scan;               /* what the pass reads, in `storage` */
    const void *exact;              /* what answers are computed from; same as scan unless int8 */
    const float *scale;             /* (rows,), int8 only */
    const float *error;             /* (rows,) upper bounds of |row - dequantised row|, int8 only */
    const int64_t *ids;             /* (rows,) ids that answers name and ties compare, or NULL */
    size_t rows, dim;
    edgeface_storage storage, exact_storage;
    float norm, error_max;          /* upper bounds over the rows */
} edgeface_matrix;

/* What the certificate cost: rows rescored in double, and how often a probe's candidate list
 * overflowed and was resolved early. */
typedef struct {
    uint64_t rescored, overflows;
} edgeface_cost;

/* Per-submodel statistics: submodel s is rows offsets[s] .. offsets[s+1]-1 of the weights. The
 * outputs are (probes, submodels): maximum cosine, its row's id, log sum exp(scale * cosine).
 * float32 precision; an empty submodel gives -inf, -1, -inf. */
typedef struct {
    const int64_t *offsets;         /* (submodels + 1,) ascending, 0 ... rows */
    size_t submodels;
    float scale;
    float *maximum;
    int64_t *argmax;
    double *log_sum_exp;
} edgeface_submodels;

/* 0, or one of these. */
enum { EDGEFACE_OK = 0, EDGEFACE_BAD_ARGUMENT = -1, EDGEFACE_NO_KERNEL = -2 };

/* The best kernel this machine runs, or the named one; NULL if it cannot run here. The names are
 * those of ../dispatch.h that were compiled in. */
typedef struct edgeface_kernel edgeface_kernel;
const edgeface_kernel *edgeface_find_kernel(const char *name_or_null);
const char *edgeface_kernel_name(const edgeface_kernel *kernel);
const char *edgeface_compiled_kernel(size_t index); /* NULL past the last */

/* Bytes of workspace a call needs, k = 1 for edgeface_mixmaxsim and submodels = 0 for
 * edgeface_topk; independent of the number of rows. */
size_t edgeface_workspace(size_t probes, size_t dim, size_t k, size_t submodels, int threads);

/* The k best rows of each probe: ids and similarities (probes, k), descending. Slots that no row
 * fills (NaN rows, k > rows) hold id -1 and -infinity. */
int edgeface_topk(const edgeface_kernel *kernel, const edgeface_matrix *rows, const float *probes,
                  size_t probe_count, size_t k, int threads, void *workspace, int64_t *ids,
                  float *similarities, edgeface_cost *cost);

/* MixMaxSim: A = argmax w.x, B = argmax c.x over matrices whose rows are the same classes in the
 * same order. classes (probes, 2) = A, B; scores (probes, 4) = a = w_A.x, a' = w_B.x, b = c_B.x,
 * b' = c_A.x. `submodels` may be NULL; given, weights must be float32 or float16. */
int edgeface_mixmaxsim(const edgeface_kernel *kernel, const edgeface_matrix *weights,
                       const edgeface_matrix *centres, const float *probes, size_t probe_count,
                       int threads, void *workspace, int64_t *classes, float *scores,
                       const edgeface_submodels *submodels, edgeface_cost *cost);

#endif
