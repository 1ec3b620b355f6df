/* AVX-512 (F, BW, VL, DQ), and with EDGEFACE_VNNI its dot-product instruction. */
#include <immintrin.h>

#define vec __m512i
#define WIDTH 16
#define REGISTERS 32
#define TILE 12
#define CODE_TILE 12
#define FEW 4
#define FEW_PHASES 4
#define PREFETCH 32768
#define FEW_PREFETCH 16384
#define NEAR (8u << 20)
#define SETS 2
#define LEVEL 2

static inline __attribute__((always_inline)) vec load(const char *p) { return _mm512_loadu_si512(p); }
static inline __attribute__((always_inline)) void store(char *p, vec v) { _mm512_storeu_si512(p, v); }
static inline __attribute__((always_inline)) vec zero(void) { return _mm512_setzero_si512(); }

static inline __attribute__((always_inline)) vec spread(const char *p, int phases) {
    switch (phases) {
    case 1: {
        int word;
        __builtin_memcpy(&word, p, 4);
        return _mm512_set1_epi32(word);
    }
    case 2: {
        long long words;
        __builtin_memcpy(&words, p, 8);
        return _mm512_set1_epi64(words);
    }
    case 4: return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p));
    case 8: return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)p));
    default: return _mm512_loadu_si512(p);
    }
}
#define spread_codes spread

static inline __attribute__((always_inline)) vec madd(vec acc, vec w, vec x) {
    return _mm512_castps_si512(_mm512_fmadd_ps(_mm512_castsi512_ps(w), _mm512_castsi512_ps(x),
                                               _mm512_castsi512_ps(acc)));
}
static inline __attribute__((always_inline)) vec dot4(vec acc, vec w, vec x) {
#ifdef EDGEFACE_VNNI
    return _mm512_dpbusd_epi32(acc, w, x);
#else
    vec pairs = _mm512_maddubs_epi16(w, x); /* |x| <= 63: no saturation */
    return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}
static inline __attribute__((always_inline)) vec plus(vec a, vec b) {
    return _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b)));
}
static inline __attribute__((always_inline)) vec plus_int(vec a, vec b) {
    return _mm512_add_epi32(a, b);
}
static inline __attribute__((always_inline)) vec even(vec a, vec b) {
    const vec index = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_epi32(a, index, b);
}
static inline __attribute__((always_inline)) vec odd(vec a, vec b) {
    const vec index = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_epi32(a, index, b);
}
static inline __attribute__((always_inline)) vec fold(vec a, vec b) {
    return plus(even(a, b), odd(a, b));
}
static inline __attribute__((always_inline)) vec fold_int(vec a, vec b) {
    return plus_int(even(a, b), odd(a, b));
}
static inline __attribute__((always_inline)) vec scaled(vec v, vec s) {
    return _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(v), _mm512_castsi512_ps(s)));
}
static inline __attribute__((always_inline)) vec repeat(const float *p, unsigned times) {
    const vec lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const vec index = _mm512_srl_epi32(lane, _mm_cvtsi32_si128(__builtin_ctz(times)));
    return _mm512_permutexvar_epi32(index, _mm512_loadu_si512(p));
}
static inline __attribute__((always_inline)) unsigned reach(vec v, vec t) {
    return _mm512_cmp_ps_mask(_mm512_castsi512_ps(v), _mm512_castsi512_ps(t), _CMP_GE_OQ);
}
static inline __attribute__((always_inline)) vec halves(const unsigned short *p) {
    return _mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)));
}

#ifdef EDGEFACE_VNNI
#define SCAN edgeface_scan_avx512vnni
#else
#define SCAN edgeface_scan_avx512
#endif
#include "scan.h"
