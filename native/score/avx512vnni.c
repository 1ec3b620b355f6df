#define EDGEFACE_VNNI
#include "avx512.c"
