/* See image.h. */
enum { IMAGE_MIB = 32 };

#include "image/image.h"
