/* cgroup.h - a cgroup of its own for each attempt, where we may make one: below ours when it was
 * delegated to us. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Makes the cgroup of an attempt, beside our own processes; its path goes into buf. False: cgroup
 * v2 is not here, or not ours to write to; the attempt is run without. */
bool cgroup_make(const char *job, uint64_t attempt, char *buf, size_t cap);

/* Removes an empty one; false: something is in it still. "" is no cgroup, and gone. */
bool cgroup_remove(const char *path);
