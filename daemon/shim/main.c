/* main.c - longhaul-shim: owns the processes of one attempt on one node, and outlives the daemons.
 *
 * Small on purpose: libc, jansson and a poll() loop; everything it knows is in DIR (spec:
 * node-protocol.md, SHIM-1).
 */
#include "daemon/shim/roles.h"
#include <stdio.h>
#include <string.h>

static int usage(void)
{
    (void)fprintf(stderr, "usage: longhaul-shim DIR\n"
                          "       longhaul-shim --rank DIR -- COMMAND...\n"
                          "       longhaul-shim --agent HOST COMMAND...\n"
                          "Started by longhaul-node and by mpirun; see longhaul-shim(1).\n");
    return 2;
}

int main(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "--version") == 0)
        return printf("longhaul-shim %s\n", LH_VERSION) < 0;
    if (argc >= 5 && strcmp(argv[1], "--rank") == 0 && strcmp(argv[3], "--") == 0)
        return rank_run(argv[2], argv + 4);
    if (argc >= 3 && strcmp(argv[1], "--agent") == 0)
        return agent_run(argc - 2, argv + 2);
    if (argc == 2 && argv[1][0] != '-')
        return shim_run(argv[1]);
    return usage();
}
