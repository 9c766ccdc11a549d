/* Whether pages of a private mapping have been written. */
#ifndef SP_LINK_PAGES_H
#define SP_LINK_PAGES_H

#include <stdbool.h>
#include <stddef.h>

enum sp_pages_way {
  SP_PAGES_SCAN, /* the kernel looks, or as below where it does not do that */
  SP_PAGES_READ  /* it says of each page what it is */
};

/* Whether all of |bytes| at |at|, whole pages of a private mapping of a file,
 * are what the file holds: none has been written since it was mapped. False
 * also where that cannot be found out. */
bool sp_pages_unwritten(const void *at, size_t bytes, enum sp_pages_way way);

#endif
