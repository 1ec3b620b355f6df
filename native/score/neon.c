/* AArch64 NEON, and with EDGEFACE_DOTPROD its dot-product instruction. */
#include <arm_neon.h>

#define vec int32x4_t
#define WIDTH 4
#define REGISTERS 32
#define TILE 12
#define CODE_TILE 12
#define FEW 4
#define FEW_PHASES 4
#define PREFETCH 16384
#define FEW_PREFETCH 16384
#define NEAR 0 /* not measured */
#define SETS 1
#define LEVEL 3

static inline __attribute__((always_inline)) vec load(const char *p) {
    return vreinterpretq_s32_u8(vld1q_u8((const uint8_t *)p));
}
static inline __attribute__((always_inline)) void store(char *p, vec v) {
    vst1q_u8((uint8_t *)p, vreinterpretq_u8_s32(v));
}
static inline __attribute__((always_inline)) vec zero(void) { return vdupq_n_s32(0); }

static inline __attribute__((always_inline)) vec spread(const char *p, int phases) {
    switch (phases) {
    case 1: {
        int32_t word;
        __builtin_memcpy(&word, p, 4);
        return vdupq_n_s32(word);
    }
    case 2: {
        int64_t words;
        __builtin_memcpy(&words, p, 8);
        return vreinterpretq_s32_s64(vdupq_n_s64(words));
    }
    default: return load(p);
    }
}
/* code - 128 as signed bytes: flipping the top bit. */
static inline __attribute__((always_inline)) vec spread_codes(const char *p, int phases) {
    return veorq_s32(spread(p, phases), vdupq_n_s32((int32_t)0x80808080u));
}
static inline __attribute__((always_inline)) vec madd(vec acc, vec w, vec x) {
    return vreinterpretq_s32_f32(vfmaq_f32(vreinterpretq_f32_s32(acc), vreinterpretq_f32_s32(w),
                                           vreinterpretq_f32_s32(x)));
}
static inline __attribute__((always_inline)) vec dot4(vec acc, vec w, vec x) {
    int8x16_t a = vreinterpretq_s8_s32(w), b = vreinterpretq_s8_s32(x);
#ifdef EDGEFACE_DOTPROD
    return vdotq_s32(acc, a, b);
#else
    vec low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    vec high = vpaddlq_s16(vmull_s8(vget_high_s8(a), vget_high_s8(b)));
    return vaddq_s32(acc, vpaddq_s32(low, high));
#endif
}
static inline __attribute__((always_inline)) vec plus(vec a, vec b) {
    return vreinterpretq_s32_f32(vaddq_f32(vreinterpretq_f32_s32(a), vreinterpretq_f32_s32(b)));
}
static inline __attribute__((always_inline)) vec plus_int(vec a, vec b) { return vaddq_s32(a, b); }
static inline __attribute__((always_inline)) vec fold(vec a, vec b) {
    return vreinterpretq_s32_f32(vpaddq_f32(vreinterpretq_f32_s32(a), vreinterpretq_f32_s32(b)));
}
static inline __attribute__((always_inline)) vec fold_int(vec a, vec b) { return vpaddq_s32(a, b); }
static inline __attribute__((always_inline)) vec scaled(vec v, vec s) {
    return vreinterpretq_s32_f32(vmulq_f32(vcvtq_f32_s32(v), vreinterpretq_f32_s32(s)));
}
static inline __attribute__((always_inline)) vec repeat(const float *p, unsigned times) {
    const vec v = load((const char *)p);
    return times == 2 ? vzip1q_s32(v, v) : times == 1 ? v : vdupq_laneq_s32(v, 0);
}
static inline __attribute__((always_inline)) unsigned reach(vec v, vec t) {
    const uint32x4_t bits = {1, 2, 4, 8};
    uint32x4_t hit = vcgeq_f32(vreinterpretq_f32_s32(v), vreinterpretq_f32_s32(t));
    return vaddvq_u32(vandq_u32(hit, bits));
}
static inline __attribute__((always_inline)) vec halves(const unsigned short *p) {
    return vreinterpretq_s32_f32(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))));
}

#ifdef EDGEFACE_DOTPROD
#define SCAN edgeface_scan_neondot
#else
#define SCAN edgeface_scan_neon
#endif
#include "scan.h"
