/* ship.h - sends an attempt's growing files to the coordinator by offset (NODE-7): journal, logs.
 */
#pragma once
#include "daemon/node/held.h"

struct ship *ship_new(struct held *h); /* NULL when memory is exhausted */
void ship_free(struct ship *s);        /* accepts NULL */

void ship_tick(struct ship *s);          /* sends what is new, one piece at a time */
bool ship_is_done(const struct ship *s); /* everything there is has arrived (or is not wanted) */
void ship_doubt(struct ship *s); /* a new session: what the coordinator has is asked again */
