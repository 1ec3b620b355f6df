/* What the machine can do at most: reading memory, and multiply-adds from registers, by any number
 * of threads. Built by bench/timing.py with the flags of the widest instructions there are. */
#include <immintrin.h>
#include <pthread.h>
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
enum { MAX_THREADS = 64 };

typedef struct {
    const float *p;
    size_t count; /* floats to read, or rounds of multiply-adds */
    float sum;
} share;

/* Sums `count` floats, a multiple of 8 vectors, in address order. */
static void *read_share(void *argument) {
    share *s = argument;
    const float *p = s->p;
    vec acc[8];
    for (int i = 0; i < 8; i++) acc[i] = SET(0);
    for (size_t at = 0; at + 8 * LANES <= s->count; at += 8 * LANES) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) acc[i] = ADD(acc[i], LOAD(p + at + i * LANES));
    }
    float out[LANES], sum = 0;
    for (int i = 1; i < 8; i++) acc[0] = ADD(acc[0], acc[i]);
    STORE(out, acc[0]);
    for (int i = 0; i < LANES; i++) sum += out[i];
    s->sum = sum;
    return NULL;
}

static void *multiply_share(void *argument) {
    share *s = argument;
    vec acc[CHAINS], x = SET(1e-9f), y = SET(0.5f);
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) acc[i] = SET((float)i);
    for (size_t r = 0; r < s->count; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) acc[i] = FMA(x, y, acc[i]);
    }
    float out[LANES], sum = 0;
    for (int i = 0; i < CHAINS; i++) {
        STORE(out, acc[i]);
        sum += out[0];
    }
    s->sum = sum;
    return NULL;
}

/* The calling thread works too; returns something that depends on all the work. */
static float all(void *work(void *), share *shares, int threads) {
    pthread_t others[MAX_THREADS];
    int started = 0;
    while (started < threads - 1 &&
           pthread_create(&others[started], NULL, work, &shares[started + 1]) == 0)
        started++;
    for (int t = started + 1; t < threads; t++) work(&shares[t]);
    work(&shares[0]);
    float sum = shares[0].sum;
    for (int t = 0; t < started; t++) pthread_join(others[t], NULL);
    for (int t = 1; t < threads; t++) sum += shares[t].sum;
    return sum;
}

float read_once(const float *p, size_t count, int threads) {
    share shares[MAX_THREADS];
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    for (int t = 0; t < threads; t++)
        shares[t] = (share){p + count / (size_t)threads * (size_t)t, count / (size_t)threads, 0};
    return all(read_share, shares, threads);
}

/* `rounds` times CHAINS independent multiply-adds per thread; returns operations done. */
double multiply_add(size_t rounds, int threads, float *sink) {
    share shares[MAX_THREADS];
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    for (int t = 0; t < threads; t++) shares[t] = (share){NULL, rounds, 0};
    *sink = all(multiply_share, shares, threads);
    return 2.0 * LANES * CHAINS * (double)rounds * threads;
}
