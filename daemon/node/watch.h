/* watch.h - looks at one attempt's directory and tells the coordinator what is new. */
#pragma once
#include "daemon/node/held.h"

/* False when the attempt was forgotten and nothing of it is left here: the entry may be freed. */
bool watch_tick(struct held *h);
