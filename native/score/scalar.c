/* The definition in plain C: other kernels may be faster, never different. */
#include <math.h>

#include "internal.h"

/* Dword `step` of a row and of lane group `probe`, phase included, multiplied and added up. */
static float raw_float(const float *row, const panel *p, unsigned probe, size_t dim) {
    const float *data = p->data;
    const size_t lanes = (size_t)p->padded * p->phases;
    float sum = 0;
    for (size_t i = 0; i < dim; i++)
        sum += row[i] * data[i / p->phases * lanes + probe * p->phases + i % p->phases];
    return sum;
}

static int32_t raw_codes(const uint8_t *row, const panel *p, unsigned probe, size_t dim) {
    const int8_t *data = p->data;
    const size_t lanes = (size_t)p->padded * p->phases;
    int32_t sum = 0;
    for (size_t i = 0; i < dim; i++) {
        size_t word = i / 4, lane = probe * p->phases + word % p->phases;
        sum += (row[i] - 128) * data[4 * (word / p->phases * lanes + lane) + i % 4];
    }
    return sum;
}

static void tally(panel *p, unsigned probe, size_t row, float score, float scale) {
    float x = fminf(fmaxf(score * scale, -80.0f), 80.0f);
    p->sum[probe] += expf(x);
    if (score > p->maximum[probe]) {
        p->maximum[probe] = score;
        p->argmax[probe] = (uint32_t)row;
    }
}

void edgeface_scan_scalar(const edgeface_matrix *m, size_t begin, size_t end, panel *panels,
                          size_t panel_count, float *scratch, const float *softmax_scale) {
    const size_t padded = padded_dim(m->dim, UNIT);
    for (size_t row = begin; row < end; row++) {
        const float *values = (const float *)m->scan + row * m->dim;
        if (m->storage == EDGEFACE_FLOAT16) {
            const uint16_t *half = (const uint16_t *)m->scan + row * m->dim;
            for (size_t i = 0; i < m->dim; i++) scratch[i] = edgeface_half(half[i]);
            values = scratch;
        }
        const uint8_t *codes = (const uint8_t *)m->scan + row * padded;
        for (panel *p = panels; p < panels + panel_count; p++)
            for (unsigned i = 0; i < p->probes; i++) {
                float raw = m->storage == EDGEFACE_INT8
                                ? (float)raw_codes(codes, p, i, padded) * m->scale[row]
                                : raw_float(values, p, i, m->dim);
                if (softmax_scale) tally(p, i, row, raw, *softmax_scale);
                if (p->tops && raw >= p->threshold[i]) edgeface_hit(p, i, row, raw);
            }
    }
}
