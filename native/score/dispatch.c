/* One table of kernels, best first; the first whose instructions the processor has and the
 * operating system saves is used. */
#include <stdatomic.h>
#include <string.h>

#include "internal.h"

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
static int has_dotprod(void) { return (getauxval(AT_HWCAP) >> 20 & 1) != 0; }
#else
static int has_dotprod(void) { return 1; } /* every 64-bit Apple processor since 2018 */
#endif
#endif
static int always(void) { return 1; }

extern scan_function edgeface_scan_scalar, edgeface_scan_avx2, edgeface_scan_avxvnni,
    edgeface_scan_avx512, edgeface_scan_avx512vnni, edgeface_scan_neon, edgeface_scan_neondot;

static const edgeface_kernel kernels[] = {
#if defined(__x86_64__)
    {"avx512vnni", has_avx512vnni, edgeface_scan_avx512vnni, 16, 127, 0},
    {"avx512", has_avx512, edgeface_scan_avx512, 16, 63, 0},
#ifdef EDGEFACE_HAVE_AVXVNNI
    {"avxvnni", has_avxvnni, edgeface_scan_avxvnni, 8, 127, 0},
#endif
    {"avx2", has_avx2, edgeface_scan_avx2, 8, 63, 0},
#elif defined(__aarch64__)
    {"neondot", has_dotprod, edgeface_scan_neondot, 4, 127, 1},
    {"neon", has_neon, edgeface_scan_neon, 4, 127, 1},
#endif
    {"scalar", always, edgeface_scan_scalar, 4, 127, 1},
};
enum { KERNELS = sizeof kernels / sizeof *kernels };

/* CPUID leaves a virtual machine and takes microseconds there, so each kernel is asked once. Two
 * threads may both ask; they get the same answer. */
static int usable(size_t index) {
    static atomic_int answers[KERNELS]; /* 0 unknown, 1 no, 2 yes */
    int answer = atomic_load_explicit(&answers[index], memory_order_relaxed);
    if (!answer) {
        answer = kernels[index].usable() ? 2 : 1;
        atomic_store_explicit(&answers[index], answer, memory_order_relaxed);
    }
    return answer == 2;
}

const edgeface_kernel *edgeface_find_kernel(const char *name) {
    for (size_t i = 0; i < KERNELS; i++)
        if ((!name || !strcmp(name, kernels[i].name)) && usable(i)) return &kernels[i];
    return NULL;
}

const char *edgeface_kernel_name(const edgeface_kernel *kernel) { return kernel->name; }

const char *edgeface_compiled_kernel(size_t index) {
    return index < KERNELS ? kernels[index].name : NULL;
}
