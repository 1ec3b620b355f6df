#include "dispatch.h"

#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
/* F16C is CPUID leaf 1, ECX bit 29, which not every compiler's cpu_supports has a name for; that
 * the system saves the registers is part of the answer about AVX2. */
static int has_avx2(void) {
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
}
static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
static int has_avx512vnni(void) { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#ifdef EDGEFACE_HAVE_AVXVNNI
/* CPUID leaf 7, subleaf 1, EAX bit 4; not every compiler's cpu_supports knows its name. */
static int has_avxvnni(void) {
    unsigned a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif
#elif defined(__aarch64__)
static int has_neon(void) { return 1; }
#ifdef __linux__
#include <sys/auxv.h>
static int has_neondot(void) { return (getauxval(AT_HWCAP) >> 20 & 1) != 0; }
#else
static int has_neondot(void) { return 1; } /* every 64-bit Apple processor since 2018 */
#endif
#endif
static int has_scalar(void) { return 1; }

static const struct {
    edgeface_instructions set;
    int (*has)(void);
} compiled[] = {
#if defined(__x86_64__)
    {EDGEFACE_AVX512VNNI, has_avx512vnni},
    {EDGEFACE_AVX512, has_avx512},
#ifdef EDGEFACE_HAVE_AVXVNNI
    {EDGEFACE_AVXVNNI, has_avxvnni},
#endif
    {EDGEFACE_AVX2, has_avx2},
#elif defined(__aarch64__)
    {EDGEFACE_NEONDOT, has_neondot},
    {EDGEFACE_NEON, has_neon},
#endif
    {EDGEFACE_SCALAR, has_scalar},
};
enum { COMPILED = sizeof compiled / sizeof *compiled };

static const char *const names[EDGEFACE_INSTRUCTION_SETS] = {
    "avx512vnni", "avx512", "avxvnni", "avx2", "neondot", "neon", "scalar",
};

const char *edgeface_instructions_name(edgeface_instructions set) {
    return set < EDGEFACE_INSTRUCTION_SETS ? names[set] : NULL;
}

static size_t place(edgeface_instructions set) {
    size_t i = 0;
    while (i < COMPILED && compiled[i].set != set) i++;
    return i;
}

int edgeface_compiled(edgeface_instructions set) { return place(set) < COMPILED; }

/* CPUID leaves a virtual machine and takes microseconds there, so each set is asked for once. Two
 * threads may both ask; they get the same answer. */
int edgeface_usable(edgeface_instructions set) {
    static atomic_int answers[COMPILED]; /* 0 unknown, 1 no, 2 yes */
    const size_t i = place(set);
    if (i == COMPILED) return 0;
    int answer = atomic_load_explicit(&answers[i], memory_order_relaxed);
    if (!answer) {
        answer = compiled[i].has() ? 2 : 1;
        atomic_store_explicit(&answers[i], answer, memory_order_relaxed);
    }
    return answer == 2;
}

edgeface_instructions edgeface_find_instructions(const char *name) {
    for (size_t i = 0; i < COMPILED; i++)
        if ((!name || !strcmp(name, names[compiled[i].set])) && edgeface_usable(compiled[i].set))
            return compiled[i].set;
    return EDGEFACE_INSTRUCTION_SETS;
}
