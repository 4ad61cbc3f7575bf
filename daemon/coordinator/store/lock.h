/* lock.h - one longhauld a state directory: flock on STATE/lock. Within store/. */
#pragma once
#include "proto/base/attr.h"
#include "proto/base/err.h"

/* Makes dir, refuses network file systems, takes the lock and writes the pid. -EBUSY names the holder's pid. */
LH_MUST_CHECK int lock_take(const char *dir, int *ret_fd, struct lh_err *reterr);
