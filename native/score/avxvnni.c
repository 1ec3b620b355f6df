#define EDGEFACE_VNNI
#include "avx2.c"
