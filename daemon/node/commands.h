/* commands.h - what the coordinator may ask of a node: one table from names to actions (NODE-8 ...
 * NODE-13). */
#pragma once
#include "daemon/node/node.h"

/* Takes up one command; what it leads to is reported later. An unknown type is logged and dropped.
 */
void commands_take(struct node *n, const json_t *command);

/* `kill` of a registration: {job, attempt} is ended at once and forgotten. */
void commands_kill(struct node *n, const json_t *which);
