/* Which instruction sets this processor has: asked here, once, for scoring and for the graph.
 *
 * A kernel is one C file compiled for one of these sets. What runs by default is the first of its
 * part's table that is usable; a name from the environment (EDGEFACE_KERNEL) chooses another.
 */
#ifndef EDGEFACE_DISPATCH_H
#define EDGEFACE_DISPATCH_H

/* Best first. On x86-64 every set but the scalar one contains AVX2. */
typedef enum {
    EDGEFACE_AVX512VNNI,
    EDGEFACE_AVX512,
    EDGEFACE_AVXVNNI,
    EDGEFACE_AVX2,
    EDGEFACE_NEONDOT,
    EDGEFACE_NEON,
    EDGEFACE_SCALAR,
    EDGEFACE_INSTRUCTION_SETS
} edgeface_instructions;

/* avx512vnni avx512 avxvnni avx2 neondot neon scalar; NULL past the last. */
const char *edgeface_instructions_name(edgeface_instructions set);

/* Whether code for the set was compiled into this build. */
int edgeface_compiled(edgeface_instructions set);

/* Whether it was compiled, the processor has it, and the operating system saves its registers. */
int edgeface_usable(edgeface_instructions set);

/* The best usable set, or the named one; EDGEFACE_INSTRUCTION_SETS if it cannot run here. */
edgeface_instructions edgeface_find_instructions(const char *name_or_null);

#endif
