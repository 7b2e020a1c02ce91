/* See image.h. */
enum { IMAGE_MIB = 1 };

#include "image/image.h"
