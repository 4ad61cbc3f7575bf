/* roles.h - the four things this one program does; main.c chooses. Each returns an exit status. */
#pragma once

/* `longhaul-shim DIR`: owns one attempt on this node until no process of it is left. */
int shim_run(const char *dir);

/* `longhaul-shim --rank DIR -- CMD...`: one rank. DIR `-` is $LONGHAUL_ATTEMPT_DIR, which differs
 * from node to node. */
int rank_run(const char *dir, char **command);

/* `longhaul-shim --agent HOST CMD...`: called by mpirun in place of ssh; leaves the command for
 * another node. */
int agent_run(int argc, char **argv);
