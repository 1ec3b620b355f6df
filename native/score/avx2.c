/* AVX2 with FMA and F16C, and with EDGEFACE_VNNI the VEX-coded dot-product instruction. */
#include <immintrin.h>

#define vec __m256i
#define WIDTH 8
#define REGISTERS 16
#define TILE 6
#ifdef EDGEFACE_VNNI
#define CODE_TILE 6
#else
#define CODE_TILE 4 /* the two-step product needs two more registers */
#endif
#define FEW 4
#define FEW_PHASES 2
#define PREFETCH 16384
#define FEW_PREFETCH 16384
#define NEAR (8u << 20)
#define SETS 1
#define LEVEL 2

static inline __attribute__((always_inline)) vec load(const char *p) {
    return _mm256_loadu_si256((const vec *)p);
}
static inline __attribute__((always_inline)) void store(char *p, vec v) {
    _mm256_storeu_si256((vec *)p, v);
}
static inline __attribute__((always_inline)) vec zero(void) { return _mm256_setzero_si256(); }

static inline __attribute__((always_inline)) vec spread(const char *p, int phases) {
    switch (phases) {
    case 1: {
        int word;
        __builtin_memcpy(&word, p, 4);
        return _mm256_set1_epi32(word);
    }
    case 2: {
        long long words;
        __builtin_memcpy(&words, p, 8);
        return _mm256_set1_epi64x(words);
    }
    case 4: return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
    default: return _mm256_loadu_si256((const vec *)p);
    }
}
#define spread_codes spread

/* Inline assembly, because gcc otherwise rotates the accumulators through vfmadd132 and spills. */
static inline __attribute__((always_inline)) vec madd(vec acc, vec w, vec x) {
    __m256 sum = _mm256_castsi256_ps(acc);
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(w), "x"(x));
    return _mm256_castps_si256(sum);
}
static inline __attribute__((always_inline)) vec dot4(vec acc, vec w, vec x) {
#ifdef EDGEFACE_VNNI
    return _mm256_dpbusd_avx_epi32(acc, w, x);
#else
    vec pairs; /* |x| <= 63: no saturation. Assembly for the same reason as in madd. */
    __asm__("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
            : "+x"(acc), "=&x"(pairs)
            : "x"(w), "x"(x), "x"(_mm256_set1_epi16(1)));
    return acc;
#endif
}
static inline __attribute__((always_inline)) vec plus(vec a, vec b) {
    return _mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)));
}
static inline __attribute__((always_inline)) vec plus_int(vec a, vec b) {
    return _mm256_add_epi32(a, b);
}
static inline __attribute__((always_inline)) vec fold(vec a, vec b) {
    __m256 pairs = _mm256_hadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
    return _mm256_permute4x64_epi64(_mm256_castps_si256(pairs), 0xd8);
}
static inline __attribute__((always_inline)) vec fold_int(vec a, vec b) {
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8);
}
static inline __attribute__((always_inline)) vec scaled(vec v, vec s) {
    return _mm256_castps_si256(_mm256_mul_ps(_mm256_cvtepi32_ps(v), _mm256_castsi256_ps(s)));
}
static inline __attribute__((always_inline)) vec repeat(const float *p, unsigned times) {
    const vec lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const vec index = _mm256_srl_epi32(lane, _mm_cvtsi32_si128(__builtin_ctz(times)));
    return _mm256_permutevar8x32_epi32(_mm256_loadu_si256((const vec *)p), index);
}
static inline __attribute__((always_inline)) unsigned reach(vec v, vec t) {
    return (unsigned)_mm256_movemask_ps(
        _mm256_cmp_ps(_mm256_castsi256_ps(v), _mm256_castsi256_ps(t), _CMP_GE_OQ));
}
static inline __attribute__((always_inline)) vec halves(const unsigned short *p) {
    return _mm256_castps_si256(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)));
}

#ifdef EDGEFACE_VNNI
#define SCAN edgeface_scan_avxvnni
#else
#define SCAN edgeface_scan_avx2
#endif
#include "scan.h"
