#define EDGEFACE_DOTPROD
#include "neon.c"
