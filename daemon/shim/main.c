/* main.c - longhaul-shim: owns the processes of one attempt on one node, and outlives the daemons.
 *
 * Small on purpose: libc, jansson and a poll() loop; everything it knows is in DIR (spec:
 * node-protocol.md, SHIM-1).
 */
#include "daemon/shim/roles.h"
#include <stdio.h>
#include <string.h>

static const char help[] =
    "longhaul-shim - owns the processes of one attempt on one node\n"
    "\n"
    "Started by longhaul-node and by mpirun, not by people.\n"
    "\n"
    "  longhaul-shim DIR\n"
    "      takes the attempt that DIR/attempt.json describes, waits for its launch on\n"
    "      DIR/control.sock, records its end in DIR/exit.json and DIR/cleaned.json\n"
    "  longhaul-shim --rank DIR -- COMMAND...\n"
    "      runs one rank: its output goes to DIR/logs/rank-N.log, its wait status to\n"
    "      DIR/ranks/rank-N.json; DIR '-' is $LONGHAUL_ATTEMPT_DIR, N is mpirun's\n"
    "  longhaul-shim --agent HOST COMMAND...\n"
    "      in place of ssh: leaves COMMAND for the node of the gang with that address in\n"
    "      DIR/relay; DIR is $LONGHAUL_ATTEMPT_DIR\n"
    "  longhaul-shim --version | --help\n"
    "\n"
    "LONGHAUL_LOG_MAX=BYTES: the most that a rank's log takes (default 67108864).\n"
    "A shim and what it started ends on TERM, as it does when its lease is not renewed.\n";

static int usage(void)
{
    (void)fputs("longhaul-shim: give DIR, --rank or --agent; see longhaul-shim --help\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    if (argc >= 2 && strcmp(argv[1], "--version") == 0)
        return printf("longhaul-shim %s\n", LH_VERSION) < 0;
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return fputs(help, stdout) < 0;
    if (argc >= 5 && strcmp(argv[1], "--rank") == 0 && strcmp(argv[3], "--") == 0)
        return rank_run(argv[2], argv + 4);
    if (argc >= 3 && strcmp(argv[1], "--agent") == 0)
        return agent_run(argc - 2, argv + 2);
    if (argc == 2 && argv[1][0] != '-')
        return shim_run(argv[1]);
    return usage();
}
