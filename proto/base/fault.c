/* fault.c - see fault.h. Safe in programs with threads: the countdown is atomic. */
#include "proto/base/fault.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_once_t fault_once = PTHREAD_ONCE_INIT;
static struct {
    char point[64], action[32];
    atomic_int left; /* passes until it strikes; 0: disarmed */
} fault;

static void fault_init(void)
{
    const char *text = getenv("LONGHAUL_FAULT");
    int n = 1;

    if (!text)
        return;
    if (sscanf(text, "%63[^:]:%d:%31s", fault.point, &n, fault.action) < 2)
        (void)sscanf(text, "%63[^:]:%31s", fault.point, fault.action);
    atomic_store(&fault.left, n > 0 ? n : 1);
}

void lh_fault(const char *point)
{
    int left;

    (void)pthread_once(&fault_once, fault_init);
    left = atomic_load_explicit(&fault.left, memory_order_relaxed);
    if (left <= 0 || strcmp(point, fault.point) != 0 || atomic_fetch_sub(&fault.left, 1) != 1)
        return;
    if (strncmp(fault.action, "sleep", 5) == 0)
        (void)usleep((useconds_t)(atoi(fault.action + 5) * 1000));
    else
        (void)kill(getpid(), strcmp(fault.action, "stop") == 0 ? SIGSTOP : SIGKILL);
}
