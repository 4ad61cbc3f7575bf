/* fault.c - see fault.h. */
#include "proto/base/fault.h"
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    bool ready, armed;
    char point[64], action[32];
    unsigned countdown;
} fault;

static void fault_init(void)
{
    const char *text = getenv("LONGHAUL_FAULT");

    fault.ready = true;
    fault.countdown = 1;
    if (!text)
        return;
    fault.armed = true;
    if (sscanf(text, "%63[^:]:%u:%31s", fault.point, &fault.countdown, fault.action) < 2)
        (void)sscanf(text, "%63[^:]:%31s", fault.point, fault.action);
}

void lh_fault(const char *point)
{
    if (!fault.ready)
        fault_init();
    if (!fault.armed || strcmp(point, fault.point) != 0 || --fault.countdown > 0)
        return;
    fault.armed = false;
    if (strncmp(fault.action, "sleep", 5) == 0)
        (void)usleep((useconds_t)(atoi(fault.action + 5) * 1000));
    else
        (void)kill(getpid(), strcmp(fault.action, "stop") == 0 ? SIGSTOP : SIGKILL);
}
