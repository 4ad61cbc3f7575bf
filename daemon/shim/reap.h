/* reap.h - every process below the shim: finding and killing them, however they were daemonized.
 *
 * The shim is their subreaper, so whatever loses its parent becomes its child and nothing escapes.
 */
#pragma once
#include <stdbool.h>

/* How many processes below us are left. Kills those: first only what is not a longhaul-shim, so
 * that the parents of ranks can record how their ranks ended; with everything true those, too. */
unsigned reap_kill(bool everything);

/* Counts without killing. */
unsigned reap_count(void);
