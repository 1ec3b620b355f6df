/* What the machine can do at most: reading memory, multiply-adds from registers, and both at once as
 * scoring needs them (on some machines the times of the two add up), by any number of threads. Built by bench/timing.py with the flags of the widest instructions there are. */
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
    int probes;   /* multiply-adds for each vector read */
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

/* Reads as `read_share` does, and multiplies every vector with `probes` vectors in registers. */
static inline __attribute__((always_inline)) float read_and_multiply(const float *p, size_t count,
                                                                     const int probes) {
    enum { CHAIN = 16, AHEAD = 32768 / sizeof(float) };
    const int lines = probes < 8 ? 8 : 1; /* read together, so that no sum waits for itself */
    vec acc[CHAIN], x[4];
    for (int i = 0; i < CHAIN; i++) acc[i] = SET(0);
    for (int i = 0; i < 4; i++) x[i] = SET(0.5f + (float)i);
    for (size_t at = 0; at + 8 * LANES <= count; at += 8 * LANES) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __builtin_prefetch(p + at + i * LANES + AHEAD, 0, 2); /* to the second level */
            const vec row = LOAD(p + at + i * LANES);
#pragma GCC unroll 32
            for (int q = 0; q < probes; q++) {
                const int chain = (lines == 1 ? q : i + 8 * q) % CHAIN;
                acc[chain] = FMA(row, x[q % 4], acc[chain]);
            }
        }
    }
    float out[LANES], sum = 0;
    for (int i = 1; i < CHAIN; i++) acc[0] = ADD(acc[0], acc[i]);
    STORE(out, acc[0]);
    for (int i = 0; i < LANES; i++) sum += out[i];
    return sum;
}

static void *both_share(void *argument) {
    share *s = argument;
    switch (s->probes) {
    case 1: s->sum = read_and_multiply(s->p, s->count, 1); break;
    case 2: s->sum = read_and_multiply(s->p, s->count, 2); break;
    case 4: s->sum = read_and_multiply(s->p, s->count, 4); break;
    case 8: s->sum = read_and_multiply(s->p, s->count, 8); break;
    case 16: s->sum = read_and_multiply(s->p, s->count, 16); break;
    default: s->sum = read_and_multiply(s->p, s->count, 32); break;
    }
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

static float over(void *work(void *), const float *p, size_t count, int probes, int threads) {
    share shares[MAX_THREADS];
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    for (int t = 0; t < threads; t++)
        shares[t] = (share){p + count / (size_t)threads * (size_t)t, count / (size_t)threads, 0,
                            probes};
    return all(work, shares, threads);
}

float read_once(const float *p, size_t count, int threads) {
    return over(read_share, p, count, 0, threads);
}

/* For 1, 2, 4, 8, 16 or 32 probes. */
float read_and_score(const float *p, size_t count, int probes, int threads) {
    return over(both_share, p, count, probes, threads);
}

/* `rounds` times CHAINS independent multiply-adds per thread; returns operations done. */
double multiply_add(size_t rounds, int threads, float *sink) {
    share shares[MAX_THREADS];
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    for (int t = 0; t < threads; t++) shares[t] = (share){NULL, rounds, 0, 0};
    *sink = all(multiply_share, shares, threads);
    return 2.0 * LANES * CHAINS * (double)rounds * threads;
}
