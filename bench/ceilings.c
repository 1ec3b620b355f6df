/* What the machine can do at most, one thread: reading memory, and multiply-adds from registers.
 * Built by bench/score.py with the flags of the widest instruction set the processor has. */
#include <immintrin.h>
#include <stddef.h>

#if defined(__AVX512F__)
typedef __m512 vec;
#define LANES 16
#define LOAD _mm512_loadu_ps
#define ADD _mm512_add_ps
#define FMA _mm512_fmadd_ps
#define SET _mm512_set1_ps
#define STORE _mm512_storeu_ps
#define CHAINS 16
#else
typedef __m256 vec;
#define LANES 8
#define LOAD _mm256_loadu_ps
#define ADD _mm256_add_ps
#define FMA _mm256_fmadd_ps
#define SET _mm256_set1_ps
#define STORE _mm256_storeu_ps
#define CHAINS 12
#endif

/* Sums `count` floats, a multiple of 8 vectors, in address order. */
float read_once(const float *p, size_t count) {
    vec acc[8];
    for (int i = 0; i < 8; i++) acc[i] = SET(0);
    for (size_t at = 0; at + 8 * LANES <= count; at += 8 * LANES) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) acc[i] = ADD(acc[i], LOAD(p + at + i * LANES));
    }
    float out[LANES], sum = 0;
    for (int i = 1; i < 8; i++) acc[0] = ADD(acc[0], acc[i]);
    STORE(out, acc[0]);
    for (int i = 0; i < LANES; i++) sum += out[i];
    return sum;
}

/* `rounds` times CHAINS independent multiply-adds; returns floating-point operations done. */
double multiply_add(size_t rounds, float *sink) {
    vec acc[CHAINS], x = SET(1e-9f), y = SET(0.5f);
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) acc[i] = SET((float)i);
    for (size_t r = 0; r < rounds; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) acc[i] = FMA(x, y, acc[i]);
    }
    float out[LANES];
    *sink = 0;
    for (int i = 0; i < CHAINS; i++) {
        STORE(out, acc[i]);
        *sink += out[0];
    }
    return 2.0 * LANES * CHAINS * (double)rounds;
}
